"""From an audit's figures to its verdicts: multiplicity, seeds, the benign control, and agreement of two measures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from llm_persona.analysis.agreement import matrix_agreement
from llm_persona.analysis.paired import perplexity_ratio
from llm_persona.analysis.shift import ALPHA, MULTIPLICITY, RULE, Moved, spread, verdict
from llm_persona.analysis.stats import holm

if TYPE_CHECKING:
    from llm_persona.studies.audit import TunedModel


def summarise_audit(
    base: str,
    models: Sequence[TunedModel],
    traits: dict[str, dict[str, Any]],
    quality: Mapping[str, Mapping[str, Any]],
    provenance: dict[str, Any],
) -> dict[str, Any]:
    """Add adjusted p-values and verdicts to each trait's figures, and what speaks of all of them together."""
    found_all = [traits[name]["tuned"][m.name] for name in traits for m in models]
    cells = sum(f["p_value"] is not None for f in found_all)
    _adjust(found_all, "p_value", "p_holm")
    _adjust(found_all, "score_p_value", "score_p_holm")
    _adjust([f["projection"] for f in found_all], "both_p_value", "both_p_holm")
    groups: dict[str, list[TunedModel]] = {}
    for model in models:
        groups.setdefault(model.group, []).append(model)
    controls = [m.name for m in models if m.control]
    by_group: dict[str, Any] = {}
    for group, members in groups.items():
        is_control = any(m.control for m in members)
        by_group[group] = {"models": [m.name for m in members], "control": is_control, "traits": {}}
        for name, trait in traits.items():
            found = [trait["tuned"][m.name] for m in members]
            scored = [f for f in found if f.get("p_holm") is not None]
            against = [
                trait["tuned"][c]["preference_shift"]
                for c in controls
                if trait["tuned"][c]["preference_shift"] is not None
            ]
            said = (
                verdict(
                    [Moved(f["preference_shift"], f["p_holm"]) for f in scored],
                    None if is_control or not controls else against,
                )
                if scored and len(scored) == len(found)
                else "no shift shown"
            )
            entry = {
                "verdict": said,
                "preference_shift": spread([f["preference_shift"] for f in scored]) if scored else None,
                "score_shift": spread([f["score_shift"] for f in scored]) if scored else None,
                "projection": _spread_of(found, trait["pole_gap"]),
                "interval": _intervals(found, trait["pole_gap"]),
                "control": {"n": len(against), "largest": max(map(abs, against))} if against else None,
            }
            by_group[group]["traits"][name] = entry
            for f in found:
                f["verdict"] = said
    start = quality["base"]["perplexity"]
    costs = {m.name: perplexity_ratio(quality[m.name]["rows"], quality["base"]["rows"]) for m in models}
    return {
        "base": base,
        "rule": RULE,
        "multiplicity": MULTIPLICITY,
        "traits": traits,
        "tuned": {
            m.name: {
                "group": m.group,
                "adapter": m.adapter,
                "model": m.model,
                "control": m.control,
                "perplexity": quality[m.name]["perplexity"],
                "perplexity_ratio": costs[m.name]["ratio"],
                "perplexity_ratio_ci": costs[m.name]["ci"],
            }
            for m in models
        },
        "base_perplexity": start,
        "groups": by_group,
        "matrix": _matrix(by_group, traits),
        "agreement": _agreement(groups, traits),
        "sentences": [*_sentences(by_group), *_too_few(cells, traits)],
        "provenance": provenance,
    }


def _adjust(found: Sequence[dict[str, Any]], raw: str, adjusted: str) -> None:
    """Holm's correction over all cells that have a p-value; the others get None."""
    known = [f for f in found if f[raw] is not None]
    for f in found:
        f[adjusted] = None
    for f, p in zip(known, holm([f[raw] for f in known]) if known else [], strict=True):
        f[adjusted] = p


def _intervals(found: Sequence[Mapping[str, Any]], gap: float) -> dict[str, Any]:
    """The intervals of a fine-tuning's mean shifts (preference as a share, projection in pole gaps) and what they are
    over: seeds, or with one seed the items and questions, which say nothing of another seed."""
    if len(found) == 1:
        ends = found[0]["projection"]["both_ci"]
        shown = [None if end is None or not gap else end / gap for end in ends]
        return {"preference": found[0]["preference_shift_ci"], "projection": shown, "over": "items"}
    scored = [f["preference_shift"] for f in found if f["preference_shift"] is not None]
    read = _spread_of(found, gap)
    return {
        "preference": spread(scored)["ci"] if scored else [None, None],
        "projection": read["ci"] if read else [None, None],
        "over": "seeds",
    }


def _spread_of(found: Sequence[Mapping[str, Any]], gap: float) -> dict[str, Any] | None:
    values = [f["projection"]["both"] for f in found if f["projection"]["both"] is not None]
    return spread([v / gap for v in values]) if values and gap else None


def _matrix(groups: Mapping[str, Any], traits: Mapping[str, Any]) -> dict[str, Any]:
    """Fine-tuning x trait: mean preference shift in points, and mean projection shift of own answers in pole gaps."""

    def cell(group: str, name: str, what: str, factor: float) -> float | None:
        entry = groups[group]["traits"][name][what]
        return None if entry is None else factor * entry["mean"]

    def ends(group: str, name: str, what: str, factor: float) -> list[float | None]:
        return [None if end is None else factor * end for end in groups[group]["traits"][name]["interval"][what]]

    return {
        "rows": list(groups),
        "columns": list(traits),
        "preference_points": [[cell(g, t, "preference_shift", 100.0) for t in traits] for g in groups],
        "preference_points_ci": [[ends(g, t, "preference", 100.0) for t in traits] for g in groups],
        "projection_pole_gaps": [[cell(g, t, "projection", 1.0) for t in traits] for g in groups],
        "projection_pole_gaps_ci": [[ends(g, t, "projection", 1.0) for t in traits] for g in groups],
        "intervals_over": ["items" if len(groups[g]["models"]) == 1 else "seeds" for g in groups],
        "verdicts": [[groups[g]["traits"][t]["verdict"] for t in traits] for g in groups],
    }


def _too_few(cells: int, traits: Mapping[str, Any]) -> list[str]:
    """A warning where no shift could pass: the smallest p-value of a sign-flip test over n pairs is 2^(1-n)."""
    n = min((f["n"] for t in traits.values() for f in t["tuned"].values()), default=0)
    if not cells or cells * 2.0 ** (1 - n) < ALPHA:
        return []
    return [f"With {n} items no single shift of {cells} compared can be clear of zero: measure more items."]


def _agreement(groups: Mapping[str, Sequence[TunedModel]], traits: Mapping[str, Any]) -> dict[str, Any]:
    """Rank correlation of activation shift and behavioural shift over fine-tunings x traits, means over seeds (seeds of
    one fine-tuning are not independent of one another)."""

    def table(read: Any) -> np.ndarray:
        cells = [
            [[read(t, t["tuned"][m.name]) for m in members] for t in traits.values()] for members in groups.values()
        ]
        return np.array([[_mean(values) for values in row] for row in cells], dtype=np.float64)

    behaviour = table(lambda _t, f: np.nan if f["preference_shift"] is None else f["preference_shift"])
    found = {}
    for part in ("both", "author", "reader", "fixed_texts"):
        values = table(
            lambda t, f, part=part: np.nan if f["projection"][part] is None else f["projection"][part] / t["pole_gap"]
        )
        found[part] = matrix_agreement(values, behaviour)
    return found


def _mean(values: Sequence[float]) -> float:
    known = [v for v in values if np.isfinite(v)]
    return float(np.mean(known)) if known else float("nan")


def _bracket(entry: Mapping[str, Any]) -> str:
    """The interval of a shift that is told without its sign."""
    low, high = entry["interval"]["preference"]
    if low is None or high is None:
        return f" (no interval over {entry['preference_shift']['n_seeds']} seeds)"
    turned = (low, high) if entry["preference_shift"]["mean"] > 0 else (-high, -low)
    return f" ({100 * turned[0]:.1f} to {100 * turned[1]:.1f} over {entry['interval']['over']})"


def _sentences(groups: Mapping[str, Any]) -> list[str]:
    """One sentence a fine-tuning, from its verdicts."""
    lines = []
    for group, g in groups.items():
        seeds = len(g["models"])
        title = f"{group} ({'benign control, ' if g['control'] else ''}{seeds} seed{'s' if seeds > 1 else ''})"
        moved = [
            f"{name} {entry['verdict'].rpartition(' ')[2]} by {abs(100 * entry['preference_shift']['mean']):.1f} points"
            + _bracket(entry)
            + (" (indicative)" if entry["verdict"].startswith("indicative") else "")
            for name, entry in g["traits"].items()
            if entry["verdict"].startswith(("shifted", "indicative"))
        ]
        rest = [name for name, entry in g["traits"].items() if not entry["verdict"].startswith(("shifted", "indic"))]
        said = "; ".join(moved) if moved else "no trait moved by the rule"
        lines.append(f"{title}: {said}" + (f". Not shown for: {', '.join(rest)}." if moved and rest else "."))
    return lines

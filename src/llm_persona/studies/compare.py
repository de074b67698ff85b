"""Measurements side by side: several models or conditions, now or from files on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llm_persona.analysis.paired import paired_shift
from llm_persona.analysis.stats import holm
from llm_persona.domain.errors import UserError
from llm_persona.domain.formats import version_in
from llm_persona.domain.store import read_json
from llm_persona.studies.report import read_results

SHOWN = ("n", "n_unscored", "score", "score_ci", "preference", "preference_ci", "option_mass", "order_consistency",
         "headroom")  # fmt: skip


def read_runs(path: str | Path) -> list[dict[str, Any]]:
    """What a file or run folder holds, as results of `evaluate`: one entry a model and condition.

    Raises:
        UserError: no such file, or neither the JSON of `evaluate` nor a run.
    """
    place = Path(path)
    if place.is_dir():
        return study_runs(read_results(place), place.name)
    found = read_json(place, "result")
    kind = str(found.get("format", "")) if isinstance(found, dict) else ""
    if kind.startswith("llm-persona.results."):
        version_in(kind, "results", place)
        return study_runs(found, place.parent.name)
    if kind:
        version_in(kind, "evaluation", place)
    runs = found.get("runs") if isinstance(found, dict) and "runs" in found else [found]
    if not isinstance(runs, list) or not all(_is_result(run) for run in runs):
        raise UserError(f"{place}: neither the JSON of `evaluate` nor a run's results.json")
    return [{"label": label_of(run), **run} for run in runs]


def _is_result(run: Any) -> bool:
    return (
        isinstance(run, dict)
        and isinstance(run.get("traits"), dict)
        and isinstance(run.get("condition"), dict)
        and all(isinstance(t, dict) and "score" in t for t in run["traits"].values())
    )


def study_runs(results: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """The conditions of a study: base, instructed and tuned."""
    found = []
    for condition in ("base", "instructed high", "instructed low", "tuned high", "tuned low"):
        traits = {trait: _place(entry, condition) for trait, entry in results["traits"].items()}
        if all(traits.values()):
            found.append(
                {
                    "label": f"{name}: {condition}",
                    "model": results["model"],
                    "mode": "likelihood",
                    "condition": {"name": condition},
                    "traits": traits,
                }
            )
    return found


def _place(trait: dict[str, Any], condition: str) -> Any:
    """A condition's measurements within a trait's results; None if it was not measured."""
    kind, _, pole = condition.partition(" ")
    return trait["baseline"] if kind == "base" else trait[kind].get(pole)


def label_of(run: dict[str, Any]) -> str:
    """Model and condition."""
    return f"{run['model']}, {run['condition'].get('name', 'base')}, {run.get('mode', 'likelihood')}"


def compare(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The runs' figures side by side, and each run's difference from the first, paired by item.

    `p_holm` is adjusted over all differences of the comparison. Where two runs did not ask the same items (or keep
    no rows) there is no difference, and `n` is 0.

    Raises:
        UserError: fewer than two runs.
    """
    if len(runs) < 2:
        raise UserError("a comparison needs at least two results; give another file, --model, --instruct or --adapter")
    labels = _distinct([str(run.get("label") or label_of(run)) for run in runs])
    shown = [
        {
            "label": label,
            "model": run["model"],
            "mode": run.get("mode"),
            "condition": run["condition"],
            "traits": {name: {k: trait.get(k) for k in SHOWN} for name, trait in run["traits"].items()},
        }
        for label, run in zip(labels, runs, strict=True)
    ]
    differences: dict[str, dict[str, Any]] = {}
    first = runs[0]["traits"]
    for label, run in list(zip(labels, runs, strict=True))[1:]:
        differences[label] = {
            name: paired_shift(trait.get("rows", []), first[name].get("rows", []))
            for name, trait in run["traits"].items()
            if name in first
        }
    tested = [d for traits in differences.values() for d in traits.values() if d["n"] and d["p_value"] is not None]
    for entry, adjusted in zip(tested, holm([d["p_value"] for d in tested]), strict=True):
        entry["p_holm"] = adjusted
    return {"runs": shown, "against": labels[0], "differences": differences}


def _distinct(labels: list[str]) -> list[str]:
    return [label if labels.count(label) == 1 else f"{label} ({n + 1})" for n, label in enumerate(labels)]

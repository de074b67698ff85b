"""What a study of every trait says of the original claims: each confirmed, refuted or open, by a printed rule.

A claim about every trait is confirmed where each trait's interval shows it, refuted where some trait's interval shows
the contrary, and open otherwise; the counts stand in the figure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from pages import number, span, with_interval

from llm_persona.analysis.agreement import matrix_agreement
from llm_persona.analysis.stats import holm, mean_estimate

CONFIRMED, REFUTED, OPEN = "confirmed", "refuted", "open"
ADDITIVE = 2.0
"""Points of preference: how far from the sum of two effects the effect of both may lie and still count as it."""

Sides = tuple[bool, bool]
"""Whether an interval shows the claim, and whether it shows the contrary."""


def at_layer(trait: dict[str, Any]) -> dict[str, Any]:
    return trait["vector"]["layers"][trait["vector"]["recommended"]["balanced"]]


def above(ci: Sequence[float | None] | None, bound: float | None) -> Sides:
    """The whole interval above the bound; the whole interval below it."""
    if not ci or bound is None or ci[0] is None or ci[1] is None:
        return False, False
    return ci[0] > bound, ci[1] < bound


def below(ci: Sequence[float | None] | None, bound: float | None) -> Sides:
    under, over = above(ci, bound)[::-1]
    return under, over


def aimed(value: float | None, ci: Sequence[float | None], least: float) -> str:
    """A single figure that should be at least so large."""
    if value is None:
        return OPEN
    return CONFIRMED if value >= least else REFUTED if below(ci, least)[0] else OPEN


def every(claim: str, sides: Iterable[Sides], figure: str) -> list[str]:
    """A row of the table about several traits (or pairs)."""
    found = list(sides)
    shown, against = (sum(side[k] for side in found) for k in (0, 1))
    verdict = OPEN if not found else CONFIRMED if shown == len(found) else REFUTED if against else OPEN
    count = f"shown for {shown} of {len(found)}" + (f", the contrary for {against}" if against else "")
    return [claim, verdict, f"{count}; {figure}" if figure else count]


def listed(traits: dict[str, Any], say: Callable[[dict[str, Any]], str]) -> str:
    return ", ".join(f"{name} {say(trait)}" for name, trait in traits.items())


def reading_claims(traits: dict[str, Any]) -> list[list[str]]:
    carried = {k: t for k, t in traits.items() if t["vector"]["controls"]["transfer"]}

    def other(trait: dict[str, Any]) -> dict[str, Any]:
        return trait["vector"]["controls"]["transfer"]

    def differences(trait: dict[str, Any]) -> list[dict[str, Any]]:
        return list(trait["vector"]["bands"]["middle"]["auc_less"].values())

    def middle(trait: dict[str, Any]) -> Sides:
        found = [above(d["ci"], 0) for d in differences(trait)]
        return bool(found) and all(f[0] for f in found), any(f[1] for f in found)

    steered = {k: t for k, t in traits.items() if t["vector"]["read_against_steer"]["spearman"] is not None}
    return [
        every("Linear separability: a trait is read off one direction (AUC interval above .8, own held-out items)",
              [above(at_layer(t)["auc_ci"], 0.8) for t in traits.values()],
              listed(traits, lambda t: with_interval(at_layer(t)["auc"], at_layer(t)["auc_ci"]))),
        every("... and on another author's items (AUC interval above .8)",
              [above(other(t)["auc_ci"], 0.8) for t in carried.values()],
              listed(carried, lambda t: with_interval(other(t)["auc"], other(t)["auc_ci"]))),
        every("... beyond words (AUC interval above the AUC of a bag of words, on another author's items)",
              [above(other(t)["auc_ci"], other(t)["lexical_auc"]) for t in carried.values()],
              "bag of words " + listed(carried, lambda t: with_interval(other(t)["lexical_auc"],
                                                                         other(t)["lexical_auc_ci"]))),
        every("Layer profile: read best in the middle third (interval of its mean AUC less early's and late's above 0)",
              [middle(t) for t in traits.values()],
              "best-read layers " + listed(traits, lambda t: str(t["vector"]["recommended"]["quality"]))),
        every("A layer that is read well steers well (interval of the rank correlation over swept layers above 0)",
              [above(t["vector"]["read_against_steer"]["spearman_ci"], 0) for t in steered.values()],
              listed(steered, lambda t: with_interval(t["vector"]["read_against_steer"]["spearman"],
                                                      t["vector"]["read_against_steer"]["spearman_ci"]))
              + "; layers of largest effect "
              + listed(traits, lambda t: str(t["vector"]["recommended"]["effect"]))),
    ]  # fmt: skip


def random_share(trait: dict[str, Any]) -> list[float | None]:
    """Mean absolute movement by random directions, and its interval over them, as shares of what the vector does at
    the same dose."""
    dose = trait["controls"]["dose"]
    own = next((p["shift"]["preference_shift"] for p in trait["steering"] if p["dose"] == dose), None)
    moved = [abs(r["preference_shift"]) for r in trait["controls"]["random"] if r["preference_shift"] is not None]
    if not own or not moved:
        return [None, None, None]
    found = mean_estimate(np.array(moved) / abs(own))
    return [found.value, found.low, found.high]


def written_at_ends(trait: dict[str, Any]) -> list[tuple[float, dict[str, Any]]]:
    """Dose and shift of the answers' projection at the usable ends."""
    ends = trait["dose_response"]["usable_range"]
    return [(p["dose"], p["written"]) for p in trait["steering"] if p["dose"] in ends and p.get("written")]


def _writes(trait: dict[str, Any]) -> Sides:
    sides = [(above if dose > 0 else below)(w["shift_in_pole_gaps_ci"], 0) for dose, w in written_at_ends(trait)]
    return bool(sides) and all(s[0] for s in sides), any(s[1] for s in sides)


def _written(trait: dict[str, Any]) -> str:
    return " and ".join(
        with_interval(w["shift_in_pole_gaps"], w["shift_in_pole_gaps_ci"]) for _, w in written_at_ends(trait)
    )


def steering_claims(results: dict[str, Any]) -> list[list[str]]:
    traits, spread = results["traits"], results["specificity"]
    ratios, ends = spread.get("ratio", {}), spread.get("ratio_ci") or {}
    shares = {k: random_share(t) for k, t in traits.items()}
    return [
        every("Controllability: preference follows the dose (interval of the slope above 0)",
              [above(t["dose_response"]["slope_ci"], 0) for t in traits.values()],
              "points per .1 dose: " + listed(traits, lambda t: with_interval(
                  t["dose_response"]["slope"], t["dose_response"]["slope_ci"], 1, 0.1))),
        every("... and not by any direction (random ones move it by less than a quarter as far, by their interval)",
              [below(s[1:], 0.25) for s in shares.values()],
              ", ".join(f"{k} {with_interval(s[0], s[1:])}" for k, s in shares.items())),
        every("... and in what it writes (intervals of the written shift clear of 0 at both usable ends, as aimed)",
              [_writes(t) for t in traits.values()], "pole gaps: " + listed(traits, _written)),
        every("Linearity in the strength (interval of the departure from a line below .1)",
              [below(t["dose_response"]["departure_ci"], 0.1) for t in traits.values()],
              listed(traits, lambda t: with_interval(t["dose_response"]["departure"],
                                                     t["dose_response"]["departure_ci"]))),
        every("Specificity: other traits move less than half as far as the steered one (interval of others / own)",
              [below(ends.get(k), 0.5) for k in ratios],
              ", ".join(f"{k} {with_interval(r, ends.get(k))}" for k, r in ratios.items())),
    ]  # fmt: skip


def geometry_claims(results: dict[str, Any]) -> list[list[str]]:
    arithmetic = results["arithmetic"] or {"pairs": [], "shared": {}}
    excess = [m for p in arithmetic["pairs"] for m in p["measured"].values() if m["excess"] is not None]
    adjusted = holm([m["p_value"] for m in excess]) if excess else []
    sizes = [abs(m["excess"]) for m in excess] or [0.0]

    def adds(m: dict[str, Any], p: float) -> Sides:
        low, high = m["excess_ci"]
        return p >= 0.05 and low is not None and low > -ADDITIVE and high < ADDITIVE, p < 0.05

    return [
        every(f"Geometry: the effect of two vectors is the sum of their effects (excess not clear of 0, Holm, and its "
              f"interval within {ADDITIVE:g} points)",
              [adds(m, p) for m, p in zip(excess, adjusted, strict=True)],
              f"absolute excess {min(sizes):.1f} to {max(sizes):.1f} points"),
        every("Geometry: removing what all vectors share makes each more specific (interval of the change of "
              "others / own below 0, same items)",
              [below(x["ratio_difference_ci"], 0) for x in arithmetic["shared"].values()],
              ", ".join(f"{k} {with_interval(x['ratio_difference'], x['ratio_difference_ci'])}"
                        for k, x in arithmetic["shared"].items())),
    ]  # fmt: skip


def agreement(traits: dict[str, Any], part: str) -> dict[str, Any]:
    """Activation shift against behavioural shift over tuned adapters x their own trait."""
    tuned = [[t["tuned"][p] for p in ("high", "low")] for t in traits.values()]
    gaps = [t["tuned"]["high"]["projection"]["pole_gap"] for t in traits.values()]
    a = np.array([[x["projection"][part]["mean"] / gap for x in row] for row, gap in zip(tuned, gaps, strict=True)])
    b = np.array([[x["shift"]["preference_shift"] for x in row] for row in tuned], dtype=float)
    return matrix_agreement(a, b)


def audit_claims(traits: dict[str, Any]) -> list[list[str]]:
    if not all(t["tuned"] for t in traits.values()):
        return []
    both, author = agreement(traits, "both"), agreement(traits, "author")
    shown, against = above(both["spearman_ci"], 0)
    return [[
        "Auditability: activations tell what tuning did to behaviour (interval of the rank correlation above 0)",
        CONFIRMED if shown else REFUTED if against else OPEN,
        f"{both['n']} adapters, own traits: {with_interval(both['spearman'], both['spearman_ci'])}; base reading the "
        f"tuned answers alone {with_interval(author['spearman'], author['spearman_ci'])}; one seed each",
    ]]  # fmt: skip


def third_party_claims(transfer: dict[str, Any]) -> list[list[str]]:
    words = f"bag of words {with_interval(transfer['lexical_auc'], transfer['lexical_auc_ci'], 3)}, n {transfer['n']}"
    rows = [[
        "Third-party openness items, vector of our items alone, recommended layer: AUC at least .95, family-wise p "
        "below .01",
        REFUTED if transfer["p_family"] >= 0.01 else aimed(transfer["auc"], transfer["auc_ci"], 0.95),
        f"layer {transfer['layer']}: {with_interval(transfer['auc'], transfer['auc_ci'], 3)}, family-wise p "
        f"{transfer['p_family']:.3f}, within questions {number(transfer['auc_within'], 3)}, {words}",
    ]]  # fmt: skip
    ends = transfer.get("ends")
    if ends:
        rows.append([
            "... usable doses whose ends differ by at least 35 points of score",
            aimed(ends["score_shift"], ends["score_shift_ci"], 35.0),
            f"doses {ends['doses'][0]:+g} and {ends['doses'][1]:+g}: "
            f"{with_interval(ends['score_shift'], ends['score_shift_ci'], 1)} points",
        ])  # fmt: skip
    if ends and transfer["random"]:
        moved = mean_estimate(np.abs(transfer["random"]))
        shown, against = below(moved.ci, ends["score_shift"] / 4)
        rows.append([
            "... of which random directions move less than a quarter (by their interval)",
            CONFIRMED if shown else REFUTED if against else OPEN,
            f"{len(transfer['random'])} directions, mean absolute {with_interval(moved.value, moved.ci, 1)} points",
        ])  # fmt: skip
    return rows


def claims(results: dict[str, Any], transfer: dict[str, Any] | None) -> list[list[str]]:
    """Rows of the table: claim with its rule, verdict, figure."""
    return [
        *reading_claims(results["traits"]),
        *(third_party_claims(transfer) if transfer else []),
        *steering_claims(results),
        *geometry_claims(results),
        *audit_claims(results["traits"]),
    ]


def spans(row: dict[str, Any], key: str, digits: int = 2) -> str:
    """A figure of a row of results with the interval that lies beside it."""
    return f"{number(row[key], digits)} {span(row.get(f'{key}_ci'), digits)}"

"""Sentences derived from a study's own numbers; where the evidence is absent they say so."""

from __future__ import annotations

from typing import Any

ALPHA = 0.05


def findings(results: dict[str, Any]) -> list[dict[str, Any]]:
    """One entry a claim: `trait`, `claim`, `text`, and `evidence` ("shown", "absent" or "mixed").

    Every number in a sentence is taken from `results`; which sentence is written follows from intervals
    and nulls, never from the point estimate alone.
    """
    found = []
    for name, trait in results["traits"].items():
        if trait["baseline"]["score"] is None:
            text = f"Not one of {trait['baseline']['n']} items could be scored, so nothing is said of this trait."
            found.append({"trait": name, "claim": "baseline", "text": text, "evidence": "absent"})
            continue
        for claim in (_baseline, _representation, _control, _writing, _instruction, _tuning):
            entry = claim(trait)
            if entry is not None:
                text, evidence = entry
                found.append({"trait": name, "claim": claim.__name__[1:], "text": text, "evidence": evidence})
    return found


def number(value: float | None, digits: int = 2) -> str:
    """A number for reading; a dash where there is none."""
    return "not measured" if value is None else f"{value:.{digits}f}"


def interval(ci: list[float | None], digits: int = 2) -> str:
    """An interval for reading."""
    if ci[0] is None or ci[1] is None:
        return "no interval"
    return f"95% interval {ci[0]:.{digits}f} to {ci[1]:.{digits}f}"


def _clear(ci: list[float | None], p_value: float | None = 0.0) -> bool:
    """Clear of zero by its interval and, where there is one, by its p-value (few pairs can have the one alone)."""
    if p_value is None or p_value >= ALPHA:
        return False
    return ci[0] is not None and ci[1] is not None and (ci[0] > 0 or ci[1] < 0)


def _baseline(trait: dict[str, Any]) -> tuple[str, str]:
    base = trait["baseline"]
    text = (
        f"Left alone, the model prefers a high answer in {number(base['score'], 0)}% of "
        f"{base['n'] - base['n_unscored']} held-out items ({interval(base['score_ci'], 0)})."
    )
    if base["headroom"] is False:
        text += " There is little headroom: shifts toward the nearer end cannot show."
    return text, "shown"


def _representation(trait: dict[str, Any]) -> tuple[str, str]:
    vector = trait["vector"]
    layer = vector["recommended"]["balanced"]
    row = vector["layers"][layer]
    lexical = vector["controls"]["lexical_auc"]
    text = (
        f"At layer {layer} the vector tells high from low responses to {vector['n_groups']} unseen questions with AUC "
        f"{number(row['auc'])} ({interval(row['auc_ci'])}; family-wise p = {row['p_family']:.2g}); "
        f"a bag of words reaches {number(lexical)}."
    )
    if row["p_family"] >= ALPHA:
        return text + " This is not distinguishable from chance.", "absent"
    if lexical is not None and lexical >= row["auc_ci"][0]:
        words = " That is within the vector's interval or above: the AUC alone shows no more than vocabulary."
        return text + words, "mixed"
    return text, "shown"


def _control(trait: dict[str, Any]) -> tuple[str, str]:
    response, controls = trait["dose_response"], trait["controls"]
    if response["slope"] is None:
        return "The response to steering was not measured at enough doses.", "absent"
    low, high = response["usable_range"]
    points = {p["dose"]: p for p in trait["steering"]}
    text = (
        f"Preference for high answers moves by {number(response['slope'] / 10, 1)} points per tenth of a dose "
        f"({interval([c / 10 if c is not None else None for c in response['slope_ci']], 1)}); text stays usable "
        f"from dose {low:+g} to {high:+g}"
    )
    ends = [points[d]["score"] for d in (low, high) if d in points and points[d]["score"] is not None]
    if len(ends) == 2:
        text += f", where the score is {number(ends[0], 0)}% and {number(ends[1], 0)}%"
    dose = controls["dose"]
    moved = next((abs(p["shift"]["preference_shift"]) for p in trait["steering"] if p["dose"] == dose), None)
    random = controls["random_preference_movement"]
    if moved is not None and random is not None:
        text += (
            f". At dose {dose:+g} the vector moves preference by {100 * moved:.1f} points, "
            f"{controls['n_random']} random directions of the same norm by {100 * random:.1f} on average"
        )
    if not _clear(response["slope_ci"]):
        return text + ". The slope's interval does not exclude zero: control is not shown.", "absent"
    if response["slope"] <= 0:
        return text + ". That is the wrong direction: the vector does not control the trait as its poles say.", "absent"
    if moved is None or random is None:
        return text + ". No random direction was measured at the same dose: the effect has no control.", "mixed"
    if moved <= 2 * random:
        return (
            text + ". That is less than twice the random movement: the effect is not specific to the vector.",
            "mixed",
        )
    return text + ".", "shown"


def _writing(trait: dict[str, Any]) -> tuple[str, str] | None:
    points = [p for p in trait["steering"] if p.get("written")]
    low, high = trait["dose_response"]["usable_range"]
    inside = [p for p in points if low <= p["dose"] <= high]
    if not inside:
        return "No usable dose was found, so nothing is said of steered writing.", "absent"
    ends = [
        max((p for p in inside if p["dose"] > 0), key=lambda p: p["dose"], default=None),
        min((p for p in inside if p["dose"] < 0), key=lambda p: p["dose"], default=None),
    ]
    parts, clear = [], []
    for point in ends:
        if point is not None:
            written = point["written"]
            parts.append(
                f"{number(written['shift_in_pole_gaps'])} pole gaps at dose {point['dose']:+g} "
                f"({interval(written['shift_in_pole_gaps_ci'])}, n = {written['n']})"
            )
            right = (written["shift_in_pole_gaps"] or 0) * point["dose"] > 0
            clear.append(right and _clear(written["shift_in_pole_gaps_ci"], written["p_value"]))
    text = "Read by the unsteered model with a vector from other items, steered answers shift by " + " and ".join(parts)
    if all(clear):
        return text + ".", "shown"
    return text + "; not every shift is clear of zero in the right direction.", "mixed" if any(clear) else "absent"


def _instruction(trait: dict[str, Any]) -> tuple[str, str]:
    parts, clear = [], []
    for pole, sign in (("high", 1), ("low", -1)):
        shift = trait["instructed"][pole]["shift"]
        parts.append(f"{number(100 * shift['preference_shift'], 1)} points ({pole})")
        right = shift["preference_shift"] * sign > 0
        clear.append(right and _clear(shift["preference_shift_ci"], shift["p_value"]))
    text = f"A system prompt moves preference by {' and '.join(parts)}"
    if all(clear):
        return text + ", both clear of zero.", "shown"
    if any(clear):
        return text + "; only one of them is clear of zero in the right direction.", "mixed"
    return text + "; neither is clear of zero in the right direction.", "absent"


def _tuning(trait: dict[str, Any]) -> tuple[str, str] | None:
    if not trait.get("tuned"):
        return None
    parts, clear = [], []
    for pole, sign in (("high", 1), ("low", -1)):
        row = trait["tuned"][pole]
        shift = row["shift"]
        parts.append(
            f"to the {pole} pole: score {number(shift['score_shift'], 0)} points, preference "
            f"{number(100 * shift['preference_shift'], 1)} points "
            f"({interval([None if c is None else 100 * c for c in shift['preference_shift_ci']], 1)})"
        )
        clear.append(shift["preference_shift"] * sign > 0 and _clear(shift["preference_shift_ci"], shift["p_value"]))
    text = f"Fine-tuning {'; '.join(parts)}. One seed each: indicative"
    return text + ".", "shown" if all(clear) else "mixed" if any(clear) else "absent"

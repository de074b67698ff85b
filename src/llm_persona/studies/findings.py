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


def headline(results: dict[str, Any]) -> list[str]:
    """The answer to the report's question in three sentences: how the model stands, where that lives, how far it moves.

    One or two traits are named each; of more, the ends are.
    """
    traits = {n: t for n, t in results["traits"].items() if t["baseline"]["score"] is not None}
    if not traits:
        return ["No item could be scored, so nothing can be said of this model."]
    return [_stands(traits), _lives(traits), _moves(traits)]


def _brackets(ci: list[float | None], digits: int = 2) -> str:
    """A 95% interval in brackets."""
    if ci[0] is None or ci[1] is None:
        return "[no interval]"
    return f"[{number(ci[0], digits)}, {number(ci[1], digits)}]"


def _ends(values: dict[str, float]) -> list[str]:
    """All names of up to two, else the lowest and the highest."""
    ranked = sorted(values, key=lambda name: values[name])
    return list(values) if len(values) < 3 else [ranked[0], ranked[-1]]


def _stands(traits: dict[str, Any]) -> str:
    shown = _ends({name: t["baseline"]["score"] for name, t in traits.items()})
    parts = [
        f"{number(base['score'], 0)}% {_brackets(base['score_ci'], 0)} of {base['n'] - base['n_unscored']} {name} items"
        for name in shown
        for base in [traits[name]["baseline"]]
    ]
    if len(traits) < 3:
        return f"Left alone, the model prefers the high answer in {' and in '.join(parts)}."
    return f"Left alone, the model prefers the high answer in {' (the fewest) to '.join(parts)} (the most)."


def _lives(traits: dict[str, Any]) -> str:
    rows = {n: t["vector"]["layers"][t["vector"]["recommended"]["balanced"]] for n, t in traits.items()}
    told = {n for n, row in rows.items() if row["p_family"] < ALPHA}
    parts = [f"{n} at layer {rows[n]['layer']} (AUC {number(rows[n]['auc'])} {_brackets(rows[n]['auc_ci'])})"
             for n in _ends({n: row["auc"] for n, row in rows.items()})]  # fmt: skip
    if not told:
        return f"No direction that separates the poles of unseen questions was found: {' and '.join(parts)}."
    count = "" if len(told) == len(rows) else f" for {len(told)} of {len(rows)} traits"
    lexical = {n: traits[n]["vector"]["controls"]["lexical_auc"] for n in rows}
    words = [n for n in rows if lexical[n] is not None and lexical[n] >= rows[n]["auc_ci"][0]]
    text = f"A direction tells high from low answers to unseen questions{count}: " + " and ".join(parts)
    if not words:
        return text + ", better than a bag of words."
    which = "but a bag of words does" if len(rows) == 1 else (
        "but a bag of words does for each of them" if len(words) == len(rows) else
        f"but for {len(words)} of {len(rows)} traits a bag of words does"
    )  # fmt: skip
    return f"{text}; {which} about as well, so this alone shows no more than vocabulary."


def _moves(traits: dict[str, Any]) -> str:
    slopes = {n: t["dose_response"]["slope"] for n, t in traits.items() if t["dose_response"]["slope"] is not None}
    if not slopes:
        return "The response to steering was not measured at enough doses."
    shown = {n: _control(traits[n])[1] == "shown" for n in slopes}
    parts = []
    for name in _ends(slopes):
        response = traits[name]["dose_response"]
        low, high = response["usable_range"]
        ci = _brackets([None if c is None else c / 10 for c in response["slope_ci"]], 1)
        parts.append(f"{name} by {number(response['slope'] / 10, 1)} {ci} (usable from {low:+g} to {high:+g})")
    random = [t["controls"]["random_preference_movement"] for t in traits.values()]
    null = [100 * r for r in random if r is not None]
    text = f"A tenth of a dose moves the preference, in points, for {' and for '.join(parts)}"
    if null:
        dose = next(iter(traits.values()))["controls"]["dose"]
        text += f"; random directions at dose {dose:g} move it by at most {max(null):.1f} on average"
    if all(shown.values()):
        return text + "."
    held = [n for n, ok in shown.items() if not ok]
    named = " and ".join(held) if len(held) < 3 else f"{len(held)} of {len(slopes)} traits"
    return f"{text}; for {named} control is not shown."


def number(value: float | None, digits: int = 2) -> str:
    """A number for reading: words where there is none, and no minus before a zero."""
    if value is None:
        return "not measured"
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text


def interval(ci: list[float | None], digits: int = 2) -> str:
    """An interval for reading."""
    if ci[0] is None or ci[1] is None:
        return "no interval"
    return f"95% interval {number(ci[0], digits)} to {number(ci[1], digits)}"


def _clear(ci: list[float | None], p_value: float | None = 0.0) -> bool:
    """Clear of zero by its interval and, where there is one, by its p-value (few pairs can have the one alone)."""
    if p_value is None or p_value >= ALPHA:
        return False
    return ci[0] is not None and ci[1] is not None and (ci[0] > 0 or ci[1] < 0)


def _points(shift: dict[str, Any]) -> float | None:
    """A shift of preference in points; None where no item was scored under both conditions."""
    return None if shift["preference_shift"] is None else 100 * float(shift["preference_shift"])


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
        f"a bag of words reaches {number(lexical)}"
    )
    ends = vector["controls"].get("lexical_auc_ci")
    text += f" ({interval(ends)})." if ends and ends[0] is not None else "."
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
    shifts = (p["shift"]["preference_shift"] for p in trait["steering"] if p["dose"] == dose)
    moved = next((abs(shift) for shift in shifts if shift is not None), None)
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
        parts.append(f"{number(_points(shift), 1)} points ({pole})")
        right = (shift["preference_shift"] or 0) * sign > 0
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
            f"{number(_points(shift), 1)} points "
            f"({interval([None if c is None else 100 * c for c in shift['preference_shift_ci']], 1)})"
        )
        clear.append(
            (shift["preference_shift"] or 0) * sign > 0 and _clear(shift["preference_shift_ci"], shift["p_value"])
        )
    text = f"Fine-tuning {'; '.join(parts)}. One seed each: indicative"
    return text + ".", "shown" if all(clear) else "mixed" if any(clear) else "absent"

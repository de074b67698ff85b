"""What a study's conditions say beside one another: effect at equal cost, and who moves whom."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from llm_persona.analysis.dose import at_equal_cost, composite
from llm_persona.analysis.paired import paired_means, preferences
from llm_persona.analysis.stats import corrected_interval, resampled_means
from llm_persona.domain.traits import POLES

NO_INTERVAL: list[float | None] = [None, None]


def comparison(trait: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """By pole: instruction, steering (at the usable end), both, and tuning in one table, from the trait's results.

    `effect`: preference moved toward the pole (points); `cost`: neutral perplexity over base, paired by passage;
    `composite`: their harmonic mean (0 where text collapses), its interval from the ends of effect's and cost's;
    `steering_less_this`: effect of steering at the usable end less that of this condition, paired by item (points);
    `steering_at_equal_cost`: the dose of the same cost and its effect, interpolated between measured doses (None where
    no measured dose costs as much), and that effect less this condition's (`difference`), paired by item. The costs
    count as measured there: its intervals are over items.
    """
    base = trait["baseline"]
    found: dict[str, list[dict[str, Any]]] = {}
    for pole in POLES:
        sign = 1 if pole == "high" else -1
        side = [p for p in trait["steering"] if p["dose"] * sign > 0]
        end = trait["dose_response"]["usable_range"][1 if pole == "high" else 0]
        at_end = next((p for p in side if p["dose"] == end), None)
        rows = [("instructed", trait["instructed"][pole])]
        rows += [] if at_end is None else [(f"steered {end:+g}", at_end)]
        rows += [("instructed and steered", row) for row in [trait.get("combined", {}).get(pole)] if row]
        rows += [("tuned", row) for row in [trait["tuned"].get(pole)] if row]
        found[pole] = []
        for name, row in rows:
            other = row is not at_end
            less = _difference(_items(at_end, base), _items(row, base), sign) if other and at_end is not None else None
            equal = _at_equal_cost(row, side, base, sign) if other else None
            found[pole].append(
                {"condition": name, **_figures(row, base, sign), "steering_less_this": less,
                 "steering_at_equal_cost": equal}
            )  # fmt: skip
    return found


def composites(trait: dict[str, Any]) -> list[dict[str, Any]]:
    """Effect, cost and composite of every dose, toward the pole of its sign, with intervals."""
    return [
        {"dose": p["dose"], **_figures(p, trait["baseline"], 1 if p["dose"] > 0 else -1)} for p in trait["steering"]
    ]


def _moved(row: dict[str, Any], sign: int) -> float | None:
    value = row["shift"]["preference_shift"]
    return None if value is None else sign * float(value)


def _cost(row: dict[str, Any], base: dict[str, Any]) -> float | None:
    if row.get("cost") is not None:  # paired by passage, as its interval is
        return float(row["cost"])
    if row["perplexity"] is None or not base["perplexity"]:
        return None
    return float(row["perplexity"] / base["perplexity"])


def _figures(row: dict[str, Any], base: dict[str, Any], sign: int) -> dict[str, Any]:
    """Effect (points), cost and composite of a condition, with intervals."""
    moved, cost = _moved(row, sign), _cost(row, base)
    room = (1 - base["preference"] if sign > 0 else base["preference"]) if base["preference"] is not None else 0.0
    variety = row["distinct_2"] / base["distinct_2"] if row["distinct_2"] and base["distinct_2"] else None
    ends = row["shift"]["preference_shift_ci"]
    effect_ci = ends if sign > 0 else [None if e is None else -e for e in reversed(ends)]
    cost_ci = row.get("cost_ci", NO_INTERVAL)
    # more effect never lowers it, more cost never raises it
    pairs = zip(effect_ci, reversed(cost_ci), strict=True)
    return {
        "effect": None if moved is None else 100 * moved,
        "effect_ci": [None if e is None else 100 * e for e in effect_ci],
        "cost": cost,
        "cost_ci": list(cost_ci),
        "composite": composite(moved, room, cost, variety),
        "composite_ci": [composite(e, room, c, variety) for e, c in pairs],
    }


def _items(row: dict[str, Any], base: dict[str, Any]) -> dict[str, float]:
    """Preference moved by a condition, by item that it and base scored."""
    own, before = preferences(row.get("rows", ())), preferences(base.get("rows", ()))
    return {item: value - before[item] for item, value in own.items() if item in before}


def _difference(steered: dict[str, float], other: dict[str, float], sign: int) -> dict[str, Any] | None:
    """Effect of steering less another condition's over the items that both scored, in points toward the pole."""
    both = [item for item in steered if item in other]
    if not both:
        return None
    found = paired_means([sign * 100 * steered[i] for i in both], [sign * 100 * other[i] for i in both])
    return {
        "difference": found["mean"], "difference_ci": found["ci"], "p_value": found["p_value"], "n": found["n"]
    }  # fmt: skip


def _at_equal_cost(
    row: dict[str, Any], side: Sequence[dict[str, Any]], base: dict[str, Any], sign: int
) -> dict[str, Any] | None:
    """The steering that costs what this condition costs, its effect, and how much more it moves than the condition."""
    cost = _cost(row, base)
    measured = [(p, _moved(p, sign), _cost(p, base)) for p in side]
    curve = [(0.0, 0.0, 1.0), *((p["dose"], m, c) for p, m, c in measured if m is not None and c is not None)]
    equal = None if cost is None else at_equal_cost(curve, cost)
    if equal is None:
        return None
    below = max((d for d, _, _ in curve if abs(d) <= abs(equal["dose"])), key=abs)
    above = min((d for d, _, _ in curve if abs(d) >= abs(equal["dose"])), key=abs)
    share = 0.0 if above == below else (equal["dose"] - below) / (above - below)
    by_item = {p["dose"]: _items(p, base) for p in side}
    by_item[0.0] = dict.fromkeys(_items(base, base), 0.0)
    moved = {i: (1 - share) * v + share * by_item[above][i] for i, v in by_item[below].items() if i in by_item[above]}
    alone = _difference(moved, dict.fromkeys(moved, 0.0), sign)
    less = _difference(moved, _items(row, base), sign)
    return {
        "dose": equal["dose"],
        "effect": 100 * equal["effect"],
        "effect_ci": alone["difference_ci"] if alone else NO_INTERVAL,
        **(less or {"difference": None, "difference_ci": NO_INTERVAL, "p_value": None, "n": 0}),
    }


Moved = dict[str, dict[str, dict[float, list[float]]]]
"""Measured trait, steered trait, dose: the preference moved, an entry an item."""


def specificity(traits: dict[str, dict[str, Any]], moved: Moved | None = None) -> dict[str, Any]:
    """Steered trait x measured trait: preference shift (points) at +dose and -dose, each trait at its own layer.

    `ratio` by steered trait: mean absolute shift of the other traits over its own (0 is perfectly specific);
    `ratio_ci`: bias-corrected bootstrap over the items of every trait, where `moved` keeps them.
    """
    names = list(traits)
    if len(names) < 2:
        return {}
    dose = traits[names[0]]["controls"]["dose"]
    matrix: dict[str, dict[str, Any]] = {steered: {} for steered in names}
    for measured in names:
        for point in traits[measured]["steering"]:
            if abs(point["dose"]) == dose:
                matrix[measured].setdefault(measured, {})[f"{point['dose']:+g}"] = _shift(point["shift"])
        for steered, rows in traits[measured]["controls"]["other_traits"].items():
            matrix[steered][measured] = {f"{row['dose']:+g}": _shift(row) for row in rows}
    ratios, intervals = {}, {}
    for steered, row in matrix.items():
        own = _size(row.get(steered, {}))
        others = [size for name, cells in row.items() if name != steered and (size := _size(cells)) is not None]
        ratios[steered] = sum(others) / len(others) / own if own and others else None
        intervals[steered] = _ratio_interval(steered, ratios[steered], traits, moved or {}, dose)
    return {"dose": dose, "traits": names, "matrix": matrix, "ratio": ratios, "ratio_ci": intervals}


def _ratio_interval(
    steered: str, ratio: float | None, traits: dict[str, dict[str, Any]], moved: Moved, dose: float
) -> list[float | None]:
    trait = traits[steered]
    at = [p for p in trait["steering"] if abs(p["dose"]) == dose]
    own = {p["dose"]: list(_items(p, trait["baseline"]).values()) for p in at}
    others = [found[steered] for name, found in moved.items() if name != steered and steered in found]
    if ratio is None or len(others) < len(traits) - 1 or not own:
        return NO_INTERVAL
    if any(len(values) < 2 for cells in (own, *others) for values in cells.values()):
        return NO_INTERVAL
    sizes = [_drawn_size(cells, seed) for seed, cells in enumerate((own, *others))]
    with np.errstate(divide="ignore", invalid="ignore"):
        draws = np.mean(sizes[1:], axis=0) / sizes[0]
    return list(corrected_interval(draws, ratio)) if np.isfinite(draws).any() else NO_INTERVAL


def _drawn_size(cells: dict[float, list[float]], seed: int) -> np.ndarray:
    """Mean over the doses of the absolute mean shift, in each resample of the items: [draws]. The same items are drawn
    at every dose, where the doses scored the same ones."""
    return np.mean([np.abs(resampled_means(np.array(v), 2000, seed)) for v in cells.values()], axis=0)


def _shift(shift: dict[str, Any]) -> dict[str, Any]:
    value, ends = shift["preference_shift"], shift["preference_shift_ci"]
    return {
        "preference": None if value is None else 100 * value,
        "preference_ci": [None if e is None else 100 * e for e in ends],
        "p_value": shift["p_value"],
        "n": shift["n"],
    }


def _size(cells: dict[str, Any]) -> float | None:
    values = [abs(c["preference"]) for c in cells.values() if c["preference"] is not None]
    return sum(values) / len(values) if values else None

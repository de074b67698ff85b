"""What a study's conditions say beside one another: effect at equal cost, and who moves whom."""

from __future__ import annotations

from typing import Any

from llm_persona.analysis.dose import at_equal_cost, composite
from llm_persona.domain.traits import POLES


def comparison(trait: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """By pole: instruction, steering (at the usable end), both, and tuning in one table, from the trait's results.

    `effect`: preference moved toward the pole (points); `cost`: neutral perplexity over base; `composite`: their
    harmonic mean (0 where text collapses); `steering_at_equal_cost`: the dose of the same cost and its effect,
    interpolated between measured doses (None where no measured dose costs as much).
    """
    base = trait["baseline"]
    found: dict[str, list[dict[str, Any]]] = {}
    for pole in POLES:
        sign = 1 if pole == "high" else -1
        side = [p for p in trait["steering"] if p["dose"] * sign > 0]
        curve = [(0.0, 0.0, 1.0)]
        for point in side:
            moved, cost = _moved(point, sign), _cost(point, base)
            if moved is not None and cost is not None:
                curve.append((point["dose"], moved, cost))
        end = trait["dose_response"]["usable_range"][1 if pole == "high" else 0]
        rows = [("instructed", trait["instructed"][pole])]
        rows += [(f"steered {p['dose']:+g}", p) for p in side if p["dose"] == end]
        rows += [("instructed and steered", row) for row in [trait.get("combined", {}).get(pole)] if row]
        rows += [("tuned", row) for row in [trait["tuned"].get(pole)] if row]
        found[pole] = [_row(name, row, base, sign, curve) for name, row in rows]
    return found


def _moved(row: dict[str, Any], sign: int) -> float | None:
    value = row["shift"]["preference_shift"]
    return None if value is None else sign * float(value)


def _cost(row: dict[str, Any], base: dict[str, Any]) -> float | None:
    if row["perplexity"] is None or not base["perplexity"]:
        return None
    return float(row["perplexity"] / base["perplexity"])


def _row(
    name: str, row: dict[str, Any], base: dict[str, Any], sign: int, curve: list[tuple[float, float, float]]
) -> dict[str, Any]:
    moved, cost = _moved(row, sign), _cost(row, base)
    room = (1 - base["preference"] if sign > 0 else base["preference"]) if base["preference"] is not None else 0.0
    variety = row["distinct_2"] / base["distinct_2"] if row["distinct_2"] and base["distinct_2"] else None
    ends = row["shift"]["preference_shift_ci"]
    interval = ends if sign > 0 else [None if e is None else -e for e in reversed(ends)]
    equal = None if cost is None or name.startswith("steered") else at_equal_cost(curve, cost)
    return {
        "condition": name,
        "effect": None if moved is None else 100 * moved,
        "effect_ci": [None if e is None else 100 * e for e in interval],
        "cost": cost,
        "composite": composite(moved, room, cost, variety),
        "steering_at_equal_cost": None if equal is None else {"dose": equal["dose"], "effect": 100 * equal["effect"]},
    }


def specificity(traits: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Steered trait x measured trait: preference shift (points) at +dose and -dose, each trait at its own layer.

    `ratio` by steered trait: mean absolute shift of the other traits over its own (0 is perfectly specific).
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
    ratios = {}
    for steered, row in matrix.items():
        own = _size(row.get(steered, {}))
        others = [size for name, cells in row.items() if name != steered and (size := _size(cells)) is not None]
        ratios[steered] = sum(others) / len(others) / own if own and others else None
    return {"dose": dose, "traits": names, "matrix": matrix, "ratio": ratios}


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

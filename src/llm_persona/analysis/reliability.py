"""How often an item's class changes when only the asking changes: template, order, wording."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

from llm_persona.analysis.stats import proportion_estimate


def class_changes(rows: Sequence[dict[str, Any]], others: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Share of items (percent, Wilson interval) whose class differs between two ways of asking.

    Paired by id; items unscored in either are left out and counted.
    """
    before = {row["id"]: row for row in others}
    pairs = [(row, before[row["id"]]) for row in rows if row["id"] in before]
    both = [(a, b) for a, b in pairs if "unscored" not in a and "unscored" not in b]
    share = proportion_estimate(sum(a["high"] != b["high"] for a, b in both), len(both))
    value = share.value if both else None
    return {"changed": value, "changed_ci": share.ci, "n": len(both), "n_left_out": len(rows) - len(both)}


def order_changes(rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The same between the two orders of one asking; None where a mode has no orders."""
    known = [row["consistent"] for row in rows if "consistent" in row]
    if not known:
        return None
    share = proportion_estimate(sum(not same for same in known), len(known))
    return {"changed": share.value, "changed_ci": share.ci, "n": len(known), "n_left_out": len(rows) - len(known)}


def reliability(askings: dict[str, Sequence[dict[str, Any]]]) -> dict[str, Any]:
    """Every pair of askings by name (`template 1`, `paraphrase`, ...), and the orders within each."""
    found: dict[str, Any] = {}
    for (name, rows), (other, rest) in combinations(askings.items(), 2):
        found[f"{name} / {other}"] = class_changes(rows, rest)
    for name, rows in askings.items():
        changes = order_changes(rows)
        if changes is not None:
            found[f"{name}: orders"] = changes
    return found

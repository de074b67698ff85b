"""Differences between two conditions on the same items."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from llm_persona.analysis.stats import mean_estimate, paired_p_value


def paired_shift(rows: Sequence[dict[str, Any]], base: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Shift of score (percentage points) and preference, paired by item id, with intervals.

    Items that either measurement left unscored are left out and counted. p_value: sign flips of the
    preference differences, two-sided.
    """
    before = {row["id"]: row for row in base}
    pairs = [(row, before[row["id"]]) for row in rows if row["id"] in before]
    both = [(a, b) for a, b in pairs if "unscored" not in a and "unscored" not in b]
    score = mean_estimate(np.array([100.0 * (a["high"] - b["high"]) for a, b in both]))
    soft = [(a["preference"], b["preference"]) for a, b in both if a.get("preference") is not None]
    differences = np.array([a - b for a, b in soft])
    preference = mean_estimate(differences)
    return {
        "n": len(both),
        "n_unpaired": len(rows) - len(both),
        "score_shift": score.value if both else None,
        "score_shift_ci": score.ci,
        "preference_shift": preference.value if len(differences) else None,
        "preference_shift_ci": preference.ci,
        "p_value": paired_p_value(differences) if len(differences) else None,
    }


def means_by_group(groups: Sequence[str], values: Sequence[float]) -> dict[str, float]:
    """Mean value of each group, in the groups' order: several answers to one question count as one observation."""
    found: dict[str, list[float]] = {}
    for group, value in zip(groups, values, strict=True):
        found.setdefault(group, []).append(float(value))
    return {group: float(np.mean(of_group)) for group, of_group in found.items()}


def paired_means(values: Sequence[float], base: Sequence[float]) -> dict[str, Any]:
    """Mean difference of two aligned lists with its interval and p-value; None for no pair."""
    differences = np.asarray(values, dtype=float) - np.asarray(base, dtype=float)
    found = mean_estimate(differences)
    return {
        "mean": found.value if found.n else None,
        "ci": found.ci,
        "n": found.n,
        "p_value": paired_p_value(differences),
    }

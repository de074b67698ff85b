"""Differences between two conditions on the same items."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from llm_persona.analysis.stats import bootstrap_weights, mean_estimate, paired_p_value, percentile_interval, widened


def paired_shift(rows: Sequence[dict[str, Any]], base: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Shift of score (percentage points) and preference, paired by item id, with intervals.

    Items that either measurement left unscored are left out and counted. `p_value`: sign flips of the
    preference differences, two-sided; `score_p_value`: of the score differences.
    """
    before = {row["id"]: row for row in base}
    pairs = [(row, before[row["id"]]) for row in rows if row["id"] in before]
    both = [(a, b) for a, b in pairs if "unscored" not in a and "unscored" not in b]
    points = np.array([100.0 * (a["high"] - b["high"]) for a, b in both])
    score = mean_estimate(points)
    soft = [(a["preference"], b["preference"]) for a, b in both if a.get("preference") is not None]
    differences = np.array([a - b for a, b in soft])
    preference = mean_estimate(differences)
    return {
        "n": len(both),
        "n_unpaired": len(rows) - len(both),
        "score_shift": score.value if both else None,
        "score_shift_ci": score.ci,
        "score_p_value": paired_p_value(points) if both else None,
        "preference_shift": preference.value if len(differences) else None,
        "preference_shift_ci": preference.ci,
        "p_value": paired_p_value(differences) if len(differences) else None,
    }


def differences(rows: Sequence[dict[str, Any]], base: Sequence[dict[str, Any]]) -> list[float]:
    """Preference under a condition less that under base, an entry an item that both scored."""
    before = preferences(base)
    return [value - before[item] for item, value in preferences(rows).items() if item in before]


def preferences(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Item id to preference, of the items that were scored."""
    return {r["id"]: r["preference"] for r in rows if "unscored" not in r and r.get("preference") is not None}


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


def perplexity_ratio(rows: Sequence[dict[str, Any]], base: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """How many times the base's perplexity, over texts that both scored, tokens weighing alike.

    `rows` and `base` are a `Perplexity` measurement's rows of the same texts. The interval resamples texts, in the
    logarithm; `n` texts. None where nothing is scored twice or one perplexity was not finite.
    """
    both = [(a, b) for a, b in zip(rows, base, strict=True) if "unscored" not in a and "unscored" not in b]
    found: dict[str, Any] = {"ratio": None, "ci": [None, None], "n": len(both)}
    if not both or any(x["perplexity"] is None for pair in both for x in pair):
        return found
    tokens = np.array([float(a["tokens"]) for a, _ in both])
    worse = tokens * np.array([np.log(a["perplexity"]) - np.log(b["perplexity"]) for a, b in both])
    centre = float(worse.sum() / tokens.sum())
    found["ratio"] = float(np.exp(centre))
    if len(both) > 1:
        weights = bootstrap_weights(len(both), 2000, 0)
        low, high = widened(percentile_interval((weights @ worse) / (weights @ tokens)), centre, len(both))
        found["ci"] = [float(np.exp(low)), float(np.exp(high))]
    return found

"""Dose-response: how an effect follows the strength of steering, and what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats as scipy_stats

from llm_persona.analysis.stats import bootstrap_weights, percentile_interval, widened

MAX_PERPLEXITY_RATIO = 1.6
MIN_DISTINCT_SHARE = 0.8


def dose_response(doses: Sequence[float], preferences: np.ndarray, seed: int = 0) -> dict[str, Any]:
    """Line through item-mean preference against dose, items resampled for the interval.

    Args:
        doses: [k], 0 (the base) among them. preferences: [k, items], the probability of high.

    Returns:
        slope (preference points, 0 to 100, per unit of dose), slope_ci, r2 of the line on the means,
        spearman of the means, wrong_way: share of items that move against the sign of the dose between
        its lowest and highest value, n_items.
    """
    x, y = np.asarray(doses, dtype=float), 100 * np.asarray(preferences, dtype=float)
    n = y.shape[1]
    if len(x) < 3 or n == 0 or np.ptp(x) == 0:
        return {"slope": None, "slope_ci": [None, None], "r2": None, "spearman": None, "wrong_way": None, "n_items": n}
    centred = x - x.mean()
    slopes = centred @ y / (centred @ centred)
    means = y.mean(axis=1)
    fitted = means.mean() + slopes.mean() * centred
    total = float(((means - means.mean()) ** 2).sum())
    draws = bootstrap_weights(n, 2000, seed) @ slopes / n
    order = np.argsort(x)
    moved = y[order[-1]] - y[order[0]]
    return {
        "slope": float(slopes.mean()),
        "slope_ci": list(widened(percentile_interval(draws), float(slopes.mean()), n)) if n > 1 else [None, None],
        "r2": float(1 - ((means - fitted) ** 2).sum() / total) if total > 0 else None,
        "spearman": float(scipy_stats.spearmanr(x, means).statistic) if total > 0 else None,
        "wrong_way": float((moved < 0).mean()),
        "n_items": n,
    }


def usable_range(points: Sequence[dict[str, Any]], base: dict[str, Any]) -> list[float]:
    """The doses around 0, without a gap, whose text is still text.

    A dose is usable while neutral perplexity is at most 1.6 times base and the distinct-2 of the answers
    at least .8 of base. `points` and `base` carry `dose`, `neutral_perplexity`, `distinct_2`; a dose
    whose text was not measured is not usable.

    Returns:
        [lowest, highest] usable dose among those measured; [0, 0] if none is.
    """

    def fine(point: dict[str, Any]) -> bool:
        cost, variety = point.get("neutral_perplexity"), point.get("distinct_2")
        if cost is None or variety is None:
            return False
        return bool(
            cost <= MAX_PERPLEXITY_RATIO * base["neutral_perplexity"]
            and variety >= MIN_DISTINCT_SHARE * base["distinct_2"]
        )

    ends = []
    for sign in (-1, 1):
        end = 0.0
        for point in sorted((p for p in points if p["dose"] * sign > 0), key=lambda p: abs(p["dose"])):
            if not fine(point):
                break
            end = float(point["dose"])
        ends.append(end)
    return ends


def distinct_n(texts: Sequence[str], n: int = 2) -> float | None:
    """Share of different n-grams of words, mean over texts long enough to have one (Li et al. 2016)."""
    shares = []
    for text in texts:
        words = text.lower().split()
        grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
        if grams:
            shares.append(len(set(grams)) / len(grams))
    return float(np.mean(shares)) if shares else None

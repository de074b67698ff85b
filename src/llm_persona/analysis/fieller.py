"""The ratio of two means of the same seeds, with Fieller's interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats as scipy_stats

from llm_persona.analysis.stats import CONFIDENCE

LEAST = 3
"""Fewer seeds give no interval."""


def ratio_of_means(values: Sequence[float], reference: Sequence[float]) -> dict[str, Any]:
    """mean(values) / mean(reference), paired: entry k of both comes from seed k.

    The interval (Fieller 1954) holds every ratio r for which values - r * reference is not clear of zero in a paired
    t test, so that "the ratio is below one half" is shown by the interval exactly where that test shows it. It has no
    ends where the reference itself is not clear of zero: anything is then possible.

    Returns:
        `ratio` (None where the reference's mean is 0 or nothing is there), `ci` ([None, None] with fewer than three
        pairs or without ends), `n` pairs.

    Raises:
        ValueError: lists of different lengths.
    """
    x, y = (np.asarray(part, dtype=np.float64) for part in (values, reference))
    if x.shape != y.shape:
        raise ValueError(f"ratio of means: {len(x)} values for {len(y)} references; pair them by seed")
    n = len(x)
    found: dict[str, Any] = {"ratio": None, "ci": [None, None], "n": n}
    if n == 0 or y.mean() == 0:
        return found
    found["ratio"] = float(x.mean() / y.mean())
    if n < LEAST:
        return found
    t = float(scipy_stats.t.ppf(0.5 + CONFIDENCE / 2, n - 1))
    (xx, xy), (_, yy) = np.cov(x, y, ddof=1) * t**2 / n
    # mean(x - r y)^2 <= t^2 var(x - r y) / n, a quadratic in r
    a, b, c = y.mean() ** 2 - yy, x.mean() * y.mean() - xy, x.mean() ** 2 - xx
    inside = b * b - a * c
    if a > 0:
        half = float(np.sqrt(max(inside, 0.0)))
        found["ci"] = [float((b - half) / a), float((b + half) / a)]
    return found


def one_minus(found: dict[str, Any]) -> dict[str, Any]:
    """The share that is missing to 1, with the interval turned round."""
    low, high = found["ci"]
    return {
        **found,
        "ratio": None if found["ratio"] is None else 1 - found["ratio"],
        "ci": [None if high is None else 1 - high, None if low is None else 1 - low],
    }

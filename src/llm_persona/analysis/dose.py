"""Dose-response: how an effect follows the strength of steering, and what it costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from scipy import stats as scipy_stats

from llm_persona.analysis.stats import bootstrap_weights, percentile_interval, proportion_estimate, widened

MAX_PERPLEXITY_RATIO = 1.6
MIN_DISTINCT_SHARE = 0.8


def dose_response(doses: Sequence[float], preferences: np.ndarray, seed: int = 0) -> dict[str, Any]:
    """How item-mean preference follows the dose, items resampled for every interval.

    Args:
        doses: [k], 0 (the base) among them. preferences: [k, items], the probability of high.

    Returns:
        Slopes in preference points (0 to 100) per unit of dose: `slope` of one line through all doses, `slope_below`
        and `slope_above` of lines through the doses up to 0 and from 0; `r2` of the one line on the means;
        `departure`: root mean square distance of the means from the line, as a share of their range (0 is linear);
        `curvature`: coefficient of dose squared in a quadratic fit; `spearman` of the means; `monotone`: share of steps
        between neighbouring doses that rise; `wrong_way`: share of items that move against the sign of the dose
        between its lowest and highest value; `n_items`. Intervals are `*_ci` (bootstrap over items; Wilson's for
        `wrong_way`); None where there is too little to tell.
    """
    x, y = np.asarray(doses, dtype=float), 100 * np.asarray(preferences, dtype=float)
    n = y.shape[1]
    order = np.argsort(x)
    x, y = x[order], y[order]
    names = (*_CURVES, *_SHAPES, "wrong_way")
    empty: dict[str, Any] = dict.fromkeys(names) | {f"{name}_ci": [None, None] for name in names}
    if len(x) < 3 or n == 0 or np.ptp(x) == 0:
        return {**empty, "n_items": n}
    means = y.mean(axis=1)
    weights = bootstrap_weights(n, 2000, seed) / n
    drawn = y @ weights.T  # [k, draws]
    found: dict[str, Any] = {}
    for name, measure in _CURVES.items():
        value = measure(x, means[:, None])
        if value is None:
            found[name], found[f"{name}_ci"] = None, [None, None]
            continue
        found[name] = float(value[0])
        draws = measure(x, drawn)
        interval = widened(percentile_interval(draws), found[name], n) if n > 1 and draws is not None else (None, None)
        found[f"{name}_ci"] = list(interval)
    for name, shape in _SHAPES.items():
        single = float(shape(x, means[:, None])[0])
        found[name] = single if np.isfinite(single) else None
        draws = shape(x, drawn)
        told = n > 1 and found[name] is not None and np.isfinite(draws).any()
        found[f"{name}_ci"] = list(percentile_interval(draws)) if told else [None, None]
    wrong = proportion_estimate(int((y[-1] < y[0]).sum()), n)
    found |= {"wrong_way": wrong.value / 100, "wrong_way_ci": [None if e is None else e / 100 for e in wrong.ci]}
    return {**found, "n_items": n}


def _slope(x: np.ndarray, y: np.ndarray) -> np.ndarray | None:
    """Least-squares slopes [draws] of y [k, draws] on x [k]."""
    if len(x) < 2:
        return None
    centred = x - x.mean()
    return np.asarray(centred @ y / (centred @ centred))


def _departure(x: np.ndarray, y: np.ndarray) -> np.ndarray | None:
    spread = np.ptp(y, axis=0)
    design = np.stack([np.ones_like(x), x], axis=1)
    residual = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(spread > 0, np.sqrt((residual**2).mean(axis=0)) / spread, 0.0)


def _curvature(x: np.ndarray, y: np.ndarray) -> np.ndarray | None:
    design = np.stack([np.ones_like(x), x, x**2], axis=1)
    return np.asarray(np.linalg.lstsq(design, y, rcond=None)[0][2])


_CURVES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray | None]] = {
    "slope": _slope,
    "slope_below": lambda x, y: _slope(x[x <= 0], y[x <= 0]),
    "slope_above": lambda x, y: _slope(x[x >= 0], y[x >= 0]),
    "departure": _departure,
    "curvature": _curvature,
}


def _r2(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    total = ((y - y.mean(axis=0)) ** 2).sum(axis=0)
    design = np.stack([np.ones_like(x), x], axis=1)
    residual = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(total > 0, 1 - (residual**2).sum(axis=0) / total, np.nan)


def _spearman(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Rank correlations [draws] of x with the columns of y; NaN for a column without spread."""
    a = scipy_stats.rankdata(x) - (len(x) + 1) / 2
    b = scipy_stats.rankdata(y, axis=0) - (len(x) + 1) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(a @ b / np.sqrt((a @ a) * (b * b).sum(axis=0)))


_SHAPES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "r2": _r2,
    "spearman": _spearman,
    "monotone": lambda _x, y: (np.diff(y, axis=0) > 0).mean(axis=0),
}
"""Bounded figures of the means: their intervals are plain percentiles, which stay within the bounds."""


def composite(effect: float | None, room: float, cost: float | None, variety: float | None) -> float | None:
    """Effect and fluency in one number from 0 to 1: their harmonic mean, so that neither buys the other.

    Args:
        effect: preference moved in the direction wanted (0 to 1). room: how far it could have moved. cost: neutral
            perplexity over base. variety: distinct-2 of the answers over base.

    Returns:
        0 for no effect, the wrong direction, or text beyond the usable bounds; None where something was not
        measured. Fluency falls from 1 (cost of base) to 0 (1.6 times base). After AxBench (Wu et al. 2025).
    """
    if effect is None or cost is None or variety is None or room <= 0:
        return None
    reached = min(max(effect / room, 0.0), 1.0)
    fluency = min(max(1 - (cost - 1) / (MAX_PERPLEXITY_RATIO - 1), 0.0), 1.0)
    if variety < MIN_DISTINCT_SHARE or reached + fluency == 0:
        return 0.0
    return 2 * reached * fluency / (reached + fluency)


def at_equal_cost(points: Sequence[tuple[float, float, float]], cost: float) -> dict[str, float] | None:
    """The dose whose cost is `cost`, and its effect, between measured doses of one sign.

    Args:
        points: (dose, effect, cost) of one sign, the base's (0, 0, 1) among them. cost: perplexity over base.

    Returns:
        `dose` and `effect`, interpolated where the cost first crosses; None beyond what was measured.
    """
    ordered = sorted(points, key=lambda p: abs(p[0]))
    for (d0, e0, c0), (d1, e1, c1) in pairwise(ordered):
        if min(c0, c1) <= cost <= max(c0, c1):
            share = 0.0 if c1 == c0 else (cost - c0) / (c1 - c0)
            return {"dose": d0 + share * (d1 - d0), "effect": e0 + share * (e1 - e0)}
    return None


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

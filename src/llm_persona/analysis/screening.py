"""Statistics of data screening: what the differences forecast, how well cheap forms follow, which rows stand out.

Values are projection differences in projection units, one a row, NaN where there is none. Intervals are bootstrap
intervals over prompts: rows that answer the same prompt are drawn together, since they share the model's own answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from scipy import stats as scipy_stats

from llm_persona.analysis.stats import auc, percentile_interval, widened

Direction = Literal["high", "low", "both"]
DRAWS = 1000
LEAST = 10
"""Rows below which the cheap form is not calibrated."""
FALSE_POSITIVES = 0.01


def spread(n: int, count: int, seed: int = 0) -> np.ndarray:
    """`count` of n rows, one from each of `count` equal stretches of the file: boolean [n].

    The place within a stretch is drawn: a fixed step would meet only one kind of row in a file whose kinds alternate.
    """
    count = min(n, count)
    edges = np.arange(count + 1) * n // max(count, 1)
    chosen = np.zeros(n, dtype=bool)
    chosen[np.random.default_rng(seed).integers(edges[:-1], edges[1:])] = True
    return chosen


def resamples(groups: np.ndarray, seed: int = 0) -> Iterator[np.ndarray]:
    """Row indices of bootstrap resamples, groups [n] (integers) drawn whole; one resample in memory at a time."""
    _, index = np.unique(groups, return_inverse=True)
    count = int(index.max()) + 1
    rng = np.random.default_rng(seed)
    for _ in range(DRAWS):
        times = np.bincount(rng.integers(count, size=count), minlength=count)
        yield np.repeat(np.arange(len(index)), times[index])


def intervals(statistic: Callable[[np.ndarray], list[float]], groups: np.ndarray) -> list[list[float | None]]:
    """95% percentile interval of each number that `statistic` makes of row indices; None where it cannot vary."""
    width = len(statistic(np.arange(len(groups))))
    if len(np.unique(groups)) < 2:
        return [[None, None]] * width
    draws = np.array([statistic(rows) for rows in resamples(groups)])
    return [list(percentile_interval(d)) if np.isfinite(d).any() else [None, None] for d in draws.T]


def forecast(differences: np.ndarray, groups: np.ndarray, pole_gap: float, trait: str) -> dict[str, Any]:
    """Where fine-tuning on the rows is forecast to move the trait (Chen et al. 2025).

    Args:
        differences: [n], NaN where the full difference was not computed. groups: [n]. pole_gap: norm of v_L.

    Returns:
        `mean`, `mean_ci` (projection units), `pole_gaps`, `pole_gaps_ci`, `n`, `n_prompts`, `direction` ("up", "down",
        or None where the interval holds zero or there is none), `sentence`.
    """
    known = np.isfinite(differences)
    values, kept = differences[known], groups[known]
    n, n_prompts = len(values), len(np.unique(kept))
    found: dict[str, Any] = {"mean": None, "mean_ci": [None, None], "pole_gaps": None, "pole_gaps_ci": [None, None],
                             "n": n, "n_prompts": n_prompts, "direction": None}  # fmt: skip
    if not n:
        return {**found, "sentence": "no row has a projection difference: nothing is forecast"}
    mean = float(values.mean())
    gaps = mean / pole_gap
    found |= {"mean": mean, "pole_gaps": gaps}
    where = f"the answers lie {abs(gaps):.2f} pole gaps {'above' if mean >= 0 else 'below'} the model's own"
    if n_prompts < 2:
        return {**found, "sentence": f"{where} (one prompt, no interval): no clear forecast for {trait}"}
    (ends,) = intervals(lambda rows: [float(values[rows].mean())], kept)
    low, high = widened((float(ends[0] or 0.0), float(ends[1] or 0.0)), mean, n_prompts)
    direction = "up" if low > 0 else "down" if high < 0 else None
    says = (
        f"fine-tuning on them is forecast to move {trait} {direction}"
        if direction
        else f"no clear forecast for {trait}"
    )
    where += f" (95% interval {low / pole_gap:+.2f} to {high / pole_gap:+.2f}, {n} rows)"
    found |= {"mean_ci": [low, high], "pole_gaps_ci": [low / pole_gap, high / pole_gap], "direction": direction}
    return {**found, "sentence": f"{where}: {says}"}


def agreement(full: np.ndarray, cheap: np.ndarray, groups: np.ndarray) -> dict[str, Any]:
    """How well a cheap form follows the full difference over the rows that have both.

    Returns:
        `spearman`, `pearson` (None where one of the two does not vary), each with `_ci`, and `n`.
    """
    both = np.isfinite(full) & np.isfinite(cheap)
    a, b, kept = full[both], cheap[both], groups[both]

    def correlations(rows: np.ndarray) -> list[float]:
        x, y = a[rows], b[rows]
        return [_correlation(scipy_stats.rankdata(x), scipy_stats.rankdata(y)), _correlation(x, y)]

    spearman, pearson = correlations(np.arange(len(a)))
    ends = intervals(correlations, kept) if np.isfinite(spearman) else [[None, None]] * 2
    return {"spearman": _or_none(spearman), "spearman_ci": ends[0], "pearson": _or_none(pearson), "pearson_ci": ends[1],
            "n": len(a)}  # fmt: skip


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    x, y = x - x.mean(), y - y.mean()
    return float((x @ y) / np.sqrt((x @ x) * (y @ y)))


@dataclass(frozen=True)
class Calibration:
    """Full difference = intercept + slope * cheap form, by least squares over n rows."""

    slope: float
    intercept: float
    n: int

    def full(self, cheap: np.ndarray) -> np.ndarray:
        """The full difference that the cheap form stands for."""
        return self.intercept + self.slope * cheap

    def as_json(self) -> dict[str, Any]:
        """Its three numbers."""
        return asdict(self)


def calibrate(full: np.ndarray, cheap: np.ndarray) -> Calibration | None:
    """Regress the full difference on the cheap form; None below `LEAST` rows or where the cheap form does not vary."""
    both = np.isfinite(full) & np.isfinite(cheap)
    y, x = full[both], cheap[both]
    if len(x) < LEAST or np.ptp(x) == 0:
        return None
    centred = x - x.mean()
    slope = float(centred @ y / (centred @ centred))
    return Calibration(slope, float(y.mean() - slope * x.mean()), len(x))


def unwanted(values: np.ndarray, direction: Direction) -> np.ndarray:
    """How far each value lies on the unwanted side: as it is, with its sign turned (low), or without (both)."""
    return -values if direction == "low" else np.abs(values) if direction == "both" else values


def separation(scores: np.ndarray, positive: np.ndarray, groups: np.ndarray) -> dict[str, Any]:
    """How well scores tell labelled rows apart, over the rows that have a score.

    Returns:
        `auc` and `tpr_at_1_fpr` (None where a class is missing), each with `_ci`; `n_positive`, `n_negative`, and
        `false_positives`, the number of negatives that 1% allows (0 below 100 negatives).
    """
    known = np.isfinite(scores)
    x, labels, kept = scores[known], positive[known], groups[known]
    n_positive = int(labels.sum())

    def both(rows: np.ndarray) -> list[float]:
        return [float(auc(x[rows], labels[rows])), true_positive_rate(x[rows], labels[rows])]

    area, rate = both(np.arange(len(x)))
    ends = intervals(both, kept) if np.isfinite(area) else [[None, None]] * 2
    return {
        "auc": _or_none(area), "auc_ci": ends[0], "tpr_at_1_fpr": _or_none(rate), "tpr_at_1_fpr_ci": ends[1],
        "n_positive": n_positive, "n_negative": len(x) - n_positive,
        "false_positives": _allowed(len(x) - n_positive, FALSE_POSITIVES),
    }  # fmt: skip


def _allowed(n_negative: int, share: float) -> int:
    return int(share * n_negative + 1e-9)  # 1% of 700 is 7, also in floating point


def true_positive_rate(scores: np.ndarray, positive: np.ndarray, share: float = FALSE_POSITIVES) -> float:
    """Share of positives above the lowest bar that at most `share` of the negatives exceed; NaN without both."""
    negatives = np.sort(scores[~positive])
    if not len(negatives) or not positive.any():
        return float("nan")
    bar = negatives[len(negatives) - 1 - _allowed(len(negatives), share)]
    return float((scores[positive] > bar).mean())


def _or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None

"""Does a reading before the answer foretell the answer? Correlations over conditions x questions, by question."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats as scipy_stats

from llm_persona.analysis.stats import percentile_interval

DRAWS = 1000
FEWEST = 5
"""Questions below which resampling them says nothing."""


def foretelling(
    x: np.ndarray, y: np.ndarray, conditions: Sequence[str], seed: int = 0, draws: int = DRAWS
) -> dict[str, Any]:
    """Pearson and Spearman correlation of a reading before the answer with the answer (monitoring, Chen et al. 2025).

    `overall` takes all cells: a high value may only say that the conditions differ. `within` takes each condition's
    mean off both first, so it speaks of questions alone; `by_condition` is each condition by itself. Intervals
    resample questions, a question with all its conditions at once. Null of the p-values (two-sided, Spearman):
    `overall` shuffles a question's answers over the conditions; the others shuffle the answers over the questions, in
    all conditions alike.

    Args:
        x, y: float [conditions, questions], y the mean over samples; NaN where there is none.

    Returns:
        `overall`, `within`, `by_condition` (name to the same), each with `spearman`, `spearman_ci`, `pearson`,
        `pearson_ci`, `p_value`, `n` cells, `n_questions`, and a `reason` where something could not be had.
    """
    x, y = (np.where(np.isfinite(x) & np.isfinite(y), v, np.nan) for v in (np.asarray(x, float), np.asarray(y, float)))
    rng = np.random.default_rng(seed)
    found = {
        "overall": _correlation(x, y, rng, draws, _over_conditions),
        "within": _correlation(x, y, rng, draws, _over_questions, centred=True),
    }
    alone = {
        name: _correlation(x[k : k + 1], y[k : k + 1], rng, draws, _over_questions) for k, name in enumerate(conditions)
    }
    return {**found, "by_condition": alone}


def _correlation(
    x: np.ndarray, y: np.ndarray, rng: np.random.Generator, draws: int, shuffle: Any, centred: bool = False
) -> dict[str, Any]:
    questions = int(np.isfinite(x).any(axis=0).sum())
    values = _both(x, y, centred)
    found: dict[str, Any] = {"spearman": None, "spearman_ci": None, "pearson": None, "pearson_ci": None}
    found |= {"p_value": None, "n": int(np.isfinite(x).sum()), "n_questions": questions}
    if values is None:
        return {**found, "reason": "fewer than three cells, or one side does not vary"}
    found |= {"pearson": values[0], "spearman": values[1]}
    null = [drawn[1] for _ in range(draws) if (drawn := _both(x, shuffle(y, rng), centred)) is not None]
    if len(null) >= draws // 2:
        beyond = (np.abs(np.array(null)) >= abs(values[1]) - 1e-12).sum()
        found["p_value"] = float((1 + beyond) / (len(null) + 1))
    if questions < FEWEST:
        return {**found, "reason": f"no interval from {questions} questions; it takes {FEWEST}"}
    columns = np.flatnonzero(np.isfinite(x).any(axis=0))
    resampled = []
    for _ in range(draws):
        chosen = rng.choice(columns, len(columns))
        drawn = _both(x[:, chosen], y[:, chosen], centred)
        if drawn is not None:
            resampled.append(drawn)
    if len(resampled) < draws // 2:
        return {**found, "reason": "no interval: most resamples do not vary"}
    both = np.array(resampled)
    found["pearson_ci"], found["spearman_ci"] = (list(percentile_interval(both[:, k])) for k in (0, 1))
    return found


def _both(x: np.ndarray, y: np.ndarray, centred: bool) -> tuple[float, float] | None:
    """Pearson's and Spearman's correlation over the cells that both have."""
    known = np.isfinite(x) & np.isfinite(y)
    if centred:
        x, y = _less_row_means(x, known), _less_row_means(y, known)
    a, b = x[known], y[known]
    slack = [1e-9 * max(1.0, float(np.abs(v).max(initial=0.0))) for v in (a, b)]
    if len(a) < 3 or np.ptp(a) <= slack[0] or np.ptp(b) <= slack[1]:
        return None
    return _pearson(a, b), _pearson(scipy_stats.rankdata(a), scipy_stats.rankdata(b))


def _pearson(a: np.ndarray, b: np.ndarray) -> float:
    """(np.corrcoef takes most of a resample's time.)"""
    a, b = a - a.mean(), b - b.mean()
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def _less_row_means(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    counts = np.maximum(known.sum(axis=1, keepdims=True), 1)
    return np.asarray(values - np.where(known, values, 0.0).sum(axis=1, keepdims=True) / counts)


def _over_conditions(y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each question's known values, shuffled over the conditions that have one."""
    found = y.copy()
    for column in range(y.shape[1]):
        known = np.flatnonzero(np.isfinite(y[:, column]))
        found[known, column] = y[rng.permutation(known), column]
    return found


def _over_questions(y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Whole questions in another order."""
    columns = np.flatnonzero(np.isfinite(y).any(axis=0))
    found = y.copy()
    found[:, columns] = y[:, rng.permutation(columns)]
    return found

"""Whether two measures of the same models, traits or conditions agree: rank correlations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats as scipy_stats

from llm_persona.analysis.stats import bootstrap_weights, percentile_interval


def matrix_agreement(a: np.ndarray, b: np.ndarray, draws: int = 2000, seed: int = 0) -> dict[str, Any]:
    """Spearman's rank correlation over the cells that both matrices have.

    Cells of one row (a model) or one column (a trait) are not independent: the interval resamples rows and columns,
    each with replacement (the pigeonhole bootstrap, Owen 2007), which is wider than resampling cells. Where there are
    fewer than three rows (or columns), such as two poles, these are kept and only the others are resampled.

    Args:
        a, b: float [rows, columns], NaN where there is no measurement.

    Returns:
        `spearman`, `spearman_ci`, `n` cells; None where fewer than three cells are there or one measure is constant.
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    value, n = _spearman(a, b)
    found: dict[str, Any] = {"spearman": value, "spearman_ci": [None, None], "n": n}
    if value is None or max(a.shape) < 3:
        return found
    rng = np.random.default_rng(seed)
    resampled = []
    for _ in range(draws):
        rows, columns = (rng.integers(0, size, size) if size > 2 else np.arange(size) for size in a.shape)
        drawn = _spearman(a[np.ix_(rows, columns)], b[np.ix_(rows, columns)])[0]
        if drawn is not None:
            resampled.append(drawn)
    if len(resampled) >= draws // 2:
        found["spearman_ci"] = list(percentile_interval(np.array(resampled)))
    return found


def _spearman(a: np.ndarray, b: np.ndarray) -> tuple[float | None, int]:
    both = np.isfinite(a) & np.isfinite(b)
    n = int(both.sum())
    if n < 3 or np.ptp(a[both]) == 0 or np.ptp(b[both]) == 0:
        return None, n
    ranks = [scipy_stats.rankdata(x[both]) for x in (a, b)]
    return float(np.corrcoef(*ranks)[0, 1]), n


def shift_agreement(
    traits: Sequence[tuple[np.ndarray, np.ndarray]], together: bool, draws: int = 2000, seed: int = 0
) -> dict[str, Any]:
    """Spearman's rank correlation, over conditions, of the mean shifts that two measures give the same conditions.

    The conditions are what they are; the interval is the percentile interval over resampled units (items, questions),
    each unit drawn with all its conditions. Noise in the means weakens a rank correlation, in the draws more than in
    the estimate, so the interval leans toward 0. The p-value permutes the conditions of one measure within each trait.

    Args:
        traits: a pair a trait, paired shifts by unit of both measures: float [conditions, units], NaN where one is not
            measured. Several traits are pooled: their conditions are ranked together.
        together: both measures rest on the same units, which are then drawn together.

    Returns:
        `spearman`, `spearman_ci`, `p_value` (two-sided), `n` conditions. None where fewer than three conditions are
        measured twice or one measure is constant; no interval where a measure rests on one unit.
    """
    pairs = [(np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)) for a, b in traits]
    first, second = (_pooled([_means(pair[k], None) for pair in pairs]) for k in (0, 1))
    value, n = _spearman(first, second)
    found: dict[str, Any] = {"spearman": value, "spearman_ci": [None, None], "p_value": None, "n": n}
    if value is None:
        return found
    both = (np.isfinite(first) & np.isfinite(second))[0]
    trait = np.repeat(np.arange(len(pairs)), [len(a) for a, _ in pairs])[both]
    x, y = first[0, both], second[0, both]
    rng = np.random.default_rng(seed)
    order = np.array([np.lexsort((rng.random(n), trait)) for _ in range(draws)])  # shuffled within each trait
    null = _row_spearman(np.tile(x, (draws, 1)), y[order])
    found["p_value"] = float((1 + (np.abs(null) >= abs(value) - 1e-12).sum()) / (draws + 1))
    if min(m.shape[1] for pair in pairs for m in pair) < 2:
        return found
    drawn: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for number, (a, b) in enumerate(pairs):
        weights = bootstrap_weights(a.shape[1], draws, seed + 2 * number)
        others = weights if together else bootstrap_weights(b.shape[1], draws, seed + 2 * number + 1)
        drawn[0].append(_means(a, weights))
        drawn[1].append(_means(b, others))
    resampled = _row_spearman(_pooled(drawn[0])[:, both], _pooled(drawn[1])[:, both])
    if np.isfinite(resampled).sum() >= draws // 2:
        found["spearman_ci"] = list(percentile_interval(resampled))
    return found


def _means(values: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """Mean of each condition over its measured units, float [draws, conditions]; NaN where none is drawn."""
    if weights is None:
        weights = np.ones((1, values.shape[1]))
    known = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.asarray((weights @ np.where(known, values, 0.0).T) / (weights @ known.T.astype(np.float64)))


def _pooled(parts: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts, axis=1)


def _row_spearman(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of each row, float [draws]; NaN where a value is missing or a row is constant."""
    whole = np.isfinite(a).all(axis=1) & np.isfinite(b).all(axis=1)
    ranks = [scipy_stats.rankdata(np.where(whole[:, None], x, 0.0), axis=1) for x in (a, b)]
    left, right = (r - r.mean(axis=1, keepdims=True) for r in ranks)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = (left * right).sum(axis=1) / np.sqrt((left**2).sum(axis=1) * (right**2).sum(axis=1))
    return np.where(whole, found, np.nan)

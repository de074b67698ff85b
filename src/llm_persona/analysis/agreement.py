"""Whether two measures of the same models and traits agree: rank correlation over the cells of a matrix."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import stats as scipy_stats

from llm_persona.analysis.stats import percentile_interval


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

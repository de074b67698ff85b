"""Does a number read before an answer tell what the answer will be? Correlation overall and within condition."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.stats import rankdata

from llm_persona.analysis.stats import percentile_interval, widened

Cells = tuple[np.ndarray, np.ndarray]


def association(
    before: np.ndarray, after: np.ndarray, draws: int = 1000, permutations: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """Pearson and Spearman correlation of `before` with `after`, overall and pooled within condition.

    Within condition both are centred by condition (Spearman: ranks within condition, centred), so that a condition that
    moves both makes no correlation. Intervals resample questions, each with all its answers under all conditions; the
    conditions are those that were measured. The null permutes the questions of `before` as whole blocks, the same in
    every condition; overall, the conditions as whole blocks too (rows and columns exchangeable, as in Mantel 1967), so
    few conditions allow no small p. p-values are two-sided.

    Args:
        before: [conditions, questions], what is read before the answer.
        after: [conditions, questions, samples], what the answer is; NaN where it is unscored.

    Returns:
        `overall` and `within`: `pearson`, `pearson_ci`, `pearson_p`, `spearman`, `spearman_ci`, `spearman_p`, `n`
        answers, `n_questions`, `n_conditions`; None where there is too little or nothing varies.
    """
    x, y = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    scored = np.isfinite(y) & np.isfinite(x)[:, :, None]
    y = np.where(scored, y, np.nan)
    counts = {
        "n": int(scored.sum()),
        "n_questions": int(scored.any(axis=(0, 2)).sum()),
        "n_conditions": int(scored.any(axis=(1, 2)).sum()),
    }
    found: dict[str, Any] = {}
    for scope, prepare in (("overall", _all), ("within", _centred)):
        part: dict[str, Any] = {}
        for name, ranked in (("pearson", False), ("spearman", True)):
            part |= _measured(x, y, name, prepare, ranked, scope == "overall", draws, permutations, seed)
        found[scope] = {**part, **counts}
    return found


def by_condition(before: np.ndarray, after: np.ndarray) -> list[dict[str, Any]]:
    """Per condition: mean of either side, Pearson correlation (None below three scored answers), n scored."""
    rows = []
    for x, y in zip(np.asarray(before, dtype=float)[:, None], np.asarray(after, dtype=float)[:, None], strict=True):
        known = np.isfinite(y)
        n = int(known.sum())
        rows.append(
            {
                "before_mean": float(x.mean()),
                "after_mean": float(y[known].mean()) if n else None,
                "pearson": correlation(_all(x, y, False)) if n > 2 else None,
                "n": n,
            }
        )
    return rows


def correlation(cells: Cells) -> float | None:
    """Pearson correlation of two lists; None for fewer than three pairs, or where one does not vary."""
    x, y = cells
    if len(x) < 3:
        return None
    x, y = x - x.mean(), y - y.mean()
    spread = float(np.sqrt((x @ x) * (y @ y)))
    scale = 1e-12 * max(float(np.abs(cells[0]).max()) ** 2, 1e-300) ** 0.5 * max(float(np.abs(cells[1]).max()), 1e-300)
    return float(np.clip(x @ y / spread, -1, 1)) if spread > scale else None


def _measured(
    x: np.ndarray, y: np.ndarray, name: str, prepare: Callable[[np.ndarray, np.ndarray, bool], Cells], ranked: bool,
    blocks: bool, draws: int, permutations: int, seed: int,
) -> dict[str, Any]:  # fmt: skip
    value = correlation(prepare(x, y, ranked))
    found: dict[str, Any] = {name: value, f"{name}_ci": [None, None], f"{name}_p": None}
    used = np.flatnonzero(np.isfinite(y).any(axis=(0, 2)))
    if value is None or len(used) < 3:
        return found
    x, y = x[:, used], y[:, used]
    rng = np.random.default_rng(seed)
    resampled = []
    for _ in range(draws):
        chosen = rng.integers(0, len(used), len(used))
        drawn = correlation(prepare(x[:, chosen], y[:, chosen], ranked))
        if drawn is not None:
            resampled.append(drawn)
    if len(resampled) >= draws // 2:
        low, high = widened(percentile_interval(np.array(resampled)), value, len(used))
        found[f"{name}_ci"] = [max(-1.0, low), min(1.0, high)]
    beyond = 0
    for _ in range(permutations):
        shuffled = x[:, rng.permutation(len(used))]
        if blocks:
            shuffled = shuffled[rng.permutation(len(x))]
        null = correlation(prepare(shuffled, y, ranked))
        beyond += null is not None and abs(null) >= abs(value) - 1e-12
    found[f"{name}_p"] = (1 + beyond) / (1 + permutations)
    return found


def _pairs(x: np.ndarray, y: np.ndarray) -> Cells:
    known = np.isfinite(y)
    return np.broadcast_to(x[..., None], y.shape)[known], y[known]


def _all(x: np.ndarray, y: np.ndarray, ranked: bool) -> Cells:
    a, b = _pairs(x, y)
    return (rankdata(a), rankdata(b)) if ranked else (a, b)


def _centred(x: np.ndarray, y: np.ndarray, ranked: bool) -> Cells:
    parts = [_all(x[k], y[k], ranked) for k in range(len(x))]
    kept = [(a - a.mean(), b - b.mean()) for a, b in parts if len(a) > 1]
    if not kept:
        return np.empty(0), np.empty(0)
    return np.concatenate([a for a, _ in kept]), np.concatenate([b for _, b in kept])


def spearman(before: np.ndarray, after: np.ndarray) -> tuple[float | None, float | None]:
    """Spearman correlation overall and within condition, values alone; arguments as in `association`."""
    x, y = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    return correlation(_all(x, y, True)), correlation(_centred(x, y, True))

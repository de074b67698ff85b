"""Does a number read before an answer tell what the answer will be? Correlation overall and within condition."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.stats import rankdata

from llm_persona.analysis.stats import percentile_interval, widened


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
    for scope in ("overall", "within"):
        part: dict[str, Any] = {}
        for name, ranked in (("pearson", False), ("spearman", True)):
            part |= _measured(x, y, name, ranked, scope == "within", draws, permutations, seed)
        found[scope] = {**part, **counts}
    return found


def by_condition(before: np.ndarray, after: np.ndarray) -> list[dict[str, Any]]:
    """Per condition: mean of either side, Pearson correlation (None below three scored answers), n scored."""
    rows = []
    for x, y in zip(np.asarray(before, dtype=float), np.asarray(after, dtype=float), strict=True):
        known = np.isfinite(y)
        n = int(known.sum())
        rows.append(
            {
                "before_mean": float(x.mean()),
                "after_mean": float(y[known].mean()) if n else None,
                "pearson": _number(_correlations(x[None, None], y[None, None])[0]),
                "n": n,
            }
        )
    return rows


def spearman(before: np.ndarray, after: np.ndarray) -> dict[str, np.ndarray]:
    """Spearman correlation of many readings, values alone: `overall` and `within`, each [k]; NaN where there is none.

    Args:
        before: [k, conditions, questions]. after: as in `association`.
    """
    y = np.broadcast_to(after, (len(before), *after.shape))
    return {scope: _correlations(before, y, True, scope == "within") for scope in ("overall", "within")}


def _measured(
    x: np.ndarray, y: np.ndarray, name: str, ranked: bool, within: bool, draws: int, permutations: int, seed: int
) -> dict[str, Any]:
    value = _number(_correlations(x[None], y[None], ranked, within)[0])
    found: dict[str, Any] = {name: value, f"{name}_ci": [None, None], f"{name}_p": None}
    used = np.flatnonzero(np.isfinite(y).any(axis=(0, 2)))
    n = len(used)
    if value is None or n < 3:
        return found
    x, y = x[:, used], y[:, used]
    rng = np.random.default_rng(seed)
    resampled = []
    for count in _parts(draws):
        chosen = rng.integers(0, n, (count, n))
        resampled.append(_correlations(x[:, chosen].swapaxes(0, 1), y[:, chosen].swapaxes(0, 1), ranked, within))
    drawn = np.concatenate(resampled)
    if np.isfinite(drawn).mean() > 0.5:
        low, high = widened(percentile_interval(drawn), value, n)
        found[f"{name}_ci"] = [max(-1.0, low), min(1.0, high)]
    beyond = 0
    for count in _parts(permutations):
        questions = rng.permuted(np.tile(np.arange(n), (count, 1)), axis=1)
        rows = np.tile(np.arange(len(x)), (count, 1))
        rows = rows if within else rng.permuted(rows, axis=1)
        shuffled = x[rows[:, :, None], questions[:, None, :]]
        null = _correlations(shuffled, np.broadcast_to(y, (count, *y.shape)), ranked, within)
        beyond += int((np.abs(null) >= abs(value) - 1e-12).sum())
    found[f"{name}_p"] = (1 + beyond) / (1 + permutations)
    return found


def _parts(total: int, size: int = 200) -> list[int]:
    """How many at once: memory stays small whatever the number of answers."""
    return [min(size, total - start) for start in range(0, total, size)]


def _correlations(x: np.ndarray, y: np.ndarray, ranked: bool = False, within: bool = False) -> np.ndarray:
    """Correlation over scored answers for each of k arrays, [k] from [k, conditions, questions] and [..., samples]; NaN
    where there are fewer than three pairs, or one side does not vary."""
    known = np.isfinite(y)
    shape = (len(y), y.shape[1], -1) if within else (len(y), 1, -1)
    weight = known.reshape(shape).astype(np.float64)
    count = np.maximum(weight.sum(axis=-1, keepdims=True), 1)
    sides, sizes = [], []
    for side in (np.broadcast_to(x[..., None], y.shape), y):
        values = np.where(known, side, np.inf).reshape(shape)
        if ranked:
            values = rankdata(values, axis=-1)  # what is unscored ranks last, and leaves the others' ranks alone
        values = np.where(weight > 0, values, 0.0)
        sizes.append(np.abs(values).max(axis=(1, 2)))
        sides.append((values - values.sum(axis=-1, keepdims=True) / count) * weight)
    a, b = sides
    total = weight.sum(axis=(1, 2))
    spread = np.sqrt((a**2).sum(axis=(1, 2)) * (b**2).sum(axis=(1, 2)))
    varied = (spread > 1e-12 * sizes[0] * sizes[1] * total) & (total >= 3)
    return np.where(varied, np.clip((a * b).sum(axis=(1, 2)) / np.where(varied, spread, 1.0), -1, 1), np.nan)


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None

"""Intervals of an AUC by resampling questions: of a vector at each layer, and of whatever else reads the same rows."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from llm_persona.analysis.stats import CONFIDENCE, auc, bootstrap_weights, percentile_interval, widened

DRAWS = 2000


def auc_draws(scores: np.ndarray, high: np.ndarray, groups: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """AUC of each resample of groups [draws]: wins of high rows of group g over low rows of group g' form a matrix,
    and each resample weighs it. NaN where a resample lacks a pole. Bias of the resampled diagonal is small."""
    n_groups = weights.shape[1]
    order = np.argsort(groups[high], kind="stable"), np.argsort(groups[~high], kind="stable")
    x, y = scores[high][order[0]], scores[~high][order[1]]
    gx, gy = groups[high][order[0]], groups[~high][order[1]]
    wins = (x[:, None] > y[None, :]) + 0.5 * (x[:, None] == y[None, :])
    in_x = np.zeros((n_groups, len(x)))
    in_x[gx, np.arange(len(x))] = 1
    in_y = np.zeros((n_groups, len(y)))
    in_y[gy, np.arange(len(y))] = 1
    won = in_x @ wins @ in_y.T
    pairs = np.outer(in_x.sum(axis=1), in_y.sum(axis=1))
    top = np.einsum("bg,gk,bk->b", weights, won, weights, optimize=True)
    bottom = np.einsum("bg,gk,bk->b", weights, pairs, weights, optimize=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(bottom > 0, top / bottom, np.nan)


def auc_interval(draws: np.ndarray, n_groups: int, observed: float) -> tuple[float, float]:
    """The draws' interval, with the caps that n wins in a row allow at its ends."""
    cap = ((1 - CONFIDENCE) / 2) ** (1 / n_groups)
    low_end, high_end = widened(percentile_interval(draws), observed, n_groups)
    return max(0.0, min(low_end, cap)), min(1.0, max(high_end, 1 - cap))


def auc_with_interval(
    scores: np.ndarray, high: np.ndarray, groups: Sequence[Hashable], seed: int = 0
) -> tuple[float | None, list[float | None]]:
    """AUC of any scores [n] with the interval that `assess` gives a vector: 95%, bootstrap over questions.

    Of a fitted reader (a bag of words) the interval is conditional on the fit. None where a pole has no row or a score
    is not finite, and no interval from one question.
    """
    value = float(auc(scores, high)) if len(scores) else float("nan")
    if not (np.isfinite(value) and np.isfinite(scores).all()):
        return None, [None, None]
    numbers: dict[Any, int] = {}
    index = np.array([numbers.setdefault(g, len(numbers)) for g in groups], dtype=int)
    if len(numbers) < 2:
        return value, [None, None]
    draws = auc_draws(scores, high, index, bootstrap_weights(len(numbers), DRAWS, seed + 1))
    return value, list(auc_interval(draws, len(numbers), value))


def layer_draws(scores: np.ndarray, high: np.ndarray, groups: np.ndarray, seed: int = 0) -> np.ndarray:
    """AUC of each layer in each resample of the questions: [layers, draws] from scores [n, layers]; the draws that
    `assess` with the same seed takes `auc_ci` from. `groups` are numbered from 0."""
    weights = bootstrap_weights(int(groups.max()) + 1, DRAWS, seed + 1)
    return np.stack([auc_draws(column, high, groups, weights) for column in scores.T])

"""What each part of the depth does: how well it is read there, and how far steering there moves the subject."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats as scipy_stats

from llm_persona.analysis.auc_intervals import auc_interval
from llm_persona.analysis.stats import percentile_interval, widened

BANDS = (("early", 0.0, 1 / 3), ("middle", 1 / 3, 2 / 3), ("late", 2 / 3, 1.0))


def layer_bands(
    aucs: Sequence[float], sweep: Sequence[dict[str, Any]], draws: np.ndarray | None = None, n_groups: int = 0
) -> dict[str, Any]:
    """Mean AUC over the layers of each third of the depth, and mean effect and cost over its swept layers.

    Args:
        aucs: held-out AUC by layer. sweep: `layer`, `effect`, `effect_ci`, `cost` of the layers that were steered at.
        draws: AUC of each layer in each resample of the `n_groups` questions, [layers, draws].

    Returns:
        By band: `layers` [first, last], `auc`, `auc_ci`, `swept` (how many), `effect`, `effect_ci` and `cost` (None
        where none was swept). `effect_ci` is the mean of the layers' own ends: their mean's interval where they move
        alike, and wider than it otherwise. `middle` has `auc_less` too: its AUC less that of each other band, with
        `ci`, both on the same resampled questions.
    """
    found: dict[str, Any] = {}
    means: dict[str, np.ndarray] = {}
    for name, low, high in BANDS:
        first, last = round(low * len(aucs)), round(high * len(aucs)) - 1
        inside = [p for p in sweep if first <= p["layer"] <= last]
        costs = [p["cost"] for p in inside if p["cost"] is not None]
        value = float(np.mean(aucs[first : last + 1])) if last >= first else None
        if draws is not None and value is not None:
            means[name] = draws[first : last + 1].mean(axis=0)
        found[name] = {
            "layers": [first, last],
            "auc": value,
            "auc_ci": list(auc_interval(means[name], n_groups, value)) if name in means and value else [None, None],
            "swept": len(inside),
            "effect": float(np.mean([p["effect"] for p in inside])) if inside else None,
            "effect_ci": _mean_ends([p.get("effect_ci") for p in inside]),
            "cost": float(np.mean(costs)) if costs else None,
        }
    found["middle"]["auc_less"] = {
        other: {
            "difference": found["middle"]["auc"] - found[other]["auc"],
            "ci": list(
                widened(
                    percentile_interval(means["middle"] - means[other]),
                    found["middle"]["auc"] - found[other]["auc"],
                    n_groups,
                )
            ),
        }
        for other in ("early", "late")
        if "middle" in means and other in means
    }
    return found


def _mean_ends(intervals: Sequence[Sequence[float | None] | None]) -> list[float | None]:
    """Mean lower and mean upper end; none where one of the intervals is missing."""
    ends = [ci for ci in intervals if ci and ci[0] is not None and ci[1] is not None]
    if not ends or len(ends) < len(intervals):
        return [None, None]
    return [float(np.mean([ci[k] for ci in ends])) for k in (0, 1)]


def read_against_steer(aucs: Sequence[float], sweep: Sequence[dict[str, Any]], seed: int = 0) -> dict[str, Any]:
    """Rank correlation over swept layers between how well a layer is read and how far steering there moves.

    Returns:
        `spearman`, `spearman_ci` (bootstrap over layers), `p_value` (10,000 permutations of the layers), `n`.
        None where fewer than four layers were swept or one of the two does not vary.
    """
    pairs = np.array([[aucs[p["layer"]], p["effect"]] for p in sweep], dtype=float).reshape(-1, 2)
    n = len(pairs)
    if n < 4 or np.ptp(pairs[:, 0]) == 0 or np.ptp(pairs[:, 1]) == 0:
        return {"spearman": None, "spearman_ci": [None, None], "p_value": None, "n": n}
    return {**rank_correlation(pairs[:, 0], pairs[:, 1], seed), "n": n}


def rank_correlation(a: np.ndarray, b: np.ndarray, seed: int = 0, draws: int = 2000) -> dict[str, Any]:
    """Spearman's rank correlation with a bootstrap interval over pairs and a permutation p-value, two-sided."""
    draw = np.random.default_rng(seed)
    n = len(a)
    value = float(_spearman(a[None], b[None])[0])
    rows = draw.integers(0, n, (draws, n))
    low, high = np.nanpercentile(_spearman(a[rows], b[rows]), [2.5, 97.5])
    shuffled = np.argsort(draw.random((9999, n)), axis=1)
    null = np.abs(_spearman(np.broadcast_to(a, (9999, n)), b[shuffled]))
    p_value = (1 + (null >= abs(value) - 1e-12).sum()) / 10_000
    return {"spearman": value, "spearman_ci": [float(low), float(high)], "p_value": float(p_value)}


def _spearman(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Rank correlation of each row pair of a and b [k, n]; NaN where one of them does not vary."""
    x, y = (scipy_stats.rankdata(values, axis=1) for values in (a, b))
    x, y = x - x.mean(axis=1, keepdims=True), y - y.mean(axis=1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((x * y).sum(axis=1) / np.sqrt((x**2).sum(axis=1) * (y**2).sum(axis=1)))

"""How good a persona vector is: held out by question, with an interval and a null beside every number.

In-sample AUC means nothing when the hidden size exceeds the number of rows: pure noise gives 1.0. So a
vector is either judged on rows of other questions (a locked test), or cross-fitted: each fold of
questions is read by a vector fitted on the other folds.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from llm_persona.analysis.activations import Activations
from llm_persona.analysis.auc_intervals import DRAWS, auc_draws, auc_interval
from llm_persona.analysis.stats import CONFIDENCE, auc, bootstrap_weights, percentile_interval, sign_flips, widened
from llm_persona.analysis.vectors import PersonaVector, fit, projections
from llm_persona.domain.errors import UserError

Band = Literal["excellent", "good", "poor"]


@dataclass(frozen=True)
class LayerQuality:
    """One layer. Separation and variances are in projection units (activation norm along the unit vector)."""

    layer: int
    auc: float
    auc_ci: tuple[float, float]
    below_best_ci: tuple[float, float]
    """Interval of the best-read layer's AUC less this one's, both on the same resampled questions."""
    auc_within: float | None
    """Probability that a high row scores above a low one of the same question; None where no question has both."""
    p_value: float
    p_family: float
    separation: float
    separation_ci: tuple[float, float]
    variance_high: float
    variance_low: float
    effect_size: float
    norm: float
    dose_per_unit: float
    band: Band


@dataclass(frozen=True)
class Quality:
    """All layers, the projections they rest on, and how the numbers were held out.

    `scores` float64 [n, layers]: the projection of each row, in the rows' order. `conditional_on_fit` is
    True for cross-fitted quality: its intervals do not cover the spread between fits.
    """

    layers: list[LayerQuality]
    scores: np.ndarray
    n_high: int
    n_low: int
    n_groups: int
    permutations: int
    conditional_on_fit: bool

    @property
    def best(self) -> int:
        """The layer of the highest AUC, larger separation in units of spread first among equals."""
        return max(self.layers, key=lambda q: (q.auc, q.effect_size)).layer

    def as_json(self) -> list[dict[str, Any]]:
        """The layers as plain data."""
        return [asdict(layer) for layer in self.layers]


def assess(
    acts: Activations,
    vector: PersonaVector | None = None,
    folds: int = 5,
    permutations: int = 1000,
    seed: int = 0,
) -> Quality:
    """Judge a vector on `acts` as a locked test, or (no vector) the method by cross-fitting on groups.

    p-values: the poles are flipped within each question, the AUC taken again; `p_family` compares with the
    maximum over layers (Westfall & Young 1993). Intervals: bootstrap over questions, its lower end never
    above what n wins in a row allow, (alpha/2)^(1/n), so that few questions cannot look certain.

    Raises:
        UserError: fewer than two questions, a pole without rows, or fewer questions than folds allow.
    """
    high, groups = acts.high, acts.group_index
    n_groups = int(groups.max()) + 1 if len(groups) else 0
    if any(p == "neutral" for p in acts.poles):
        raise UserError("assess: give rows of the poles high and low only")
    if not high.any() or high.all():
        raise UserError(f"assess: {int(high.sum())} high and {int((~high).sum())} low rows; both poles are needed")
    if n_groups < 2:
        raise UserError("assess: all rows belong to one question; held-out quality needs at least two")
    flips = sign_flips(n_groups, permutations, seed)
    if vector is not None:
        vector.check(acts.n_layers, acts.values.shape[2])
        scores = projections(acts.values, vector)
        null = np.stack([_flipped_auc(scores[:, k], high, groups, flips) for k in range(acts.n_layers)])
        norms, reference = vector.norms, vector.reference_norms.astype(np.float64)
    else:
        scores, null = _cross_fit(acts, min(folds, n_groups), flips, seed)
        whole = fit(acts)
        norms, reference = whole.norms, whole.reference_norms.astype(np.float64)
    observed = np.atleast_1d(auc(scores, high))
    family = null.max(axis=0)
    weights = bootstrap_weights(n_groups, DRAWS, seed + 1)
    draws = np.stack([auc_draws(scores[:, k], high, groups, weights) for k in range(acts.n_layers)])
    best = int(np.argmax(observed))
    layers = []
    for k in range(acts.n_layers):
        low_end, high_end = auc_interval(draws[k], n_groups, float(observed[k]))
        gap, gap_ci = _separation(scores[:, k], high, groups, weights)
        spread = np.sqrt((scores[high, k].var() + scores[~high, k].var()) / 2)
        layers.append(
            LayerQuality(
                layer=k,
                auc=float(observed[k]),
                auc_ci=(low_end, high_end),
                below_best_ci=_below(draws[best] - draws[k], float(observed[best] - observed[k]), n_groups),
                auc_within=within_auc(scores[:, k], high, groups),
                p_value=_p(null[k], observed[k]),
                p_family=_p(family, observed[k]),
                separation=gap,
                separation_ci=gap_ci,
                variance_high=float(scores[high, k].var(ddof=1)) if high.sum() > 1 else 0.0,
                variance_low=float(scores[~high, k].var(ddof=1)) if (~high).sum() > 1 else 0.0,
                effect_size=float(gap / spread) if spread > 0 else 0.0,
                norm=float(norms[k]),
                dose_per_unit=float(norms[k] / reference[k]) if reference[k] > 0 else 0.0,
                band=band(low_end),
            )
        )
    return Quality(layers, scores, int(high.sum()), int((~high).sum()), n_groups, permutations, vector is None)


def within_auc(scores: np.ndarray, high: np.ndarray, groups: np.ndarray) -> float | None:
    """AUC within each question that has both poles, averaged over those questions."""
    found = []
    for group in np.unique(groups):
        inside = groups == group
        if high[inside].any() and not high[inside].all():
            found.append(float(auc(scores[inside], high[inside])))
    return float(np.mean(found)) if found else None


def band(lower_end: float) -> Band:
    """The field's bands, read at the lower end of the interval."""
    return "excellent" if lower_end > 0.8 else "good" if lower_end >= 0.6 else "poor"


def _p(null: np.ndarray, observed: float) -> float:
    return float((1 + (null >= observed - 1e-12).sum()) / (len(null) + 1))


def _flipped_auc(scores: np.ndarray, high: np.ndarray, groups: np.ndarray, flips: np.ndarray) -> np.ndarray:
    """AUC [flips] with the poles swapped in the groups of sign -1. The pooled ranks never change, so each
    flip only moves a group's rank sum from one pole to the other: a matrix product, exact with ties."""
    from scipy.stats import rankdata

    ranks = rankdata(scores)
    n_groups = flips.shape[1]
    rank_high = np.bincount(groups[high], ranks[high], n_groups)
    rank_low = np.bincount(groups[~high], ranks[~high], n_groups)
    size_high = np.bincount(groups[high], minlength=n_groups).astype(float)
    size_low = np.bincount(groups[~high], minlength=n_groups).astype(float)
    swapped = (flips < 0).astype(float)
    ranks_of_high = rank_high.sum() + swapped @ (rank_low - rank_high)
    n_high = size_high.sum() + swapped @ (size_low - size_high)
    n_low = len(scores) - n_high
    with np.errstate(divide="ignore", invalid="ignore"):
        found = (ranks_of_high - n_high * (n_high + 1) / 2) / (n_high * n_low)
    return np.where((n_high > 0) & (n_low > 0), found, 0.5)


def _below(draws: np.ndarray, observed: float, n_groups: int) -> tuple[float, float]:
    """Interval of a difference of AUCs. It holds zero where so few questions cannot show one: no way of swapping the
    two layers in n questions is rarer than 2^(1 - n)."""
    low, high = widened(percentile_interval(draws), observed, n_groups)
    return (min(low, 0.0), high) if 2.0 ** (1 - n_groups) > 1 - CONFIDENCE else (low, high)


def _separation(
    scores: np.ndarray, high: np.ndarray, groups: np.ndarray, weights: np.ndarray
) -> tuple[float, tuple[float, float]]:
    draws = separation_draws(scores, high, groups, weights)
    gap = float(scores[high].mean() - scores[~high].mean())
    return gap, widened(percentile_interval(draws), gap, weights.shape[1])


def separation_draws(scores: np.ndarray, high: np.ndarray, groups: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """mean(high) - mean(low) [draws] of each resample of groups; NaN where a resample lacks a pole."""
    n_groups = weights.shape[1]
    sums = [np.bincount(groups[m], scores[m], n_groups) for m in (high, ~high)]
    sizes = [np.bincount(groups[m], minlength=n_groups).astype(float) for m in (high, ~high)]
    with np.errstate(divide="ignore", invalid="ignore"):
        return (weights @ sums[0]) / (weights @ sizes[0]) - (weights @ sums[1]) / (weights @ sizes[1])


def _cross_fit(acts: Activations, folds: int, flips: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores [n, layers] of each row under the vector of the other folds, and AUCs [layers, flips] of the
    same procedure with flipped poles, refitted. Only Gram matrices are needed: with d_g the pole difference
    of group g, v = sum_g w_g s_g d_g, so projections are (X D^T)(w s) and norms come from D D^T.

    Each fold's scores are centred on the midpoint of its training poles and divided by the vector's norm, so
    that folds can be ranked together. Groups with one pole only do not enter the fit.
    """
    high, groups = acts.high, acts.group_index
    n_groups = flips.shape[1]
    fold_of = np.random.default_rng(seed + 2).permutation(n_groups) % folds
    signs = np.vstack([np.ones(n_groups), flips])  # the first row is the data as it is
    swapped = signs[:, groups] < 0
    highs = np.where(swapped, ~high, high)
    scores = np.empty((len(acts), acts.n_layers))
    null = np.empty((acts.n_layers, len(flips)))
    sizes = [np.bincount(groups[m], minlength=n_groups) for m in (high, ~high)]
    both = (sizes[0] > 0) & (sizes[1] > 0)
    means = np.zeros((2, n_groups, len(acts)))
    for pole, mask in enumerate((high, ~high)):
        rows = np.flatnonzero(mask)
        means[pole, groups[rows], rows] = 1 / sizes[pole][groups[rows]]
    for layer in range(acts.n_layers):
        x = np.asarray(acts.values[:, layer], dtype=np.float64)
        x = x - x.mean(axis=0)
        differences = (means[0] - means[1]) @ x
        differences[~both] = 0
        middles = (means[0] + means[1]) @ x / 2
        gram, cross = differences @ differences.T, x @ differences.T
        centre = middles @ differences.T
        pooled = np.empty((len(acts), len(signs)))
        for fold in range(folds):
            train = (fold_of != fold) & both
            if not train.any():
                raise UserError("assess: too few questions with both poles for cross-fitting; give a vector instead")
            mix = (signs * train).T / train.sum()
            norm = np.sqrt(np.maximum(np.einsum("gp,gk,kp->p", mix, gram, mix, optimize=True), 1e-300))
            held = fold_of[groups] == fold
            offset = (train / train.sum()) @ centre @ mix
            pooled[held] = (cross[held] @ mix - offset) / norm
        scores[:, layer] = pooled[:, 0]
        from scipy.stats import rankdata

        ranks = rankdata(pooled[:, 1:], axis=0)
        chosen = highs[1:].T
        n_high = chosen.sum(axis=0)
        with np.errstate(divide="ignore", invalid="ignore"):
            found = ((ranks * chosen).sum(axis=0) - n_high * (n_high + 1) / 2) / (n_high * (len(acts) - n_high))
        null[layer] = np.where(np.isfinite(found), found, 0.5)
    return scores, null

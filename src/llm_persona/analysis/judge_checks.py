"""What can be wrong with a judge, measured on answers whose pole is known: discrimination, noise, length, order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import rankdata

from llm_persona.analysis.activations import Activations
from llm_persona.analysis.quality import assess
from llm_persona.analysis.stats import bootstrap_weights, mean_estimate, percentile_interval, widened
from llm_persona.analysis.vectors import PersonaVector

DRAWS = 1000


def pole_auc(scores: Sequence[float], poles: Sequence[str], groups: Sequence[str]) -> dict[str, Any]:
    """Probability that a high answer scores above a low one (ties half), with its bootstrap interval over items.

    A score is a recording of one number, so this is the AUC of a vector of width one: the same interval, whose lower
    end never exceeds what n items in a row allow.
    """
    if len(set(groups)) < 2 or set(poles) != {"high", "low"}:
        return {"value": None, "ci": None, "n": len(scores), "n_items": len(set(groups))}
    values = np.asarray(scores, dtype=np.float32)[:, None, None]
    number = PersonaVector(np.ones((1, 1), np.float32), np.ones(1, np.float32), {})
    found = assess(Activations(values, list(poles), list(groups)), number, permutations=1).layers[0]
    return {"value": found.auc, "ci": list(found.auc_ci), "n": len(scores), "n_items": len(set(groups))}


def differences(first: Sequence[float], second: Sequence[float]) -> dict[str, Any]:
    """Two readings of the same answers: mean absolute difference in points with its interval, standard deviation of the
    difference, correlation (null where either reading is constant)."""
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if not len(a):
        return {"value": None, "ci": None, "sd": None, "correlation": None, "n": 0}
    mean = mean_estimate(np.abs(a - b))
    varied = len(a) > 2 and a.std() > 0 and b.std() > 0
    return {
        "value": mean.value,
        "ci": [max(0.0, mean.low), mean.high] if mean.low is not None else None,
        "sd": float((a - b).std(ddof=1)) if len(a) > 1 else None,
        "correlation": float(np.corrcoef(a, b)[0, 1]) if varied else None,
        "n": len(a),
    }


def length_correlation(
    scores: Sequence[float], lengths: Sequence[float], poles: Sequence[str], groups: Sequence[str], seed: int = 0
) -> dict[str, Any]:
    """Spearman correlation of score and length within pole, with its bootstrap interval over items.

    Ranks are taken within each pole and pooled, so that a pole whose answers are longer makes no correlation. Where no
    score differs within its pole the correlation is 0: such a judge follows nothing but the pole. Where no length
    does, there is nothing to measure, and the value is null.
    """
    s, n, pole = np.asarray(scores, float), np.asarray(lengths, float), np.asarray(poles)
    names, index = np.unique(np.asarray(groups), return_inverse=True)
    value = _within(s, n, pole)
    found: dict[str, Any] = {"value": value, "ci": None, "n": len(s), "n_items": len(names)}
    if value is None or len(names) < 2:
        return found
    rows = [np.flatnonzero(index == k) for k in range(len(names))]
    draws = []
    for weights in bootstrap_weights(len(names), DRAWS, seed):
        chosen = np.concatenate([np.repeat(rows[k], int(w)) for k, w in enumerate(weights) if w])
        draw = _within(s[chosen], n[chosen], pole[chosen])
        draws.append(np.nan if draw is None else draw)
    if np.isfinite(draws).any():
        low, high = widened(percentile_interval(np.array(draws)), value, len(names))
        found["ci"] = [max(-1.0, low), min(1.0, high)]
    return found


def _within(scores: np.ndarray, lengths: np.ndarray, poles: np.ndarray) -> float | None:
    x, y = [], []
    for pole in np.unique(poles):
        a, b = rankdata(scores[poles == pole]), rankdata(lengths[poles == pole])
        x.append(a - a.mean())
        y.append(b - b.mean())
    if not x:
        return None
    left, right = np.concatenate(x), np.concatenate(y)
    if not (right**2).sum():
        return None
    spread = np.sqrt((left**2).sum() * (right**2).sum())
    return float((left * right).sum() / spread) if spread > 0 else 0.0

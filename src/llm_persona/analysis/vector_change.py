"""How a persona vector and its reading changed between two models: paired by question, with intervals."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import t

from llm_persona.analysis.activations import Activations
from llm_persona.analysis.auc_intervals import DRAWS, auc_draws
from llm_persona.analysis.quality import separation_draws
from llm_persona.analysis.stats import CONFIDENCE, auc, bootstrap_weights, percentile_interval, widened


@dataclass(frozen=True)
class PoleSums:
    """What a vector is fitted on at one layer, by question: sums of the rows [groups, hidden] and their number
    [groups], high first."""

    groups: tuple[Hashable, ...]
    sums: tuple[np.ndarray, np.ndarray]
    sizes: tuple[np.ndarray, np.ndarray]

    def of(self, groups: Sequence[Hashable]) -> PoleSums:
        """Those of the given questions, in that order."""
        place = {group: number for number, group in enumerate(self.groups)}
        at = np.array([place[group] for group in groups], dtype=int)
        return PoleSums(tuple(groups), *(tuple(x[at] for x in part) for part in (self.sums, self.sizes)))

    def directions(self, weights: np.ndarray) -> np.ndarray:
        """mean(high) - mean(low) [draws, hidden] with each question weighed, weights [draws, groups]."""
        with np.errstate(divide="ignore", invalid="ignore"):
            high, low = ((weights @ s) / (weights @ n)[:, None] for s, n in zip(self.sums, self.sizes, strict=True))
        return np.asarray(high - low)


def pole_sums(acts: Activations, layer: int) -> PoleSums:
    """Of one layer, from rows of both poles."""
    at, high = acts.group_index, acts.high
    names = tuple(dict.fromkeys(acts.groups))
    values = np.asarray(acts.values[:, layer], dtype=np.float64)
    sums, sizes = [], []
    for chosen in (high, ~high):
        total = np.zeros((len(names), values.shape[1]))
        np.add.at(total, at[chosen], values[chosen])
        sums.append(total)
        sizes.append(np.bincount(at[chosen], minlength=len(names)).astype(np.float64))
    return PoleSums(names, (sums[0], sums[1]), (sizes[0], sizes[1]))


def cosine_interval(before: PoleSums, after: PoleSums) -> list[float | None]:
    """95% interval of the cosine of two vectors that were fitted on the same rows as read by two models.

    Jackknife: each question is left out in turn, in both, and the spread is taken on the scale of the inverse
    hyperbolic tangent. (Resampling would not do: a resample's vectors are noisier than the whole's, so that their
    cosines lie below its own.) [None, None] with fewer than two questions in common.
    """
    known = set(after.groups)
    common = [group for group in before.groups if group in known]
    if len(common) < 2:
        return [None, None]
    n = len(common)
    weights = np.vstack([np.ones((1, n)), 1 - np.eye(n)])
    a, b = (part.of(common).directions(weights) for part in (before, after))
    with np.errstate(divide="ignore", invalid="ignore"):
        cosine = (a * b).sum(axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    if not np.isfinite(cosine).all():
        return [None, None]
    turned = np.arctanh(np.clip(cosine, -1 + 1e-12, 1 - 1e-12))
    spread = np.sqrt((n - 1) / n * ((turned[1:] - turned[1:].mean()) ** 2).sum())
    reach = t.ppf(0.5 + CONFIDENCE / 2, n - 1) * spread
    return [float(np.tanh(turned[0] - reach)), float(np.tanh(turned[0] + reach))]


def reading_change(
    before: Sequence[float | None],
    after: Sequence[float | None],
    high: Sequence[bool],
    groups: Sequence[Hashable],
    seed: int = 0,
) -> dict[str, Any]:
    """AUC and separation of two readings of the same rows, and what changed, paired by question.

    Args:
        before, after: projections [n], None where a model left the row out; only rows that both read count.
        high, groups: pole and question of each row.

    Returns:
        `auc_before`, `auc_after`, `auc_change`, `separation_...` alike, and `..._ci` of each, from the same resamples
        of questions as `assess` draws. With few questions an AUC's interval reaches as far as in `assess`, and that of
        a change that no resample varies as far as the AUCs' own could. All None where a pole or a second question is
        missing.
    """
    kept = [n for n, (a, b) in enumerate(zip(before, after, strict=True)) if a is not None and b is not None]
    names = ("auc_before", "auc_after", "auc_change", "separation_before", "separation_after", "separation_change")
    found: dict[str, Any] = dict.fromkeys(names) | {f"{name}_ci": [None, None] for name in names}
    poles = np.array([high[n] for n in kept], dtype=bool)
    order = {group: number for number, group in enumerate(dict.fromkeys(groups[n] for n in kept))}
    if len(order) < 2 or not poles.any() or poles.all():
        return found
    index = np.array([order[groups[n]] for n in kept])
    scores = [np.array([part[n] for n in kept], dtype=np.float64) for part in (before, after)]
    weights = bootstrap_weights(len(order), DRAWS, seed + 1)
    cap = ((1 - CONFIDENCE) / 2) ** (1 / len(order))
    values = {
        "auc": [float(auc(s, poles)) for s in scores],
        "separation": [float(s[poles].mean() - s[~poles].mean()) for s in scores],
    }
    draws = {
        "auc": [auc_draws(s, poles, index, weights) for s in scores],
        "separation": [separation_draws(s, poles, index, weights) for s in scores],
    }
    for what in values:
        for moment, value, drawn in zip(("before", "after"), values[what], draws[what], strict=True):
            low, high_end = widened(percentile_interval(drawn), value, len(order))
            if what == "auc":
                low, high_end = max(0.0, min(low, cap)), min(1.0, max(high_end, 1 - cap))
            found |= {f"{what}_{moment}": value, f"{what}_{moment}_ci": [low, high_end]}
        change = values[what][1] - values[what][0]
        varied = draws[what][1] - draws[what][0]
        low, high_end = widened(percentile_interval(varied), change, len(order))
        if what == "auc" and np.nanmax(varied) == np.nanmin(varied):
            low, high_end = change - (1 - cap), change + (1 - cap)
        found |= {f"{what}_change": change, f"{what}_change_ci": [low, high_end]}
    return found

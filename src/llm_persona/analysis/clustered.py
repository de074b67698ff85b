"""Means and shares of answers that come several to a question: resampled by question, never by answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from llm_persona.analysis.paired import paired_means
from llm_persona.analysis.stats import bootstrap_weights, percentile_interval, proportion_estimate, widened

DRAWS = 2000


def clustered_mean(questions: Sequence[str], values: Sequence[float]) -> dict[str, Any]:
    """Mean of the values with its bootstrap interval over questions; no interval from one question.

    Returns:
        `mean`, `ci`, `n` (values), `n_questions`.
    """
    n = len(values)
    if not n:
        return {"mean": None, "ci": None, "n": 0, "n_questions": 0}
    names, index = np.unique(np.asarray(questions), return_inverse=True)
    found = np.asarray(values, dtype=np.float64)
    mean, k = float(found.mean()), len(names)
    result: dict[str, Any] = {"mean": mean, "ci": None, "n": n, "n_questions": k}
    if k > 1:
        weights = bootstrap_weights(k, DRAWS, 0)
        sums, counts = np.bincount(index, found, k), np.bincount(index, minlength=k)
        result["ci"] = list(widened(percentile_interval((weights @ sums) / (weights @ counts)), mean, k))
    return result


def clustered_share(questions: Sequence[str], hits: Sequence[bool]) -> dict[str, Any]:
    """Percentage of hits with its interval.

    One answer a question: Wilson. Several: bootstrap over questions, widened where it is narrower than Wilson's for as
    many independent answers (few questions can agree by luck). Where every answer is a hit or none is, resampling shows
    no spread; the interval is then Wilson's for as many trials as there are questions, which supposes that the answers
    to a question tell no more than one of them.

    Returns:
        `percent`, `ci`, `method`, `hits`, `n` (answers), `n_questions`.
    """
    n, count = len(hits), int(sum(hits))
    if not n:
        return {"percent": None, "ci": None, "method": None, "hits": 0, "n": 0, "n_questions": 0}
    k = len(set(questions))
    share: dict[str, Any] = {"percent": 100 * count / n, "hits": count, "n": n, "n_questions": k}
    if k == n:
        return {**share, "ci": proportion_estimate(count, n).ci, "method": "Wilson"}
    if count in (0, n):
        return {**share, "ci": proportion_estimate(k if count else 0, k).ci, "method": "Wilson over questions"}
    ci = clustered_mean(questions, [100.0 * hit for hit in hits])["ci"]
    if ci is None:
        return {**share, "ci": None, "method": None}
    alone = proportion_estimate(count, n)
    assert alone.low is not None
    assert alone.high is not None
    wide = [max(0.0, min(ci[0], alone.low)), min(100.0, max(ci[1], alone.high))]
    return {**share, "ci": wide, "method": "bootstrap over questions"}


def paired_by_question(
    values: Mapping[str, Sequence[float]], base: Mapping[str, Sequence[float]], bound: float = 0.0
) -> dict[str, Any]:
    """Mean over questions of (mean under the condition - mean of the base), with its interval and sign-flip p-value.

    Questions count alike however many answers they have; those without a value on both sides are left out and counted.
    `bound` above 0 is the range of a share (100 for percent): where no question differs at all, resampling shows no
    spread, and the interval is as far as Wilson's for 0 of so many questions allows, on either side.
    """
    both = [q for q in values if len(values[q]) and len(base.get(q, ()))]
    means = [(float(np.mean(values[q])), float(np.mean(base[q]))) for q in both]
    out = len(set(values) | set(base)) - len(both)
    if not both:
        return {"mean": None, "ci": None, "n_questions": 0, "n_left_out": out, "p_value": None}
    found = paired_means([a for a, _ in means], [b for _, b in means])
    ci = found["ci"] if found["ci"][0] is not None else None
    if bound and all(a == b for a, b in means):
        high = proportion_estimate(0, len(both)).high
        assert high is not None
        ci = [-bound * high / 100, bound * high / 100]
    return {
        "mean": found["mean"], "ci": ci, "n_questions": found["n"], "n_left_out": out, "p_value": found["p_value"]
    }  # fmt: skip

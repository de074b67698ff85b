"""What results say of the measurements under one condition: their summary, and the shift from the base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from llm_persona.analysis.paired import means_by_group, paired_shift, perplexity_ratio
from llm_persona.analysis.stats import mean_estimate
from llm_persona.domain.measurement import Measurement

SAMPLES_SHOWN = 3
ROW = ("id", "high", "preference", "unscored")
"""What results keep of each item, so that runs can be compared item by item later."""


def summary(measured: Mapping[str, Measurement]) -> dict[str, Any]:
    """Score, preference, costs and the first answers, of measurements by instrument."""
    likelihood, samples = measured["likelihood"].summary, measured["samples"]
    shown = [r for r in samples.rows if not r.get("sample")][:SAMPLES_SHOWN]  # one a question
    return {
        **{
            k: likelihood[k]
            for k in ("n", "n_unscored", "score", "score_ci", "preference", "preference_ci", "headroom")
        },
        **{what: measured[what].summary for what in ("choice", "upstream") if what in measured},
        "perplexity": measured["neutral"].summary["perplexity"],
        "distinct_2": samples.summary["distinct_2"],
        "mean_tokens": samples.summary["mean_tokens"],
        "mean_tokens_ci": _length_interval(samples.rows),
        "samples": [{"question": r["question"], "text": r["text"]} for r in shown],
        "rows": [{k: r[k] for k in ROW if k in r} for r in measured["likelihood"].rows],
    }


def shift(own: Mapping[str, Measurement], base: Mapping[str, Measurement]) -> dict[str, Any]:
    """How far a condition moved the items' preferences from the base, and what it cost in perplexity."""
    moved = paired_shift(own["likelihood"].rows, base["likelihood"].rows)
    cost = perplexity_ratio(own["neutral"].rows, base["neutral"].rows)
    return {"shift": moved, "cost": cost["ratio"], "cost_ci": cost["ci"], "cost_passages": cost["n"]}


def _length_interval(rows: Sequence[dict[str, Any]]) -> list[float | None]:
    """Interval of the mean number of tokens an answer, over questions."""
    written = [row for row in rows if "unscored" not in row]
    lengths = means_by_group([r["id"] for r in written], [r["tokens"] for r in written])
    return mean_estimate(np.array(list(lengths.values()))).ci

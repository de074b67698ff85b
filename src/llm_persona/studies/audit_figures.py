"""One trait's figures in an audit: every tuned model against the base, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from llm_persona.analysis.paired import paired_shift
from llm_persona.analysis.shift import author_and_reader
from llm_persona.analysis.stats import column_intervals, mean_estimate
from llm_persona.analysis.vector_change import reading_change
from llm_persona.domain.measurement import Measurement
from llm_persona.studies.audit_reading import TraitWork
from llm_persona.studies.shortfall import shortfall

SHOWN = 3
"""Answers side by side."""


def trait_result(name: str, w: TraitWork, names: Sequence[str], answers: Mapping[str, Any]) -> dict[str, Any]:
    """The contract's JSON of one trait, verdicts still missing."""
    base = w.found["base"]
    at_base = _reading(base["fixed"]["by_row"], base["fixed"]["by_row"], base)
    return {
        "layer": w.layer,
        "layer_from": w.layer_from,
        "pole_gap": float(w.vector.norms[w.layer]),
        "separation_before": base["fixed"]["separation_base_vector"],
        "separation_before_ci": at_base["separation_before_ci"],
        "n_items": len(w.test),
        "n_questions": len(w.questions),
        "baseline": base["summary"],
        "beyond_context": _shortfall(name, w, answers),
        "auc_before": base["fixed"]["auc_base_vector"],
        "auc_before_ci": at_base["auc_before_ci"],
        "tuned": {model: _model_result(name, w, model, answers) for model in names},
    }


def _model_result(name: str, w: TraitWork, model: str, answers: Mapping[str, Any]) -> dict[str, Any]:
    """What one fine-tuning did to one trait."""
    base, own = w.found["base"], w.found[model]
    parts = [
        {q: v[w.layer] for q, v in reads.items()}
        for reads in (base["reads base"], base[f"reads {model}"], own["reads base"], own[f"reads {model}"])
    ]
    gap = float(w.vector.norms[w.layer])
    return {
        **paired_shift(own["rows"], base["rows"]),
        "summary": own["summary"],
        "projection": {"layer": w.layer, "pole_gap": gap, **author_and_reader(*parts), **_fixed_texts(base, own)},
        "vector_cosine": own["fixed"]["cosines"][w.layer] if "cosines" in own["fixed"] else None,
        "vector_cosine_ci": own["by_question"].get("cosine_ci", [None, None]),
        "vector": _vector(base, own),
        "layer_profile": _profile(base, own, model),
        "samples": [
            {"question": a["question"], "base": a["text"], "tuned": b["text"]}
            for a, b in list(zip(answers["base"][name], answers[model][name], strict=True))[:SHOWN]
        ],
    }


def _fixed_texts(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Shift of the held-out responses' projection, paired by question."""
    by_item: dict[str, list[float]] = {}
    for group, after, before in zip(own["groups"], own["fixed"]["by_row"], base["fixed"]["by_row"], strict=True):
        if after is not None and before is not None:
            by_item.setdefault(group, []).append(after - before)
    read = mean_estimate(np.array([np.mean(v) for v in by_item.values()]))
    return {
        "fixed_texts": read.value if by_item else None,
        "fixed_texts_ci": read.ci,
        "n_fixed_texts": read.n,
    }


def _reading(before: Sequence[float | None], after: Sequence[float | None], of: Mapping[str, Any]) -> dict[str, Any]:
    return reading_change(before, after, of["high"], of["groups"])


def _vector(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The vector extracted again, and the base's own vector as it reads the tuned model."""
    fixed, start = own["fixed"], base["fixed"]
    kept = _reading(start["by_row"], fixed["by_row"], own)
    nothing = [None] * len(own["high"])
    rows_before, rows_after = (part["by_question"].get("own_by_row", nothing) for part in (base, own))
    again = _reading(rows_before, rows_after, own)
    return {
        "cosine_by_layer": fixed.get("cosines"),
        "norm_ratio": fixed.get("norm_ratio"),
        "auc_before": start.get("auc"),
        "auc_before_ci": start.get("auc_ci"),
        "auc_after": fixed.get("auc"),
        "auc_after_ci": fixed.get("auc_ci"),
        "auc_change": again["auc_change"],
        "auc_change_ci": again["auc_change_ci"],
        "auc_of_the_base_vector_after": fixed["auc_base_vector"],
        "auc_of_the_base_vector_after_ci": kept["auc_after_ci"],
        "auc_of_the_base_vector_change": kept["auc_change"],
        "auc_of_the_base_vector_change_ci": kept["auc_change_ci"],
        "separation_before": start.get("separation"),
        "separation_before_ci": start.get("separation_ci"),
        "separation_after": fixed.get("separation"),
        "separation_after_ci": fixed.get("separation_ci"),
        "separation_change": again["separation_change"],
        "separation_change_ci": again["separation_change_ci"],
    }


def _profile(base: Mapping[str, Any], own: Mapping[str, Any], model: str) -> dict[str, Any]:
    """Shift of the projection at every layer: of the own answers by question, and of the fixed texts."""
    fixed, start = own["fixed"], base["fixed"]
    asked = [q for q in base["reads base"] if q in own[f"reads {model}"]]
    answers = np.array([np.subtract(own[f"reads {model}"][q], base["reads base"][q]) for q in asked])
    found: dict[str, Any] = {
        "own_answers": answers.mean(axis=0).tolist() if asked else None,
        "own_answers_ci": column_intervals(answers) if asked else None,
        "n_own_answers": len(asked),
        "fixed_texts": None,
        "fixed_texts_ci": None,
    }
    if [r["row"] for r in _left(fixed)] == [r["row"] for r in _left(start)]:
        found["fixed_texts"] = np.subtract(fixed["mean_projection"], start["mean_projection"]).tolist()
        after, before = (part["by_question"].get("profile") for part in (own, base))
        if after is not None and before is not None:  # (an earlier version kept none)
            found["fixed_texts_ci"] = column_intervals(np.array([np.subtract(after[q], before[q]) for q in before]))
    return found


def _shortfall(name: str, w: TraitWork, answers: Mapping[str, Any]) -> dict[str, Any]:
    """What of one trait was longer than a model's context."""
    measured = {
        model: {"likelihood": own["benchmark"], "samples": Measurement("samples", model, answers[model][name])}
        for model, own in w.found.items()
    }
    left = {"fit": w.fit_left_out, "test": _left(w.found["base"]["fixed"])}
    left |= {f"test, {model}": rows for model, own in w.found.items() if (rows := _left(own["fixed"])) != left["test"]}
    return shortfall(measured, left)


def _left(fixed: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The test rows that a model left out (none, where an earlier version measured)."""
    return list(fixed.get("left_out", ()))

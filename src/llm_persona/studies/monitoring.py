"""Monitoring: does the projection at the last prompt token, before a word is written, tell what the answer will be?

After Chen et al. (2025), who monitor the projection of the final prompt token. Conditions move the subject; in each it
answers the trait's held-out open questions, and a judge grades the answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llm_persona.analysis.monitoring import association, by_condition, spearman
from llm_persona.analysis.stats import percentile_interval
from llm_persona.analysis.vectors import PersonaVector
from llm_persona.domain.rubrics import load_rubric
from llm_persona.domain.store import write_json, write_text
from llm_persona.domain.traits import Question, Trait
from llm_persona.instruments.judging.protocol import Judge, JudgeRequest, Verdict, grading
from llm_persona.studies.judge_gate import gate_of, gate_state
from llm_persona.studies.monitored_answers import MonitorPlan, Progress, Written, made_from
from llm_persona.studies.verdicts import reasons, verdicts
from llm_persona.subject.load import Subject
from llm_persona.subject.trace_readers import readers_for

EMPTY = "empty answer"
NOTES = (
    "Overall, conditions that move projection and answer alike make a correlation whatever the vector is: see the "
    "random directions, and the correlation within condition.",
    "Intervals resample questions, each with all its answers; the conditions are those that were measured.",
    "Where a condition steers at or below the layer that is read, the vector it adds is itself in the projection: "
    "`prompt_last_without_added` is the projection less that constant.",
)


def gradings(trait: Trait, written: Sequence[Written], plan: MonitorPlan) -> list[JudgeRequest | None]:
    """What the judge is asked, by condition, question and sample; None for an empty answer."""
    rubric, questions = load_rubric("trait"), plan.asked(trait)
    return [
        grading(rubric, question.text, answer, trait) if answer.strip() else None
        for part in written
        for question, answers in zip(questions, part.answers, strict=True)
        for answer in answers
    ]


def monitor(
    subject: Subject,
    trait: Trait,
    vector: PersonaVector,
    written: Sequence[Written],
    judge: Judge | None,
    layer: int | None = None,
    plan: MonitorPlan | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Relate what was read before to what was written after.

    Returns:
        `associations`: rows with `before` (`prompt_last`, or `prompt_last_without_added`), `after` (`judged`, or
        `answer_projection`: the base's reading, which needs no judge), `overall` and `within` (see
        `analysis.monitoring.association`), and `random`: the central 95% of the same correlation over random
        directions. Also `overlap` (how many of the questions the vector was made from), `conditions`, `n_unscored` and
        `unscored` by reason, `gate`, `answers`, `notes`.
    """
    plan = plan or MonitorPlan()
    reader = readers_for(subject, vector, layer)[0]
    questions = plan.asked(trait)
    shape = (len(written), len(questions), plan.samples)
    found = _verdicts(judge, gradings(trait, written, plan), progress)
    after: dict[str, np.ndarray] = {}
    if judge is not None:
        scores = [np.nan if v.score is None else v.score for v in found]
        after["judged"] = np.array(scores, dtype=np.float64).reshape(shape)
    after["answer_projection"] = np.array([part.read_by_base for part in written], dtype=np.float64).reshape(shape)
    raw = np.stack([part.prompt_last for part in written])  # [conditions, questions, vectors]
    before = {"prompt_last": raw}
    added = np.stack([part.added for part in written])
    if added.any():
        before["prompt_last_without_added"] = raw - added[:, None]
    gate = gate_of(judge, trait) if judge is not None else None
    associations = [
        {"before": first, "after": then, **association(x[:, :, 0], y, seed=plan.seed), "random": _random(x, y)}
        for then, y in after.items()
        for first, x in before.items()
    ]
    return {
        "model": subject.name,
        "trait": trait.name,
        "vector": reader.as_json(),
        "judge": judge.identity if judge is not None else None,
        "gate": None if judge is None else {"state": gate_state(gate), "passed": gate["passed"] if gate else None},
        "n_questions": len(questions),
        "overlap": made_from(vector, questions),
        "samples": plan.samples,
        "temperature": plan.temperature,
        "max_new_tokens": plan.max_new_tokens,
        "associations": associations,
        "conditions": _conditions(written, raw[:, :, 0], added[:, 0], after, found, judge is not None),
        "n_unscored": sum(v.score is None for v in found) if judge is not None else 0,
        "unscored": reasons(found) if judge is not None else {},
        "notes": list(NOTES),
        "answers": _answers(trait, written, questions, found if judge is not None else []),
    }


def _verdicts(judge: Judge | None, requests: Sequence[JudgeRequest | None], progress: Progress | None) -> list[Verdict]:
    if judge is None:
        return []
    real = [r for r in requests if r is not None]
    known = dict(zip(real, verdicts(judge, real, progress), strict=True))
    return [Verdict(None, EMPTY) if r is None else known[r] for r in requests]


def _random(before: np.ndarray, after: np.ndarray) -> dict[str, Any]:
    """Central 95% of the Spearman correlation of random directions, overall and within condition."""
    drawn = spearman(before[:, :, 1:].transpose(2, 0, 1), after)
    interval: dict[str, Any] = {"n": before.shape[2] - 1}
    for scope, values in drawn.items():
        interval[f"spearman_{scope}"] = list(percentile_interval(values)) if np.isfinite(values).any() else None
    return interval


def _conditions(
    written: Sequence[Written], before: np.ndarray, added: np.ndarray, after: Mapping[str, np.ndarray],
    found: Sequence[Verdict], judged: bool,
) -> list[dict[str, Any]]:  # fmt: skip
    parts = {name: by_condition(before, y) for name, y in after.items()}
    rows = []
    for k, part in enumerate(written):
        row: dict[str, Any] = {"condition": part.condition.as_json(), "prompt_last_mean": float(before[k].mean()),
                               "added": float(added[k])}  # fmt: skip
        for name, values in parts.items():
            row[name] = {"mean": values[k]["after_mean"], "pearson": values[k]["pearson"], "n": values[k]["n"]}
        if judged:
            each = len(found) // len(written)
            own = found[k * each : (k + 1) * each]
            row["judged"] |= {"n_unscored": sum(v.score is None for v in own), "unscored": reasons(own)}
        rows.append(row)
    return rows


def _answers(
    trait: Trait, written: Sequence[Written], questions: Sequence[Question], found: Sequence[Verdict]
) -> list[dict[str, Any]]:
    scores = iter(found)
    rows = []
    for part in written:
        for k, question in enumerate(questions):
            for answer, projection in zip(part.answers[k], part.read_by_base[k], strict=True):
                row = {"condition": part.condition.name, "trait": trait.name, "question": question.text,
                       "answer": answer, "prompt_last": float(part.prompt_last[k, 0]),
                       "answer_projection": projection}  # fmt: skip
                verdict = next(scores, None)
                rows.append(row if verdict is None else {**row, "scores": {trait.name: verdict.as_json()}})
    return rows


def write_monitoring(result: dict[str, Any], folder: Path) -> Path:
    """Write `monitoring.json`, and `answers.jsonl` as `judge score` reads it."""
    import json

    keys = ("condition", "trait", "question", "answer")
    lines = [json.dumps({key: row[key] for key in keys}, ensure_ascii=False) for row in result["answers"]]
    write_text(folder / "answers.jsonl", "\n".join(lines) + "\n")
    write_json(folder / "monitoring.json", result)
    return folder / "monitoring.json"

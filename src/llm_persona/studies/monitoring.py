"""Monitoring: what the last prompt token shows before a word is written, against what is then said.

After Chen et al. (2025), who find that the projection at the last prompt token follows later expression of the trait
across system prompts, and less so within one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llm_persona.analysis.monitoring import foretelling
from llm_persona.analysis.vectors import PersonaVector, projections
from llm_persona.domain.condition import BASE, Condition, instructed, steered
from llm_persona.domain.errors import UserError
from llm_persona.domain.responses import Response
from llm_persona.domain.traits import Question, Trait
from llm_persona.instruments.judging.protocol import Judge, Verdict
from llm_persona.studies.asking import AskPlan, ask
from llm_persona.studies.judging import EMPTY, gate_states, graded_answers, plan_scores
from llm_persona.studies.stored_answers import StoredAnswer
from llm_persona.studies.verdicts import reasons
from llm_persona.subject.load import Subject
from llm_persona.subject.record import record

OPENING = "I"
"""Stands where the answer will: no later token changes what the last prompt token holds."""

Progress = Callable[[int], None]


@dataclass(frozen=True)
class MonitorPlan:
    """What is monitored: the trait's vector at a layer, under which conditions, and how answers are drawn."""

    trait: Trait
    vector: PersonaVector
    layer: int
    asked: AskPlan
    doses: tuple[float, ...] = (-0.2, 0.2)

    def __post_init__(self) -> None:
        if not 0 <= self.layer < self.vector.n_layers:
            raise UserError(f"--layer {self.layer}: the vector has layers 0 to {self.vector.n_layers - 1}")

    @property
    def conditions(self) -> list[Condition]:
        """Base, the two instructions, and each dose at the layer that is read."""
        return [BASE, *instructed(self.trait), *steered(self.vector, self.layer, self.doses, self.trait.name)]

    @property
    def questions(self) -> list[Question]:
        """The trait's held-out questions that are asked."""
        return list(dict.fromkeys(question for question, _ in self.asked.asked(self.trait)))


def monitor(
    subject: Subject, plan: MonitorPlan, judge: Judge | None, out: str | Path, progress: Progress | None = None
) -> dict[str, Any]:
    """Read the last prompt token in each state, let the subject answer, grade the answers, and correlate.

    Answers are kept in `out` (JSONL) as they come, and verdicts in the cache: after a kill the same call goes on.

    Returns:
        `trait`, `layer`, `conditions` (name to `rows`, one a question), `correlations` (outcome `judged` and
        `projected` to reading `as_read` and `without_steering` to what `foretelling` gives), `gates`, `n_unscored`,
        `unscored`.
        `without_steering` has the added vector itself taken out of the reading.
    """
    conditions, questions = plan.conditions, plan.questions
    readings = np.stack([_read_prompts(subject, condition, questions, plan) for condition in conditions])
    added = np.array([_added(condition, plan) for condition in conditions])
    states = [{plan.trait.name: condition} for condition in conditions]
    answers = ask(subject, states, [plan.trait], plan.asked, out, progress)
    said = _read_answers(subject, answers, plan)
    verdicts = _graded(judge, answers, plan.trait)
    index = {condition.name: k for k, condition in enumerate(conditions)}
    place = {question.text: q for q, question in enumerate(questions)}
    cells = [(index[a.condition], place[a.question]) for a in answers]
    shape = readings.shape
    outcomes = {"projected": _means(cells, said, shape)}
    if judge is not None:
        outcomes["judged"] = _means(cells, [v.score for v in verdicts], shape)
    forms = {"as_read": readings, "without_steering": readings - added[:, None]}
    names = [condition.name for condition in conditions]
    unscored = [v for v in verdicts if v.score is None] if judge is not None else []
    return {
        "trait": plan.trait.name,
        "model": subject.name,
        "vector": plan.vector.digest,
        "layer": plan.layer,
        "pole_gap": float(plan.vector.norms[plan.layer]),
        "samples": plan.asked.samples,
        "judge": None if judge is None else judge.identity,
        "gates": {} if judge is None else gate_states(judge, {plan.trait.name: plan.trait}),
        "n_answers": len(answers),
        "n_unscored": len(unscored),
        "unscored": reasons(unscored),
        "correlations": {
            outcome: {form: foretelling(x, y, names, plan.asked.seed) for form, x in forms.items()}
            for outcome, y in outcomes.items()
        },
        "conditions": {
            condition.name: {
                **condition.as_json(),
                "rows": [
                    {
                        "id": question.id,
                        **{form: float(x[k, q]) for form, x in forms.items()},
                        **{name: float(y[k, q]) if np.isfinite(y[k, q]) else None for name, y in outcomes.items()},
                    }
                    for q, question in enumerate(questions)
                ],
            }
            for k, condition in enumerate(conditions)
        },
    }


def _read_prompts(
    subject: Subject, condition: Condition, questions: Sequence[Question], plan: MonitorPlan
) -> np.ndarray:
    """Projection of each prompt's last token, read in the state that will write the answer: [questions]."""
    with subject.under(condition):
        acts = record(subject, [Response(q.text, OPENING, "neutral", q.id) for q in questions], "prompt_last")
    return np.asarray(projections(acts.values, plan.vector)[:, plan.layer])


def _added(condition: Condition, plan: MonitorPlan) -> float:
    """What steering itself adds to the reading: it acts at the layer that is read, along what is read."""
    return sum(
        plan.vector.coefficient_for(steer.dose, plan.layer) * float(plan.vector.norms[plan.layer])
        for steer in condition.steers
        if steer.dose is not None
    )


def _read_answers(subject: Subject, answers: Sequence[StoredAnswer], plan: MonitorPlan) -> list[float | None]:
    """Projection of each answer as the base reads it; None for an empty one."""
    rows = [Response(a.question, a.answer, "neutral", a.unit) for a in answers if a.answer.strip()]
    if not rows:
        return [None] * len(answers)
    found = iter(projections(record(subject, rows).values, plan.vector)[:, plan.layer].tolist())
    return [next(found) if a.answer.strip() else None for a in answers]


def _graded(judge: Judge | None, answers: Sequence[StoredAnswer], trait: Trait) -> list[Verdict]:
    if judge is None:
        return [Verdict(None, EMPTY)] * len(answers)
    graded = graded_answers(judge, plan_scores(answers, [trait], ("trait",)))
    return [one[trait.name] for one in graded]


def _means(cells: Sequence[tuple[int, int]], values: Sequence[float | None], shape: tuple[int, ...]) -> np.ndarray:
    """Mean over the samples of each cell; NaN where none has a value."""
    sums, counts = np.zeros(shape), np.zeros(shape)
    for cell, value in zip(cells, values, strict=True):
        if value is not None:
            sums[cell] += value
            counts[cell] += 1
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)

"""What a monitoring measures: each condition's prompts read, and the answers that the subject then writes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llm_persona.analysis.vectors import PersonaVector, overlap, random_like
from llm_persona.domain.condition import BASE, Condition, Steer, steered
from llm_persona.domain.errors import Overlap, UserError
from llm_persona.domain.responses import Response
from llm_persona.domain.store import digest
from llm_persona.domain.traits import POLES, Level, Question, Trait
from llm_persona.studies.stages import Stages
from llm_persona.subject.generate import generate
from llm_persona.subject.load import Subject
from llm_persona.subject.packing import Row, readable
from llm_persona.subject.record import record
from llm_persona.subject.smollm2 import cache_folder
from llm_persona.subject.standing import as_it_stands
from llm_persona.subject.trace import trace
from llm_persona.subject.trace_readers import readers_for

LEVELS: tuple[Level, ...] = ("name", "description", "facets")
RANDOM = 100
"""Random directions that are read beside the vector: conditions move those too."""

Progress = Callable[[int], None]


@dataclass(frozen=True)
class MonitorPlan:
    """What is asked: the first `questions` test questions (None: all), `samples` answers each, and the conditions:
    base, the trait's instructions of either pole at each of `levels`, and the vector at each of `doses`."""

    questions: int | None = None
    samples: int = 1
    temperature: float = 0.0
    max_new_tokens: int = 64
    levels: tuple[Level, ...] = LEVELS
    doses: tuple[float, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        if self.samples > 1 and self.temperature <= 0:
            raise UserError("several samples need a temperature above 0: greedy answers are all the same")

    def conditions(self, trait: Trait, vector: PersonaVector, layer: int) -> list[Condition]:
        """The states that are measured, the base first."""
        instructed = [
            Condition(f"instructed {pole} ({level})", trait.instruction(pole, level))
            for level in dict.fromkeys(self.levels)
            for pole in POLES
        ]
        return [BASE, *instructed, *steered(vector, layer, tuple(dict.fromkeys(self.doses)), trait.name)]

    def asked(self, trait: Trait) -> list[Question]:
        """The trait's held-out questions.

        Raises:
            UserError: fewer than three.
        """
        found = trait.questions_of("test")[: self.questions]
        if len(found) < 3:
            raise UserError(f"trait {trait.name}: {len(found)} test questions; monitoring needs three at least")
        return found


@dataclass(frozen=True)
class Written:
    """What the subject did in one condition, by question: `prompt_last` [questions, vectors] (the vector first, then
    the random directions), the constant that steering `added` to each [vectors], `answers` [questions][samples], and
    the base's reading of each (None for an empty one)."""

    condition: Condition
    prompt_last: np.ndarray
    added: np.ndarray
    answers: list[list[str]]
    read_by_base: list[list[float | None]]


def write_answers(
    subject: Subject,
    trait: Trait,
    vector: PersonaVector,
    layer: int | None = None,
    plan: MonitorPlan | None = None,
    folder: Path | None = None,
    progress: Progress | None = None,
    allow_overlap: bool = False,
) -> list[Written]:
    """Read the prompts and let the subject answer them, condition by condition; finished ones are kept in `folder` (the
    cache folder without one), so that a killed run goes on and another judge costs no new answer.

    Raises:
        IncompatibleVector: the vector does not fit. UserError: no such layer. Overlap: made from these questions.
    """
    plan = plan or MonitorPlan()
    reader = readers_for(subject, vector, layer)[0]
    questions = plan.asked(trait)
    shared = made_from(vector, questions)
    if shared and not allow_overlap:
        raise Overlap(f"the vector was made from {shared} of these {len(questions)} questions (or --allow-overlap)")
    stands = as_it_stands(subject)
    if folder is None:
        name = digest([stands, trait.digest, vector.digest, reader.layer])
        folder = cache_folder() / "monitorings" / name[:24]
    stages = Stages(folder)
    read = [vector, *(random_like(vector, seed) for seed in range(RANDOM))]
    units = np.stack([one.unit(reader.layer) for one in read])
    asked = [q.text for q in questions]
    found = []
    for condition in plan.conditions(trait, vector, reader.layer):
        key = [stands, condition.state, vector.digest, reader.layer, RANDOM, asked]

        def look(condition: Condition = condition) -> Any:
            with subject.under(condition):
                return [trace(subject, text, read, reader.layer).prompt_last for text in asked]

        def write(condition: Condition = condition) -> Any:
            drawn = [text for text in asked for _ in range(plan.samples)]
            with subject.under(condition):
                answers = generate(subject, drawn, plan.max_new_tokens, None, plan.temperature, plan.seed)
            texts = [a.text for a in answers]
            return {"answers": texts, "projection": _read(subject, vector, reader.layer, drawn, texts)}

        before = stages.value(f"{condition.name} prompts", key, look)
        how = [plan.samples, plan.temperature, plan.max_new_tokens, plan.seed]
        after = stages.value(f"{condition.name} answers", [key, how], write)
        rows = [slice(k * plan.samples, (k + 1) * plan.samples) for k in range(len(asked))]
        found.append(
            Written(
                condition,
                np.asarray(before, dtype=np.float64),
                added_constant(condition.steers, units, reader.layer),
                [after["answers"][r] for r in rows],
                [after["projection"][r] for r in rows],
            )
        )
        if progress is not None:
            progress(len(asked) * plan.samples)
    return found


def made_from(vector: PersonaVector, questions: Sequence[Question]) -> int:
    """How many of the questions the vector was made from."""
    return overlap([str(i) for i in vector.meta.get("items", [])], [q.id for q in questions])


def added_constant(steers: Sequence[Steer], units: np.ndarray, layer: int) -> np.ndarray:
    """Projection of what steering adds at or below `layer` to the prompt's tokens on each unit direction [vectors].

    Below, this is what the residual stream carries up unchanged; what the blocks between make of it stays in."""
    total = np.zeros(len(units))
    for steer in steers:
        if steer.operator == "add" and steer.layer <= layer and steer.positions != "response":
            amount = steer.coefficient
            if amount is None:
                amount = steer.vector.coefficient_for(steer.dose, steer.layer)
            total += units @ (amount * steer.vector.directions[steer.layer].astype(np.float64))
    return total


def _read(
    subject: Subject, vector: PersonaVector, layer: int, prompts: Sequence[str], texts: Sequence[str]
) -> list[float | None]:
    """Each answer's projection (response mean) as the base reads it; None for one that is empty or too long."""
    usable = [k for k, text in enumerate(texts) if text.strip()]
    fits = readable(subject, [Row(prompts[k], texts[k]) for k in usable])
    usable = [k for k, fit in zip(usable, fits, strict=True) if fit]
    values: list[float | None] = [None] * len(texts)
    if usable:
        acts = record(subject, [Response(prompts[k], texts[k], "neutral", "") for k in usable], layers=[layer])
        for k, x in zip(usable, acts.values[:, 0].astype(np.float64) @ vector.unit(layer), strict=True):
            values[k] = float(x)
    return values

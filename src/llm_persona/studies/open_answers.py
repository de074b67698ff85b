"""Open questions answered under conditions, several samples each; written in parts that survive a kill."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from llm_persona.domain.condition import Condition
from llm_persona.domain.errors import UserError
from llm_persona.domain.open_questions import MAX_TOKENS, SAMPLES, TEMPERATURE, OpenQuestion, QuestionSet
from llm_persona.domain.store import digest
from llm_persona.studies.stages import Stages
from llm_persona.subject.generate import Answer, generate
from llm_persona.subject.smollm2 import cache_folder
from llm_persona.subject.standing import as_it_stands

PART = 64
"""Answers between two savings: what `generate` runs together."""
SEED_STEP = 1000
"""Between the seeds of two parts, so that no draw is made twice."""


@dataclass(frozen=True)
class OpenAnswer:
    """One answer: to which question, in which wording, under which condition, the how manieth.

    `failed` says why there is none (then the text is empty)."""

    condition: str
    question_id: str
    question: str
    text: str
    sample: int = 0
    finished: bool = True
    failed: str = ""

    def as_json(self) -> dict[str, Any]:
        """Plain data, as `judge score` and `judge align --answers` read it."""
        found = {
            "condition": self.condition,
            "id": self.question_id,
            "question": self.question,
            "sample": self.sample,
            "answer": self.text,
            "finished": self.finished,
        }
        return {**found, "failed": self.failed} if self.failed else found


@dataclass(frozen=True)
class Sampling:
    """How open questions are asked. None leaves it to the question, then to the defaults of the layout."""

    samples: int | None = None
    temperature: float | None = None
    max_new_tokens: int | None = None
    seed: int = 0

    def of(self, question: OpenQuestion) -> tuple[int, float, int]:
        """(samples a wording, temperature, new tokens) of one question.

        Raises:
            UserError: several samples at temperature 0, which would all be the same.
        """
        temperature = _first(self.temperature, question.temperature, TEMPERATURE)
        samples = _first(self.samples, question.samples, SAMPLES if temperature else 1)
        if not temperature and samples > 1:
            raise UserError(f"question {question.id}: {samples} samples at temperature 0 are one and the same answer; "
                            "raise --temperature, or give --samples 1")  # fmt: skip
        return int(samples), float(temperature), int(_first(self.max_new_tokens, question.max_tokens, MAX_TOKENS))

    def count(self, questions: QuestionSet) -> int:
        """Answers a condition."""
        return sum(len(question.wordings) * self.of(question)[0] for question in questions.questions)


def _first(*values: Any) -> Any:
    return next(value for value in values if value is not None)


@dataclass(frozen=True)
class _Asked:
    """One answer to be written."""

    question: OpenQuestion
    wording: str
    sample: int


def answer_questions(
    subject: Any,
    conditions: Sequence[Condition],
    questions: QuestionSet,
    sampling: Sampling,
    progress: Callable[[int], None] | None = None,
) -> list[OpenAnswer]:
    """Answers to every question under every condition, condition by condition.

    A question's own system turn takes the place of the condition's. The seeds are the same under each condition. Parts
    that are whole are kept in the cache folder: after a kill the same call writes only what is missing.

    Raises:
        UserError: a condition or a setting that the subject cannot take, or two conditions of one name.
    """
    names = [condition.name for condition in conditions]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"condition {twice!r} occurs twice; give each a different vector, adapter or instruction")
    stages = Stages(cache_folder() / "open_answers" / digest([as_it_stands(subject), None])[:24])
    found = []
    for condition in conditions:
        for number, part in enumerate(parts(questions, sampling)):
            found += _written(subject, condition, part, sampling, number, stages, progress)
    return found


def parts(questions: QuestionSet, sampling: Sampling) -> Iterator[list[_Asked]]:
    """What is asked together: alike in system turn, temperature and length, at most `PART` answers."""
    groups: dict[Any, list[_Asked]] = {}
    for question in questions.questions:
        samples, temperature, length = sampling.of(question)
        rows = groups.setdefault((question.system, temperature, length), [])
        rows += [_Asked(question, text, n) for text in question.wordings for n in range(samples)]
    for rows in groups.values():
        for start in range(0, len(rows), PART):
            yield rows[start : start + PART]


def _written(
    subject: Any,
    condition: Condition,
    part: Sequence[_Asked],
    sampling: Sampling,
    number: int,
    stages: Stages,
    progress: Callable[[int], None] | None,
) -> list[OpenAnswer]:
    question = part[0].question
    _, temperature, length = sampling.of(question)
    seed = sampling.seed + SEED_STEP * number
    texts = [asked.wording for asked in part]
    key = [condition.state, question.system, temperature, length, seed, texts]

    def make() -> list[Answer]:
        with subject.under(condition):
            return generate(
                subject, texts, length, system=question.system, temperature=temperature, seed=seed, progress=progress
            )

    if stages.has("open answers", key):
        kept = stages.value("open answers", key, list)
        if progress is not None:
            progress(len(part))
    else:
        answers = make()
        kept = [{"text": a.text, "finished": a.finished, "failed": a.failed} for a in answers]
        if not any(a.failed for a in answers):  # a failed call is asked for again the next time
            kept = stages.value("open answers", key, lambda: kept)
    return [
        OpenAnswer(
            condition.name, asked.question.id, asked.wording, row["text"], asked.sample, row["finished"], row["failed"]
        )
        for asked, row in zip(part, kept, strict=True)
    ]

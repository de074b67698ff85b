"""The prompted contrast: the subject answers open questions under instructions of either pole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from llm_persona.domain.items import Split
from llm_persona.domain.responses import Response
from llm_persona.domain.traits import POLES, Trait
from llm_persona.subject.generate import generate
from llm_persona.subject.load import Subject


def prompted(
    subject: Subject,
    trait: Trait,
    split: Split = "fit",
    max_new_tokens: int = 64,
    read: Literal["reader", "author"] = "reader",
    temperature: float = 0.0,
    seed: int = 0,
    limit: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[Response]:
    """Answers to the split's questions under each of the split's instruction pairs, as rows to record.

    `reader` rows are read without the instruction (a vector read under it would see the instruction
    itself); `author` rows keep it. Empty answers are left out. The group is the question.
    """
    questions = trait.questions_of(split)[:limit]
    rows = []
    for pair in trait.pairs(split):
        for pole in POLES:
            instruction = pair.high if pole == "high" else pair.low
            answers = generate(
                subject,
                [q.text for q in questions],
                max_new_tokens,
                system=instruction,
                temperature=temperature,
                seed=seed,
                progress=progress,
            )
            rows += [
                Response(q.text, a.text, pole, q.id, instruction if read == "author" else None)
                for q, a in zip(questions, answers, strict=True)
                if a.text
            ]
    return rows

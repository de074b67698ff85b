"""The prompted contrast: the subject answers under instructions of either pole, or of one pole and none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from llm_persona.analysis.dose import distinct_n
from llm_persona.domain.errors import UserError
from llm_persona.domain.items import Item, Split
from llm_persona.domain.responses import Response
from llm_persona.domain.traits import Trait
from llm_persona.subject.generate import check_samples, generate
from llm_persona.subject.load import Subject

Contrast = Literal["high-low", "high-neutral", "neutral-low"]
CONTRASTS: tuple[Contrast, ...] = ("high-low", "high-neutral", "neutral-low")
"""The poles that are set against one another; every difference points to the high one."""
SHORTEST = 4
"""Words; shorter answers say too little to be read."""
LEAST_VARIETY = 0.5
"""Distinct-2 of an answer; below it the model repeats itself."""


@dataclass(frozen=True)
class ElicitationPlan:
    """How answers are drawn: one a prompt, pair and pole, or several samples at a temperature."""

    contrast: Contrast = "high-low"
    samples: int = 1
    temperature: float = 0.0
    max_new_tokens: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        if self.contrast not in CONTRASTS:
            raise UserError(f"contrast {self.contrast!r}: choose one of {', '.join(CONTRASTS)}")
        check_samples(self.samples, self.temperature)


@dataclass(frozen=True)
class Elicited:
    """Answers as rows to record. `made` counts answers by pole; `dropped` reasons to numbers, by pole."""

    rows: list[Response]
    made: dict[str, int]
    dropped: dict[str, dict[str, int]] = field(default_factory=dict)

    def counts(self) -> dict[str, Any]:
        """Made, dropped and surviving answers by pole."""
        survivors = {pole: sum(r.pole == pole for r in self.rows) for pole in self.made}
        return {"made": self.made, "dropped": self.dropped, "survivors": survivors}

    def keep(self, mask: Sequence[bool], reason: str) -> Elicited:
        """The rows of the mask; the others are counted under `reason`."""
        dropped = {pole: dict(reasons) for pole, reasons in self.dropped.items()}
        for row, kept in zip(self.rows, mask, strict=True):
            if not kept:
                of_pole = dropped.setdefault(row.pole, {})
                of_pole[reason] = of_pole.get(reason, 0) + 1
        return Elicited([r for r, kept in zip(self.rows, mask, strict=True) if kept], self.made, dropped)


def elicit(
    subject: Subject,
    trait: Trait,
    prompts: Sequence[tuple[str, str]],
    split: Split = "fit",
    plan: ElicitationPlan | None = None,
    read: Literal["reader", "author"] = "reader",
    progress: Callable[[int], None] | None = None,
) -> Elicited:
    """Answers to the prompts, each (group, text), under each of the split's instruction pairs.

    `reader` rows are read without the instruction (a vector read under it would see the instruction itself);
    `author` rows keep it. Answers that are empty, very short or repeat themselves are dropped and counted. In a
    contrast with neutral, the neutral answers take the place of the missing pole.
    """
    plan = plan or ElicitationPlan()
    above, below = plan.contrast.split("-")
    rows: list[Response] = []
    made: dict[str, int] = {}
    for pair in trait.pairs(split):
        for pole, kind in (("high", above), ("low", below)):
            neutral = kind == "neutral"
            if neutral and made.get(pole):
                continue  # the neutral instruction is the same in every pair
            instruction = trait.instruction("neutral") if neutral else str(getattr(pair, kind))
            drawn = [prompt for prompt in prompts for _ in range(plan.samples)]
            answers = generate(
                subject,
                [text for _, text in drawn],
                plan.max_new_tokens,
                system=instruction,
                temperature=plan.temperature,
                seed=plan.seed,
                progress=progress,
            )
            made[pole] = made.get(pole, 0) + len(answers)
            kept_instruction = instruction if read == "author" else None
            author = "instructed neutral" if neutral else f"instructed {kind}: {pair.id}"
            rows += [
                Response(text, answer.text, pole, group, kept_instruction, author)
                for (group, text), answer in zip(drawn, answers, strict=True)
            ]
    found = Elicited(rows, made)
    found = found.keep([len(r.text.split()) >= SHORTEST for r in found.rows], "too short")
    return found.keep([(distinct_n([r.text]) or 0.0) >= LEAST_VARIETY for r in found.rows], "repeats itself")


def prompts_of(trait: Trait, split: Split, items: Sequence[Item] | None = None) -> list[tuple[str, str]]:
    """(group, text) of the trait's open questions of a split, or of given items' situations."""
    if items is None:
        return [(question.id, question.text) for question in trait.questions_of(split)]
    return [(item.content_digest[:16], item.prompt) for item in items]


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
    """One answer to each of the split's open questions under each of its instruction pairs, as rows to record.

    See `elicit` for more samples, situations instead of questions, and other contrasts.
    """
    plan = ElicitationPlan(temperature=temperature, seed=seed, max_new_tokens=max_new_tokens)
    return elicit(subject, trait, prompts_of(trait, split)[:limit], split, plan, read, progress).rows

"""Elicited answers that a judge finds to express their pole and to hold together; the others are dropped and counted.

The thresholds are those of the persona-vector pipeline (Chen et al. 2025): trait score at least 50 for the high pole,
below 50 for the low one, coherence at least 50 for both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llm_persona.domain.errors import UserError
from llm_persona.domain.responses import Response
from llm_persona.domain.rubrics import load_rubric
from llm_persona.domain.traits import POLES, Trait
from llm_persona.instruments.judging.protocol import FAILED, Judge, Verdict, grading
from llm_persona.studies.judge_gate import gate_of, gate_state
from llm_persona.studies.verdicts import verdicts
from llm_persona.subject.elicit import Elicited

LEAST_QUESTIONS = 2
"""Questions a pole that must survive: splits and intervals are by question."""


@dataclass(frozen=True)
class JudgeFilter:
    """A high answer is kept from a trait score of `trait_at` on, a low one below it, both from a coherence of
    `coherence_at` on. A neutral answer, which stands in for a pole, is asked for coherence alone."""

    judge: Judge
    trait_at: float = 50.0
    coherence_at: float = 50.0

    def __post_init__(self) -> None:
        for name, value in (("--judge-trait", self.trait_at), ("--judge-coherence", self.coherence_at)):
            if not 0 <= value <= 100:
                raise UserError(f"{name} {value:g}: a threshold lies from 0 to 100")

    def keep(
        self, found: Elicited, trait: Trait, split: str, progress: Callable[[int], None] | None = None
    ) -> Elicited:
        """The survivors; the others under the reason of their dropping, unscored ones under the judge's.

        Raises:
            UserError: fewer than two questions with an answer are left of a pole.
        """
        rubrics = (load_rubric("trait"), load_rubric("coherence"))
        asked = [grading(rubric, row.prompt, row.text, trait) for row in found.rows for rubric in rubrics]
        graded = verdicts(self.judge, asked, progress)
        stopped = sum(v.unscored.startswith(f"{FAILED}--max-calls") for v in graded)
        if stopped:
            raise UserError(
                f"{trait.name}: --max-calls ended the judging of split {split!r}, {stopped} of {len(graded)} gradings "
                "are missing; what was answered is kept, the same command goes on"
            )
        reasons = [
            self._against(row, of_trait, coherence)
            for row, of_trait, coherence in zip(found.rows, graded[::2], graded[1::2], strict=True)
        ]
        for reason in dict.fromkeys(filter(None, reasons)):
            found = found.keep([other != reason for other in reasons], reason)
            reasons = [other for other in reasons if other != reason]
        for pole in POLES:
            left = len({row.group for row in found.rows if row.pole == pole})
            if left < LEAST_QUESTIONS:
                dropped = ", ".join(f"{count} {reason}" for reason, count in found.dropped.get(pole, {}).items())
                raise UserError(
                    f"{trait.name}: of split {split!r} the judge left {pole} answers to {left} questions, and a vector "
                    f"needs {LEAST_QUESTIONS} (of {found.made.get(pole, 0)} made; dropped: {dropped or 'none'}); ask "
                    "for more with --samples, --limit or --max-new-tokens, move --judge-trait or --judge-coherence, "
                    "take another --judge, or leave it out"
                )
        return found

    def _against(self, row: Response, of_trait: Verdict, coherence: Verdict) -> str:
        """Why a row is dropped; empty if it is kept."""
        if coherence.score is None:
            return f"coherence unscored: {coherence.unscored}"
        if coherence.score < self.coherence_at:
            return f"coherence below {self.coherence_at:g}"
        if row.author == "instructed neutral":
            return ""
        if of_trait.score is None:
            return f"trait unscored: {of_trait.unscored}"
        if row.pole == "high" and of_trait.score < self.trait_at:
            return f"trait score below {self.trait_at:g}"
        if row.pole == "low" and of_trait.score >= self.trait_at:
            return f"trait score at or above {self.trait_at:g}"
        return ""

    def as_json(self, trait: Trait) -> dict[str, Any]:
        """Who filtered, by what, and whether this judge had passed its gate."""
        return {
            "judge": self.judge.identity,
            "rubrics": [load_rubric(kind).name for kind in ("trait", "coherence")],
            "trait_at": self.trait_at,
            "coherence_at": self.coherence_at,
            "gate": gate_state(gate_of(self.judge, trait)),
        }

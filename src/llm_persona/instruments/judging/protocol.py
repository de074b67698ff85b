"""What a judge is asked and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from llm_persona.domain.rubrics import Rubric
from llm_persona.domain.traits import Trait

FAILED = "call failed: "
"""How the reason of a verdict begins that no judge gave: it is asked for again the next time."""


@dataclass(frozen=True)
class JudgeRequest:
    """One answer to grade. `prompt` is the whole user turn; the other fields say what went into it.

    `nonce` above 0 asks the same question again in a way that a cache does not confuse with the first: it numbers the
    reading in the prompt's first line, and is the seed where an endpoint takes one.
    """

    rubric: str
    trait: str
    question: str
    answer: str
    prompt: str
    answer_first: bool = False
    nonce: int = 0


def grading(
    rubric: Rubric, question: str, answer: str, trait: Trait | None = None, answer_first: bool = False, nonce: int = 0
) -> JudgeRequest:
    """The request to grade `answer` by `rubric`.

    Raises:
        UserError: the rubric speaks of a trait and none is given.
    """
    about = trait if rubric.needs_trait else None
    prompt = rubric.fill(question, answer, about, answer_first)
    if nonce:
        prompt = f"(Reading {nonce + 1}.)\n\n{prompt}"
    return JudgeRequest(rubric.name, about.name if about else "", question, answer, prompt, answer_first, nonce)


@dataclass(frozen=True)
class Verdict:
    """A score from 0 to 100, or none and the reason.

    `reply` is what the judge wrote. `mass` is the probability of its numbers (None where the score was read from text).
    """

    score: float | None
    unscored: str = ""
    reply: str = ""
    mass: float | None = None

    @property
    def failed(self) -> bool:
        """Whether the judge never spoke (no reply came), so that asking again may help."""
        return self.unscored.startswith(FAILED)

    def as_json(self) -> dict[str, Any]:
        """Plain data; `unscored` only where there is no score."""
        found: dict[str, Any] = {"score": self.score, "mass": self.mass, "reply": self.reply}
        return found if self.score is not None else {**found, "unscored": self.unscored}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Verdict:
        """From `as_json`."""
        return cls(data["score"], data.get("unscored", ""), data["reply"], data["mass"])


class Judge(Protocol):
    """Anything that grades answers."""

    @property
    def identity(self) -> dict[str, Any]:
        """What decides its verdicts, as plain data without secrets."""

    @property
    def part(self) -> int:
        """How many requests it takes at once before what is done should be saved."""

    def judge(self, requests: Sequence[JudgeRequest], progress: Callable[[int], None] | None = None) -> list[Verdict]:
        """One verdict a request, in their order.

        Raises:
            UserError: no request of this judge can succeed (wrong key, no server, no such model).
        """

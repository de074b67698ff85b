"""Rows that were not read, so that whoever counts rows can say which and why."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from llm_persona.domain.errors import one_line

OPENING = 60
"""Characters of a prompt by which a reader knows the question again."""


@dataclass(frozen=True)
class LeftOut:
    """A row that was left out: its number among those given, its question, and how that begins.

    `reason` says why; a row that is only left out so that the poles of its question stay balanced has the reason of
    the one that could not be read, and is not `itself` at fault.
    """

    row: int
    group: str
    pole: str
    prompt: str
    reason: str
    itself: bool = True

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def opening(prompt: str) -> str:
    """How a prompt begins, on one line."""
    return one_line(prompt, OPENING)


def questions(left: Iterable[LeftOut]) -> dict[str, str]:
    """The questions that were left out, each with how it begins."""
    return {entry.group: entry.prompt for entry in left}

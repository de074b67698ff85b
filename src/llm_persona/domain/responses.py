"""Rows to read: a prompt, a response, the pole it stands for, and the question it belongs to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from llm_persona.domain.items import Item


@dataclass(frozen=True)
class Response:
    """One response to one prompt. `group` is the question: rows of a group are never split."""

    prompt: str
    text: str
    pole: str
    group: str
    system: str | None = None
    """The system turn it is read under; None reads it as the subject stands."""
    author: str = ""
    """In what state it was written: labelled, "instructed high: PAIR", "tuned high", ..."""


def labelled(items: Iterable[Item]) -> list[Response]:
    """Four rows an item, in option order: each response as an answer to situation + query."""
    return [
        Response(item.prompt, text, "high" if "high" in name else "low", item.content_digest[:16], None, "labelled")
        for item in items
        for name, text in item.responses.items()
    ]

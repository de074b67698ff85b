"""What is asked of an API and what comes back, as plain data."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from llm_persona.domain.store import digest

SLACK = 0.05
"""How far log-probabilities may be off (servers round them)."""


@dataclass(frozen=True)
class ChatRequest:
    """One chat completion. `top_logprobs` 0 asks for no log-probabilities; `draw` tells repeated requests apart."""

    messages: tuple[tuple[str, str], ...]
    max_tokens: int
    temperature: float = 0.0
    top_logprobs: int = 0
    seed: int = 0
    draw: int = 0
    extra: tuple[tuple[str, Any], ...] = ()

    def key(self, endpoint: dict[str, Any]) -> str:
        """Digest of everything that decides the reply."""
        return digest([endpoint, self])


@dataclass(frozen=True)
class Reply:
    """What came back. `top`: per token of the reply, the likeliest tokens and their log-probabilities
    (empty where the API gives none)."""

    text: str
    finish: str = ""
    top: tuple[dict[str, float], ...] = ()
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Reply:
        """From what the cache holds."""
        top = tuple(likeliest(step.items()) for step in data["top"])
        numbers = size_of(data["prompt_tokens"]), size_of(data["completion_tokens"])
        if not isinstance(data["text"], str) or not isinstance(data["finish"], str):
            raise TypeError("no text")
        return cls(data["text"], data["finish"], top, *numbers)


def likeliest(entries: Iterable[tuple[str, Any]]) -> dict[str, float]:
    """Tokens of one place with their log-probabilities.

    Raises:
        ValueError: these are no log-probabilities: NaN, above 0, or together more than certain.
    """
    found = {token: float(value) for token, value in entries}
    if any(not value <= SLACK for value in found.values()) or math.fsum(map(math.exp, found.values())) > 1 + SLACK:
        raise ValueError("no log-probabilities")
    return found


def size_of(value: Any) -> int:
    """A number of tokens as an API gives it; 0 where it gives none.

    Raises:
        ValueError: it is negative, or beyond what any reply has.
    """
    found = int(value or 0)
    if not 0 <= found < 1 << 40:
        raise ValueError("no number of tokens")
    return found


@dataclass(frozen=True)
class Failure:
    """A call that gave nothing in the end, and why. It is counted and never becomes a number."""

    reason: str


class Refused(Exception):
    """The API will not answer any request like this one (wrong key, unknown model, feature not there)."""


class NotAccepted(Refused):
    """The API does not accept this request. Where it has answered others, it is this one alone (its content, or its
    length)."""


class Passing(Exception):
    """The call failed in a way that may pass. `wait` is the pause in seconds that the API asks for, if it does."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class Endpoint(Protocol):
    """One model behind an API."""

    @property
    def identity(self) -> dict[str, Any]:
        """What decides its replies (kind, model, address without credentials)."""

    async def ask(self, request: ChatRequest) -> Reply:
        """One call, no retry.

        Raises:
            Refused: no such request will succeed. Passing: it may succeed later.
        """

    async def close(self) -> None:
        """Give connections back."""

"""What is asked of an API and what comes back, as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from llm_persona.domain.store import digest


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
        top = tuple({str(k): float(v) for k, v in step.items()} for step in data["top"])
        numbers = int(data["prompt_tokens"]), int(data["completion_tokens"])
        return cls(str(data["text"]), str(data["finish"]), top, *numbers)


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

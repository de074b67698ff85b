"""Many calls to one endpoint: at most so many at once, tried again within bounds, each paid for once."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llm_persona.domain.errors import UserError, one_line
from llm_persona.domain.formats import sealed, unsealed
from llm_persona.domain.store import canonical, read_json, write_json
from llm_persona.subject.remote.requests import ChatRequest, Endpoint, Failure, NotAccepted, Passing, Refused, Reply

CHARACTERS_PER_TOKEN = 4
"""For estimates before a call; English text in common tokenizers has 4 to 4.5."""


@dataclass(frozen=True)
class Limits:
    """Bounds of a batch of calls. `seconds` is for one try, the reply's last byte included."""

    concurrency: int = 8
    attempts: int = 5
    seconds: float = 120.0
    longest_pause: float = 30.0
    max_calls: int | None = None


@dataclass
class Record:
    """What happened: calls made, answered from the cache, tries again by reason, failures by reason, tokens."""

    calls: int = 0
    cached: int = 0
    retries: Counter = field(default_factory=Counter)
    failures: Counter = field(default_factory=Counter)
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "calls": self.calls,
            "cached": self.cached,
            "retries": dict(self.retries),
            "failures": dict(self.failures),
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
        }


@dataclass(frozen=True)
class Estimate:
    """Before the start: calls that would be made (cached ones left out), tokens, and the price if rates are known."""

    calls: int
    cached: int
    prompt_tokens: int
    completion_tokens: int
    price: float | None

    def sentence(self) -> str:
        """For the terminal."""
        cost = "no price given" if self.price is None else f"about {self.price:.2f} at the given rates"
        return (
            f"{self.calls} calls ({self.cached} more are cached), about {self.prompt_tokens} tokens in and at most "
            f"{self.completion_tokens} out; {cost}"
        )


class Clock:
    """The time that calls and pauses take; another one may be put in its place."""

    def within(self, seconds: float) -> AbstractAsyncContextManager[Any]:
        """What is done inside ends in a TimeoutError after so many seconds."""
        return asyncio.timeout(seconds)

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)


class Caller:
    """Calls one endpoint. Replies are kept in `cache` (a folder) by the digest of endpoint and request, so an
    interrupted batch goes on where it was; a reply with an error is never kept."""

    def __init__(self, endpoint: Endpoint, cache: Path | None = None, limits: Limits | None = None) -> None:
        self.endpoint = endpoint
        self.cache = cache
        self.limits = limits or Limits()
        self.record = Record()
        self.clock = Clock()

    def estimate(self, requests: Sequence[ChatRequest], rates: tuple[float, float] | None = None) -> Estimate:
        """What the requests would cost. `rates`: price of a million tokens in, and out."""
        fresh = [r for r in requests if self._cached(r) is None]
        sent = sum(len(text) for r in fresh for _, text in r.messages) // CHARACTERS_PER_TOKEN
        back = sum(r.max_tokens for r in fresh)
        price = None if rates is None else (sent * rates[0] + back * rates[1]) / 1e6
        return Estimate(len(fresh), len(requests) - len(fresh), sent, back, price)

    def ask_all(
        self, requests: Sequence[ChatRequest], progress: Callable[[int], None] | None = None
    ) -> list[Reply | Failure]:
        """Replies in the requests' order; a call that failed for good is a `Failure` with its reason.

        The first call goes alone: what would fail for all (no server, wrong key, unknown model) ends here.

        Raises:
            UserError: the endpoint refuses such requests, or cannot be reached at all.
        """
        return _finish(self._ask_all(list(requests), progress))

    async def _ask_all(
        self, requests: list[ChatRequest], progress: Callable[[int], None] | None
    ) -> list[Reply | Failure]:
        found: list[Reply | Failure | None] = [self._cached(request) for request in requests]
        known = sum(reply is not None for reply in found)
        self.record.cached += known
        if progress is not None and known:
            progress(known)
        missing = [n for n, reply in enumerate(found) if reply is None]
        gate = asyncio.Semaphore(self.limits.concurrency)

        async def one(number: int) -> None:
            async with gate:
                found[number] = await self._call(requests[number])
            if progress is not None:
                progress(1)

        try:
            if missing:
                await one(missing[0])
                first = found[missing[0]]
                if isinstance(first, Failure) and not first.reason.startswith("--max-calls"):
                    raise UserError(f"{self._name()}: {first.reason}; check that the server runs, and --base-url")
                async with asyncio.TaskGroup() as group:
                    for number in missing[1:]:
                        group.create_task(one(number))
        except ExceptionGroup as error:
            raise error.exceptions[0] from error
        finally:
            await self.endpoint.close()
        return [reply for reply in found if reply is not None]

    async def _call(self, request: ChatRequest) -> Reply | Failure:
        limits = self.limits
        reason = ""
        for attempt in range(limits.attempts):
            if limits.max_calls is not None and self.record.calls >= limits.max_calls:
                reason = f"--max-calls {limits.max_calls} reached"
                break
            self.record.calls += 1
            wait: float | None = None
            try:
                async with self.clock.within(limits.seconds):
                    reply = await self.endpoint.ask(request)
                self.record.prompt_tokens += reply.prompt_tokens
                self.record.completion_tokens += reply.completion_tokens
                self._keep(request, reply)
                return reply
            except Refused as error:
                if isinstance(error, NotAccepted) and self.record.completion_tokens:
                    reason = one_line(str(error), 120)
                    break
                raise UserError(f"{self._name()}: {one_line(str(error), 300)}") from error
            except Passing as error:
                reason, wait = one_line(str(error), 120), error.wait
            except TimeoutError:
                reason = f"no whole reply within {limits.seconds:g} s"
            self.record.retries[reason] += 1
            if attempt + 1 < limits.attempts:
                await self.clock.sleep(self._pause(attempt, wait, request))
        self.record.failures[reason] += 1
        return Failure(reason)

    def _pause(self, attempt: int, wait: float | None, request: ChatRequest) -> float:
        """Exponential with a spread that depends on the request alone, or what the API asks for; both bounded."""
        if wait is not None:
            return min(max(wait, 0.0), self.limits.longest_pause)
        spread = int(request.key({})[:4], 16) / 0xFFFF
        return min(0.5 * 2.0**attempt * (0.5 + spread), self.limits.longest_pause)

    def _name(self) -> str:
        identity = self.endpoint.identity
        return f"{identity.get('kind')}:{identity.get('model')} at {identity.get('address', 'its own address')}"

    def _place(self, request: ChatRequest) -> Path | None:
        if self.cache is None:
            return None
        key = request.key(self.endpoint.identity)
        return self.cache / key[:2] / f"{key}.json"

    def _cached(self, request: ChatRequest) -> Reply | None:
        place = self._place(request)
        if place is None or not place.is_file():
            return None
        try:
            found = read_json(place)
        except UserError:
            return None
        kept = unsealed(found, "reply", place)
        try:
            return None if kept is None else Reply.from_json(kept)
        except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError):
            return None  # a damaged entry is asked for again

    def _keep(self, request: ChatRequest, reply: Reply) -> None:
        place = self._place(request)
        if place is not None:
            write_json(place, sealed("reply", canonical(reply)))


def _finish(work: Coroutine[Any, Any, list[Reply | Failure]]) -> list[Reply | Failure]:
    """Run to the end, also where an event loop is running already (a notebook)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    box: list[Any] = []

    def run() -> None:
        try:
            box.append(asyncio.run(work))
        except BaseException as error:  # carried to the caller's thread
            box.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if isinstance(box[0], BaseException):
        raise box[0]
    return list(box[0])

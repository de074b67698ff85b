"""Clocks that stand still until a test moves them, so that no test depends on how fast the machine is."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import asynccontextmanager

from llm_persona.interfaces.serve.slow_clients import TimedProtocol


class Told:
    """A caller's clock: pauses pass at once and are written down; a try's time is over when `expire` is called."""

    def __init__(self):
        self.pauses: list[float] = []
        self.limits: list[float] = []
        self._open: set[asyncio.Timeout] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def sleep(self, seconds):
        self.pauses.append(seconds)
        await asyncio.sleep(0)

    @asynccontextmanager
    async def within(self, seconds):
        self.limits.append(seconds)
        self._loop = asyncio.get_running_loop()
        async with asyncio.timeout(None) as scope:
            self._open.add(scope)
            try:
                yield
            finally:
                self._open.discard(scope)

    def expire(self):
        """The time of every try that is under way is over; from any thread."""
        assert self._loop is not None

        def end():
            for scope in self._open:
                scope.reschedule(self._loop.time())

        self._loop.call_soon_threadsafe(end)


class _Timer:
    def __init__(self, seconds, then):
        self.seconds, self.then, self.cancelled = seconds, then, False

    def cancel(self):
        self.cancelled = True


class Standing(TimedProtocol):
    """The server's protocol on a clock that stands still: `pass_time` ends the waits that are shorter.

    A class of its own for each server: `class Own(Standing): timers = []`.
    """

    timers: list

    def __init__(self, *args, **more):
        super().__init__(*args, **more)
        self._true_loop, self.loop = self.loop, self

    def call_later(self, seconds, then):
        self.timers.append(timer := _Timer(seconds, then))
        timer.loop = self._true_loop
        return timer

    def create_task(self, *args, **more):
        return self._true_loop.create_task(*args, **more)

    @classmethod
    def waiting(cls) -> list:
        """Waits that are neither over nor given up."""
        return [timer for timer in cls.timers if not timer.cancelled]

    @classmethod
    def pass_time(cls, seconds):
        """So much time goes by."""
        for timer in cls.waiting():
            if timer.seconds <= seconds:
                timer.cancel()
                timer.loop.call_soon_threadsafe(timer.then)


def until(true, guard=120.0):
    """Wait until something is so that will be; `guard` only ends a test that hangs."""
    ending = time.monotonic() + guard
    pause = threading.Event()
    while not true():
        assert time.monotonic() < ending, "it never came about"
        pause.wait(0.005)

"""One model, one thread: requests wait in line, so that no steering of one is ever on while another runs."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Any

from llm_persona.domain.condition import Condition
from llm_persona.domain.errors import UserError
from llm_persona.subject.decode import Step, decode
from llm_persona.subject.load import Subject


class Busy(Exception):
    """The line is full."""


class Gone(Exception):
    """Nobody waits for the answer any more: the client went away, or the server stops."""


class TooSlow(Exception):
    """The request's time is over."""


@dataclass
class Job:
    """One request on its way. `render` makes the prompt's token ids in the worker's thread (tokenizers are not to be
    used by two threads at once); `prompt_tokens` is known once a step came."""

    render: Callable[[], list[int]]
    condition: Condition
    settings: dict[str, Any]
    seconds: float
    deadline: float
    loop: asyncio.AbstractEventLoop
    prompt_tokens: int = 0
    ready: asyncio.Queue = field(default_factory=asyncio.Queue)
    cancelled: threading.Event = field(default_factory=threading.Event)

    def put(self, item: Step | BaseException | None) -> None:
        """Hand something to the request's own loop, if that is still there."""
        try:
            self.loop.call_soon_threadsafe(self.ready.put_nowait, item)
        except RuntimeError:  # the loop was closed: the server stops
            self.cancelled.set()

    def give_up(self) -> None:
        """Stop it, in line or running, and end whoever waits for its steps."""
        self.cancelled.set()
        self.put(Gone("the client went away, or the server stops"))

    async def steps(self) -> AsyncGenerator[Step, None]:
        """The steps of the answer as they come. Leaving the iteration early stops the model.

        Raises:
            TooSlow: the time limit, waiting included, is over. UserError: the request's fault. Gone: given up.
        """
        try:
            while True:
                left = self.deadline - time.monotonic()
                try:
                    item = await asyncio.wait_for(self.ready.get(), max(left, 0.01))
                except TimeoutError:
                    raise TooSlow(f"the answer took longer than {self.seconds:g} s") from None
                if item is None:
                    return
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            self.cancelled.set()


class Worker:
    """Runs jobs one after the other on the subject; at most `waiting` may stand in line."""

    def __init__(self, subject: Subject, waiting: int, seconds: float) -> None:
        self.subject = subject
        self.seconds = seconds
        self._line: queue.Queue[Job] = queue.Queue(maxsize=waiting)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="llm-persona-worker", daemon=True)
        self._thread.start()

    def start(self, render: Callable[[], list[int]], condition: Condition, **settings: Any) -> Job:
        """Put a request in line.

        Raises:
            Busy: the line is full.
        """
        deadline = time.monotonic() + self.seconds
        job = Job(render, condition, settings, self.seconds, deadline, asyncio.get_running_loop())
        try:
            self._line.put_nowait(job)
        except queue.Full:
            raise Busy("too many requests wait here; try again in a moment") from None
        return job

    def close(self) -> None:
        """Stop: the running request ends at its next token, those in line are given up."""
        self._closing.set()
        self._thread.join(timeout=10)

    def _work(self) -> None:
        while not self._closing.is_set():
            try:
                job = self._line.get(timeout=0.2)
            except queue.Empty:
                continue
            if not job.cancelled.is_set():
                self._run(job)
        while not self._line.empty():
            self._line.get_nowait().give_up()

    def _run(self, job: Job) -> None:
        try:
            self._answer(job)
            job.put(None)
        except (UserError, TooSlow) as error:
            job.put(error)
        except BaseException as error:  # tokenizers panic with one: the next request must find the thread alive
            job.put(RuntimeError(f"{type(error).__name__} while answering"))

    def _answer(self, job: Job) -> None:
        prompt = job.render()
        job.prompt_tokens = len(prompt)
        with self.subject.under(job.condition):
            for step in decode(self.subject, prompt, **job.settings):
                if self._closing.is_set():
                    job.give_up()
                if job.cancelled.is_set():
                    return
                if time.monotonic() > job.deadline:
                    raise TooSlow(f"the answer took longer than {job.seconds:g} s")
                job.put(step)

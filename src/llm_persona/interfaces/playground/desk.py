"""One model, one thread: whatever the page asks is done in line, so that no state of the model leaks into another."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any, TypeVar

import numpy as np

from llm_persona.analysis.vectors import PersonaVector
from llm_persona.domain.condition import BASE, Condition
from llm_persona.domain.errors import UserError
from llm_persona.domain.item_sources import load_items
from llm_persona.domain.responses import Response, labelled
from llm_persona.domain.traits import list_traits
from llm_persona.studies.side_by_side import Pair, Written, Zero, find_zero, opening_of, side_by_side
from llm_persona.subject.load import Subject, load_subject

T = TypeVar("T")
REMEMBERED = 32
"""Base answers and openings that are kept."""
Loader = Callable[[str], Subject]
Halted = Callable[[], bool]


class Desk:
    """Keeps one subject loaded and answers in line, on a thread of its own (a steering context belongs to one)."""

    def __init__(self, load: Loader = load_subject, seconds: float = 300.0) -> None:
        self._load, self._seconds = load, seconds
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="llm-persona-desk")
        self._subject: tuple[str, Subject] | None = None
        self._zero: Zero | None = None
        self._known: dict[Any, Any] = {}

    def close(self) -> None:
        """Let what runs end, and stop."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def open(self, model: str) -> dict[str, int]:
        """Load a model; gives its `layers` and `hidden`.

        Raises:
            UserError: it cannot be loaded.
        """

        def work() -> dict[str, int]:
            subject = self._seated(model)
            return {"layers": subject.n_layers, "hidden": subject.hidden_size}

        return self._pool.submit(work).result()

    def zero(self, model: str) -> Zero:
        """The zero of a model's scale, found when it is first asked for (some seconds on a CPU)."""
        return self._pool.submit(lambda: self._found_zero(self._seated(model))).result()

    def openings(
        self, model: str, prompt: str, condition: Condition, vectors: Sequence[PersonaVector]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Last prompt token along each vector, as the base and under the condition: two of [vectors, layers]."""

        def work() -> tuple[np.ndarray, np.ndarray]:
            subject = self._seated(model)
            if not prompt.strip():
                raise UserError("the question is empty; write one")
            key = ("opening", prompt, *[v.digest for v in vectors])
            base = self._once(key, lambda: opening_of(subject, prompt, BASE, vectors))
            return base, opening_of(subject, prompt, condition, vectors)

        return self._pool.submit(work).result()

    def ask(
        self,
        model: str,
        prompt: str,
        condition: Condition,
        vectors: Sequence[PersonaVector],
        max_new_tokens: int,
        stop: threading.Event | None = None,
    ) -> Iterator[Pair]:
        """The pair as it grows; a base answer that was finished before is not written again. `stop` ends it early, with
        what was written until then.

        Raises:
            UserError: the request's fault.
        """

        def work(subject: Subject, halted: Halted) -> Iterator[Pair]:
            key = ("answer", prompt, max_new_tokens, *[v.digest for v in vectors])
            known: Written | None = self._known.get(key)

            def enough() -> bool:
                return halted() or (stop is not None and stop.is_set())

            for pair in side_by_side(subject, prompt, condition, vectors, max_new_tokens, known, enough):
                if pair.base.by_base is not None and pair.base.finish != "halted":
                    self._once(key, lambda found=pair.base: found)  # type: ignore[misc]
                yield pair

        return self.stream(model, work)

    def stream(self, model: str, work: Callable[[Subject, Halted], Iterator[T]]) -> Iterator[T]:
        """What `work` yields, run in line on the desk's thread. Leaving the iteration early closes it there; it is
        told to halt, too, when the time limit is over.

        A reader that is slower than the model gets the newest item, not every one; the last one always.
        """
        ready: queue.Queue[tuple[str, Any]] = queue.Queue()
        left = threading.Event()
        deadline = time.monotonic() + self._seconds

        def halted() -> bool:
            return left.is_set() or time.monotonic() > deadline

        def job() -> None:
            try:
                if not left.is_set():
                    with closing(work(self._seated(model), halted)) as items:  # type: ignore[type-var]
                        for item in items:
                            ready.put(("item", item))
                            if left.is_set():
                                break
                ready.put(("end", None))
            except BaseException as error:
                ready.put(("error", error))

        self._pool.submit(job)
        try:
            kind, value = ready.get()
            while kind == "item":
                after = ready.get() if ready.qsize() else None
                if after is None or after[0] != "item":
                    yield value
                kind, value = after or ready.get()
            if kind == "error":
                raise value
        finally:
            left.set()

    def _seated(self, model: str) -> Subject:
        if self._subject is None or self._subject[0] != model:
            self._subject, self._zero = None, None
            self._known.clear()
            self._subject = (model, self._load(model))
        return self._subject[1]

    def _found_zero(self, subject: Subject) -> Zero:
        if self._zero is None:
            self._zero = find_zero(subject, zero_rows())
        return self._zero

    def _once(self, key: Any, make: Callable[[], T]) -> T:
        if key not in self._known:
            while len(self._known) >= REMEMBERED:
                self._known.pop(next(iter(self._known)))
            self._known[key] = make()
        found: T = self._known[key]
        return found


def zero_rows() -> list[Response]:
    """A high and a low response to the first question of every trait's select split: few, but about many things."""
    rows = [row for name in list_traits() for row in labelled(load_items(name).split("select")[:1])]
    first = {(row.group, row.pole): row for row in reversed(rows)}
    return [row for row in rows if first[row.group, row.pole] is row]

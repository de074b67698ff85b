"""An executor that starts when there is work for it: what is refused before costs no start."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

from llm_persona.studies.pieces import Executor, PartMaker, Piece


class AtNeed:
    """Hands on what it is given, and starts the one that does the work at the first call."""

    def __init__(self, start: Callable[[], Executor]) -> None:
        self._start = start
        self._started: Executor | None = None

    def run(self, pieces: Sequence[Piece], done: Callable[[Piece, Any], None]) -> None:
        """As the executor's."""
        self._executor().run(pieces, done)

    def stream(self, maker: PartMaker, given: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """As the executor's."""
        return self._executor().stream(maker, given)

    def _executor(self) -> Executor:
        if self._started is None:
            self._started = self._start()
        return self._started


@contextmanager
def at_need(open_: Callable[[], AbstractContextManager[Executor]]) -> Iterator[AtNeed]:
    """The executor of `open_`, opened at its first piece or part and closed in the end, if it ever was opened."""
    with ExitStack() as stack:
        yield AtNeed(lambda: stack.enter_context(open_()))

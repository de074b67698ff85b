"""Work in pieces that other processes or machines may make: what a piece is, and what an executor does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol


class Piece(Protocol):
    """Work that is begun anew where its worker is lost, so what it makes is kept by what decides it. It is pickled to
    where it is made."""

    @property
    def name(self) -> str:
        """For messages."""

    def make(self) -> Any:
        """Do it; plain data that says what was done."""


class PartMaker(Protocol):
    """Makes the parts of a stream: pickled to every worker, where it loads its subject once, at its first part."""

    @property
    def name(self) -> str:
        """For messages."""

    def make(self, given: Any) -> Any:
        """The value of one part. `given` and the value are plain JSON data."""


class Executor(Protocol):
    """What runs pieces and streams."""

    def run(self, pieces: Sequence[Piece], done: Callable[[Piece, Any], None]) -> None:
        """Make every piece, in any order; `done` is called with each and what its `make` returned.

        Raises:
            UserError: a piece's own, or that its workers were lost too often.
        """

    def stream(self, maker: PartMaker, given: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """(number, value) of every part, as each is made, in any order.

        Raises:
            UserError: a part's own, or that its workers were lost too often.
        """

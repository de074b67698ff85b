"""The parts of a long measurement: each is a stage, and workers may make those that are missing ahead of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from llm_persona.studies.pieces import Executor, PartMaker
from llm_persona.studies.stages import Stages

T = TypeVar("T")
Progress = Callable[[int], None]
"""Told of so many more rows."""


@dataclass(frozen=True)
class Part:
    """A stage of `size` rows. `given` is what a maker needs to make it, as plain data."""

    stage: str
    key: Any
    size: int
    given: Any


def make_parts(
    stages: Stages,
    parts: Iterable[Part],
    maker: PartMaker,
    executor: Executor,
    progress: Progress | None = None,
    kept: Progress | None = None,
) -> None:
    """Have the parts that are missing made by workers, and keep each as it comes.

    The measurement then finds them all: its numbers are those that it would have made, and what was kept before a
    kill is not made again. `progress` is told of the rows of each part that is done; of those of an earlier run `kept`
    instead, if it is given.

    Raises:
        UserError: a part's own, or that its workers were lost too often.
    """
    tell = progress or (lambda rows: None)
    tell_kept = kept or tell
    missing = []
    for part in parts:
        if stages.has(part.stage, part.key):
            tell_kept(part.size)
        else:
            missing.append(part)
    if not missing:
        return
    for number, value in executor.stream(maker, [part.given for part in missing]):
        part = missing[number]
        stages.value(part.stage, part.key, lambda value=value: value)  # type: ignore[misc]
        tell(part.size)


@contextmanager
def telling(stages: Stages, size: int, progress: Progress | None, kept: Progress | None) -> Iterator[None]:
    """Around the taking of one part from the stages: its rows are told as done, or as kept where it was there."""
    made = stages.made
    yield
    tell = progress if stages.made > made or kept is None else kept
    if tell is not None:
        tell(size)


def with_next(parts: Iterable[T]) -> Iterator[tuple[T, T | None]]:
    """Each part, and the one after it (None: there is none), so that what it needs can be got ready meanwhile."""
    coming = iter(parts)
    try:
        here = next(coming)
    except StopIteration:
        return
    for following in coming:
        yield here, following
        here = following
    yield here, None

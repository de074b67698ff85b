"""Two ways of one job, timed in interleaved rounds: what `bench` reports."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from llm_persona.domain.errors import Shortfall

AT_MOST = 1.3
"""What a study's parts may take of their floors' time, for the whole to stay within as much."""


@dataclass(frozen=True)
class Comparison:
    """Two ways of the same job. `ours` and `plain` take the round's number, and do the job on that round's texts.

    `ratio` says what is divided by what; `at_least` or `at_most` is what we ask of it.
    """

    name: str
    ratio: str
    ours: Callable[[int], Any]
    plain: Callable[[int], Any]
    at_least: float | None = None
    at_most: float | None = None
    times: int = 1
    """How often the plain way would be gone: its time counts so often,"""
    beside: Sequence[tuple[int, Callable[[int], Any]]] = ()
    """and to that come these jobs' times, each so often (below zero: what the repetitions have in common)."""


@dataclass(frozen=True)
class Timing:
    """Medians over the rounds; the ratio is the median of the rounds' own ratios, with its range."""

    name: str
    what: str
    ours_seconds: float
    plain_seconds: float
    ratio: float
    ratio_range: tuple[float, float]
    rounds: int
    bar: str
    holds: bool

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {**self.__dict__, "ratio_range": list(self.ratio_range)}


def measure(
    comparison: Comparison,
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
    before: Callable[[], None] = lambda: None,
) -> Timing | None:
    """Interleaved rounds of both ways, by the clock (seconds); `before` is done, untimed, before each of them.

    None, with a warning, where the plain way's time comes out at nothing: work so short that the clock cannot part it.
    """
    pairs = []
    for number in range(rounds + 1):
        ways = {"ours": comparison.ours, "plain": comparison.plain}
        order = ("ours", "plain") if number % 2 else ("plain", "ours")
        took = {}
        for way in order:
            before()
            begun = clock()
            ways[way](number)
            took[way] = clock() - begun
        plain = comparison.times * took["plain"]
        for times, job in comparison.beside:
            before()
            begun = clock()
            job(number)
            plain += times * (clock() - begun)
        if number:
            pairs.append((took["ours"], plain))
    if min(plain for _, plain in pairs) <= 0:
        said = f"bench: {comparison.name} is too short to be timed here; give more --items"
        warnings.warn(said, Shortfall, stacklevel=2)
        return None
    upward = comparison.at_least is not None
    ratios = [plain / ours if upward else ours / plain for ours, plain in pairs]
    ratio = statistics.median(ratios)
    bar = f"at least {comparison.at_least:g}" if upward else f"at most {comparison.at_most:g}"
    holds = ratio >= (comparison.at_least or 0) if upward else ratio <= (comparison.at_most or 0)
    return Timing(
        comparison.name, comparison.ratio, statistics.median(o for o, _ in pairs),
        statistics.median(p for _, p in pairs), ratio, (min(ratios), max(ratios)), len(pairs), bar, holds,
    )  # fmt: skip

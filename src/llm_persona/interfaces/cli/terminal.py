"""What the terminal shows: progress while work goes on, tables when it is done."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from llm_persona.domain.terminal_text import plain as plain
from llm_persona.interfaces.cli.quiet import is_quiet

PIPED_WIDTH = 160
"""Columns when the output is no terminal: a table in a file or a pipe is not folded to 80."""
SILENCE = 15.0
"""Seconds between two plain lines of a count where there is no terminal."""
out = Console(width=None if sys.stdout.isatty() else PIPED_WIDTH)
err = Console(stderr=True)


@contextmanager
def status(text: str) -> Iterator[None]:
    """A spinner on a terminal, a plain line elsewhere."""
    if is_quiet():
        yield
    elif err.is_terminal:
        with err.status(Text(plain(text))):
            yield
    else:
        print(text, file=sys.stderr, flush=True)
        yield


def print_beside(text: str) -> None:
    """A line on standard error, above a bar if one is shown; elsewhere it is never folded."""
    if err.is_terminal:
        err.print(Text(plain(text)))
    else:
        print(plain(text), file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """A length of time for reading, to two parts."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


class Count:
    """A count that is shown: a bar with the time left on a terminal, now and then a plain line elsewhere.

    What was there already (`reused`) says nothing about the time that the rest takes. The count never passes its
    total: where there is more to do than was said, the total grows.
    """

    def __init__(self, text: str, total: int, shown: bool = True) -> None:
        self.text, self.total, self.done = plain(text), total, 0
        self._kept = self._told = 0  # of an earlier run; so many of them were spoken of
        self._made, self._started, self._said = 0, time.monotonic(), time.monotonic()
        self._shown = shown and not is_quiet()
        self._bar = Progress(
            TextColumn("{task.description}", markup=False), BarColumn(bar_width=28), MofNCompleteColumn(),
            TimeElapsedColumn(), TextColumn("{task.fields[left]}"),
            console=err, transient=True, disable=not (self._shown and err.is_terminal),
        )  # fmt: skip
        self._task = self._bar.add_task(self.text, total=total, left="")

    def __enter__(self) -> Count:
        if not self._bar.disable:
            self._bar.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._tell_kept()
        if not self._bar.disable:
            self._bar.stop()

    @property
    def left(self) -> str:
        """The time left, from what was made so far; empty while nothing was."""
        if not self._made or self.done >= self.total:
            return ""
        seconds = (time.monotonic() - self._started) / self._made * (self.total - self.done)
        return f"about {duration(seconds)} left"

    def __call__(self, count: int) -> None:
        """So many more are done; now and then a line says so."""
        self._tell_kept()
        self.step(count)
        if time.monotonic() - self._said >= SILENCE:
            self._said = time.monotonic()
            self.say(f"{self.text}: {self.done} of {self.total}{', ' + self.left if self.left else ''}")

    def step(self, count: int = 1, reused: bool = False) -> None:
        """So many more are done."""
        self.done += count
        self._made += 0 if reused else count
        self.set_total(max(self.total, self.done))

    def keep(self, count: int) -> None:
        """So many more were there already, from an earlier run; one line says how many in all."""
        self._kept += count
        self.step(count, reused=True)

    def _tell_kept(self) -> None:
        if self._kept > self._told and self._shown:
            self._told = self._kept
            print_beside(f"{self._kept} of {self.total} were there from an earlier run")

    def set_total(self, total: int) -> None:
        """The total is known better now."""
        self.total = max(total, self.done)
        self._bar.update(self._task, completed=self.done, total=self.total, left=self.left)

    def describe(self, text: str) -> None:
        """What is being done."""
        self._bar.update(self._task, description=plain(text)[:44].ljust(44))

    def say(self, text: str) -> None:
        """A plain line where there is no terminal."""
        if self._shown and not err.is_terminal:
            print(text, file=sys.stderr, flush=True)


@contextmanager
def counting(text: str, total: int, shown: bool = True) -> Iterator[Count]:
    """Count to `total`; what it yields is called with each step's number. `shown` is off for helper processes."""
    with Count(text, total, shown) as count:
        count.say(text)
        yield count


def table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """Print a table; title, columns and cells are plain text. Nothing is printed with `--quiet`."""
    if is_quiet():
        return
    made = Table(title=Text(plain(title)), title_justify="left", header_style="bold")
    for column in columns:
        made.add_column(Text(plain(column)), justify="left", overflow="fold")
    for row in rows:
        made.add_row(*[Text(plain(cell)) for cell in row])
    out.print(made)


class StudyProgress:
    """A bar over a study's stages with the time left; one line a stage where there is no terminal."""

    def __init__(self, expected: int) -> None:
        self._count = Count("starting", expected)

    def __enter__(self) -> StudyProgress:
        self._count.__enter__()
        return self

    def __exit__(self, *_: Any) -> None:
        self._count.__exit__()

    def begin(self, stage: str) -> None:
        """A stage starts."""
        self._count.describe(stage)

    def end(self, stage: str, seconds: float, reused: bool) -> None:
        """A stage is done."""
        self._count.step(reused=reused)
        if not reused:
            left = self._count.left
            self._count.say(f"[{self._count.done}/{self._count.total}] {stage} ({seconds:.1f} s"
                            f"{'; ' + left if left else ''})")  # fmt: skip

    def spare(self, count: int) -> None:
        """So many stages that were counted on are not needed."""
        self._count.set_total(self._count.total - count)


def cell(value: float | None, digits: int = 2) -> str:
    """A number in a table."""
    return "-" if value is None else f"{value:.{digits}f}"


def span(ci: Any, digits: int = 2) -> str:
    """An interval in a table."""
    return "-" if not ci or ci[0] is None else f"{ci[0]:.{digits}f} to {ci[1]:.{digits}f}"


def with_span(value: float | None, ci: Any, digits: int = 2, factor: float = 1.0, unit: str = "") -> str:
    """A number with its interval behind it."""
    ends = [None if end is None else factor * end for end in ci or (None, None)]
    return f"{'-' if value is None else f'{factor * value:.{digits}f}{unit}'} ({span(ends, digits)})"

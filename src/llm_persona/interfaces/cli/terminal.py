"""What the terminal shows: progress while work goes on, tables when it is done."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from llm_persona.domain.terminal_text import plain as plain

PIPED_WIDTH = 160
"""Columns when the output is no terminal: a table in a file or a pipe is not folded to 80."""
out = Console(width=None if sys.stdout.isatty() else PIPED_WIDTH)
err = Console(stderr=True)


@contextmanager
def status(text: str) -> Iterator[None]:
    """A spinner on a terminal, a plain line elsewhere."""
    if err.is_terminal:
        with err.status(Text(plain(text))):
            yield
    else:
        print(text, file=sys.stderr, flush=True)
        yield


@contextmanager
def counting(text: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar with the time left on a terminal, a line a tenth elsewhere; yields what to call with each step."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=28), MofNCompleteColumn(),
               TimeElapsedColumn(), TimeRemainingColumn())  # fmt: skip
    text = plain(text)
    done, shown = 0, 0
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task(text, total=total)
        if not err.is_terminal:
            print(text, file=sys.stderr, flush=True)

        def step(count: int) -> None:
            nonlocal done, shown
            done += count
            bar.update(task, completed=done)
            if not err.is_terminal and total >= 200 and done * 10 // total > shown:
                shown = done * 10 // total
                print(f"{text}: {done} of {total}", file=sys.stderr, flush=True)

        yield step


def table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """Print a table; title, columns and cells are plain text."""
    made = Table(title=Text(plain(title)), title_justify="left", header_style="bold")
    for column in columns:
        made.add_column(Text(plain(column)), justify="left", overflow="fold")
    for row in rows:
        made.add_row(*[Text(plain(cell)) for cell in row])
    out.print(made)


class StudyProgress:
    """A bar over a study's stages with the time left; one line a stage where there is no terminal."""

    def __init__(self, expected: int) -> None:
        self._expected = expected
        self._done = 0
        self._bar = Progress(
            TextColumn("{task.description}", style="bold", markup=False),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=err,
            transient=True,
        )
        self._task = self._bar.add_task("starting", total=expected)

    def __enter__(self) -> StudyProgress:
        if err.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if err.is_terminal:
            self._bar.stop()

    def begin(self, stage: str) -> None:
        """A stage starts."""
        self._bar.update(self._task, description=plain(stage)[:44].ljust(44))

    def end(self, stage: str, seconds: float, reused: bool) -> None:
        """A stage is done."""
        self._done += 1
        self._expected = max(self._expected, self._done)
        self._bar.update(self._task, completed=self._done, total=self._expected)
        if not err.is_terminal and not reused:
            print(f"[{self._done}/{self._expected}] {stage} ({seconds:.1f} s)", file=sys.stderr, flush=True)


def cell(value: float | None, digits: int = 2) -> str:
    """A number in a table."""
    return "-" if value is None else f"{value:.{digits}f}"


def span(ci: Any, digits: int = 2) -> str:
    """An interval in a table."""
    return "-" if not ci or ci[0] is None else f"{ci[0]:.{digits}f} to {ci[1]:.{digits}f}"

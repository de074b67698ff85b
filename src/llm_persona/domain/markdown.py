"""Text of strangers made safe to stand in Markdown: the one place that does it, tables included."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from llm_persona.domain.terminal_text import one_line

MARKS = re.compile(r"([\\`*_{}\[\]()#+\-.!|~>$@:])")
TAG = re.compile(r"<(?=[A-Za-z/!?])")
LOOSE = re.compile(r"(?<!\\)((?:\\\\)*)(\||\](?=\())")
"""A column's or a link's mark that no backslash stands before."""
LONGEST = 1 << 20


def escaped(text: str) -> str:
    """Text that Markdown, and the HTML in it, shows letter by letter, on one line."""
    line = one_line(text, LONGEST).replace("&", "&amp;").replace("<", "&lt;")
    return MARKS.sub(r"\\\1", line).replace(r"\>", "&gt;")


def code(text: str) -> str:
    """A code span, whatever backticks the text holds."""
    line = one_line(text, LONGEST)
    longest = max((len(run) for run in re.findall("`+", line)), default=0)
    mark = "`" * (longest + 1)
    pad = " " if line[:1] in ("`", "") or line.endswith("`") else ""
    return f"{mark}{pad}{line}{pad}{mark}"


def cell(text: str) -> str:
    """A cell of our own making, emphasis and all, that cannot leave its place: no column, line, tag or link of its own.

    What a model or a file says goes through `escaped` first.
    """
    return LOOSE.sub(r"\1\\\2", TAG.sub("&lt;", one_line(text, LONGEST)))


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table, and an empty one after it."""
    lines = [columns, ["---"] * len(columns), *rows]
    return [*(f"| {' | '.join(map(cell, line))} |" for line in lines), ""]

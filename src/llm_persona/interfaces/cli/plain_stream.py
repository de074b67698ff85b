"""The door to the terminal: whatever a command prints, control characters of models and files do not pass."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, TextIO

from llm_persona.domain.terminal_text import plain


class PlainStream:
    """A text stream on which unsafe characters become visible ones.

    rich writes past it (it looks for `rich_proxied_file`), since its own colours and cursor moves are wanted; what is
    handed to rich is made plain in `terminal`.
    """

    def __init__(self, stream: TextIO) -> None:
        self.rich_proxied_file = stream

    def write(self, text: str) -> int:
        """Write the text, made plain."""
        self.rich_proxied_file.write(plain(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write each line, made plain."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rich_proxied_file, name)


def guard_terminal() -> None:
    """Have standard output and error of this process shown plain."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, PlainStream):
            setattr(sys, name, PlainStream(stream))

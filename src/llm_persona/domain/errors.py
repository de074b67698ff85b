"""Errors a user can act on. Everything else that escapes is our fault (exit 1)."""

from __future__ import annotations


class UserError(Exception):
    """The input is at fault: one line saying what is wrong, where, and what to do (exit 2)."""


class IncompatibleVector(UserError):
    """A vector that does not fit the subject: wrong width, layer count or model."""


class TooLong(UserError):
    """A text beyond what the subject reads at once."""


class Overlap(UserError):
    """An artefact would be judged on the very items it was made from."""


def one_line(text: str, limit: int = 600) -> str:
    """Fold an error text into one line without control characters, for a terminal."""
    folded = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return folded if len(folded) <= limit else folded[: limit - 3] + "..."

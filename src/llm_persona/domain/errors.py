"""Errors a user can act on. Everything else that escapes is our fault (exit 1)."""

from __future__ import annotations

from llm_persona.domain.terminal_text import one_line as one_line  # errors are shown on one line


class UserError(Exception):
    """The input is at fault: one line saying what is wrong, where, and what to do (exit 2)."""


class IncompatibleVector(UserError):
    """A vector that does not fit the subject: wrong width, layer count or model."""


class TooLong(UserError):
    """A text beyond what the subject reads at once."""


class Overlap(UserError):
    """An artefact would be judged on the very items it was made from."""


class Shortfall(UserWarning):
    """Less was read than was given: how much, and why."""


class Replaced(UserWarning):
    """Finished results are about to be replaced, since settings changed: whose, and which settings."""


class Damage(UserWarning):
    """A file of ours is not as it was written (its digest differs): which one, and what is done about it."""

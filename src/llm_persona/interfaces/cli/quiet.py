"""Options that every command has: `--quiet`, and `--json -` for JSON alone on standard output."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from typing import Any, TextIO

import click

QUIET, STDOUT = "llm_persona.quiet", "llm_persona.stdout"


def is_quiet() -> bool:
    """Whether the running command was called with `--quiet`."""
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.find_root().meta.get(QUIET))


def _set_quiet(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
    if wanted:
        ctx.find_root().meta[QUIET] = True


def with_quiet(command: click.Command) -> click.Command:
    """The command, and its sub-commands, with the option `--quiet`."""
    if isinstance(command, click.Group):
        for part in command.commands.values():
            with_quiet(part)
    elif not any(p.name == "quiet" for p in command.params):
        command.params.append(
            click.Option(["-q", "--quiet"], is_flag=True, expose_value=False, is_eager=True, callback=_set_quiet,
                         help="No progress and no tables: only results, paths and errors.")
        )  # fmt: skip
    return command


def json_alone(ctx: click.Context, _param: click.Parameter, path: str | None) -> str | None:
    """With `--json -` everything that is meant for people goes to standard error."""
    if path == "-" and STDOUT not in ctx.meta:
        ctx.meta[STDOUT] = sys.stdout
        ctx.with_resource(redirect_stdout(sys.stderr))
    return path


def real_stdout() -> TextIO:
    """Standard output as the command found it."""
    context = click.get_current_context(silent=True)
    found: Any = sys.stdout if context is None else context.meta.get(STDOUT, sys.stdout)
    return found

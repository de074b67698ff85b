"""Entry point: find the command, run it, turn what escapes into an exit code and one line."""

from __future__ import annotations

import errno
import os
import sys
import warnings
from importlib import import_module

import click

from llm_persona.interfaces.cli.plain_stream import guard_terminal
from llm_persona.interfaces.cli.quiet import with_quiet

COMMANDS = {
    "run": ("run", "Run a study: measure, find, steer, tune, report."),
    "traits": ("traits", "List, show, check and start traits."),
    "vectors": ("vectors", "Extract and show persona vectors."),
    "evaluate": ("evaluate", "Measure a trait with TRAIT items under a condition."),
    "steer": ("steer", "Generate under a condition, or chat."),
    "finetune": ("finetune", "Train a LoRA adapter on a trait's pole or a chat file."),
    "screen": ("screen", "Screen chat data with a persona vector before fine-tuning on it."),
    "judge": ("judge", "Try a judge on answers of known pole, score stored answers with it, monitor prompts."),
    "trace": ("trace", "Show where each token of a conversation lies along a persona vector, live too."),
    "prevent": ("prevent", "Fine-tune in ways that hold a trait still, and compare them."),
    "audit": ("audit", "Show what a fine-tuning did to every trait."),
    "serve": ("serve", "Serve the model, steered by request, as an OpenAI-compatible endpoint."),
    "playground": ("playground", "Open a local web page: base and steered answers side by side."),
    "report": ("report", "Write the page of a finished run again, as Markdown or a model card; compare runs."),
    "bench": ("bench", "Time this model on this machine, against plain ways of the same jobs."),
    "doctor": ("doctor", "Say what this machine has and what is missing, or whether a run folder is whole."),
}


class Lazy(click.Group):
    """Commands are imported when they are called, so that `--help` is instant."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in reading order."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import the module of one command."""
        if name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"llm_persona.interfaces.cli.{COMMANDS[name][0]}"), name)
        return with_quiet(command)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list in `--help`, without importing anything."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


def _version(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
    if wanted:
        from llm_persona.domain.provenance import own_version

        click.echo(f"llm-persona {own_version()}")
        ctx.exit()


@click.group(cls=Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--version", is_flag=True, expose_value=False, is_eager=True, callback=_version, help="Show the version.")
def cli() -> None:
    """Measure, find, steer and audit the personality of language models.

    Start with: llm-persona run

    \b
    Completion of commands and options by the Tab key, in your shell's start-up file:
      bash  eval "$(_LLM_PERSONA_COMPLETE=bash_source llm-persona)"
      zsh   eval "$(_LLM_PERSONA_COMPLETE=zsh_source llm-persona)"
      fish  _LLM_PERSONA_COMPLETE=fish_source llm-persona | source
    """


def main() -> None:
    """Run the command line; exit 0 done, 2 the user's input, 1 our fault, 130 interrupted."""
    guard_terminal()
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code. Exactly one line goes to stderr for a user's error."""
    from llm_persona.domain.errors import UserError, one_line

    warnings.showwarning = _show_warning
    debug = bool(os.environ.get("LLM_PERSONA_DEBUG"))
    try:
        result = cli.main(args=arguments, prog_name="llm-persona", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return 0
    except click.ClickException as error:
        hint = f" (see `{error.ctx.command_path} --help`)" if isinstance(error, click.UsageError) and error.ctx else ""
        return _fail(one_line(error.format_message()) + hint, 2)
    except UserError as error:
        if debug:
            raise
        return _fail(one_line(str(error)), 2)
    except (KeyboardInterrupt, click.Abort):
        again = one_line(" ".join(without_secrets(arguments)))
        return _fail(f"interrupted; finished work is kept, the same command goes on: llm-persona {again}", 130)
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except Exception as error:
        if debug:
            raise
        full = _disk_error(error)
        if full is not None:
            return _fail(f"{full}; free some space or choose another folder, finished work is kept", 2)
        return _fail(
            f"internal error: {type(error).__name__}: {one_line(str(error), 300)}; this is our fault, please report it "
            "(LLM_PERSONA_DEBUG=1 shows where)",
            1,
        )


def without_secrets(arguments: list[str]) -> list[str]:
    """The arguments as they may be printed: no token, no password within an address."""
    from llm_persona.subject.remote.keys import without_credentials

    shown = ["--token=[key]" if text.startswith("--token=") else without_credentials(text) for text in arguments]
    return ["[key]" if before == "--token" else text for before, text in zip(["", *arguments], shown, strict=False)]


DISK_ERRORS = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR,
    errno.ENAMETOOLONG,
}  # fmt: skip


def _disk_error(error: BaseException) -> str | None:
    """The reason, if a library's error comes down to a disk that is full or cannot be written."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in DISK_ERRORS:
            return f"{cause.filename or 'the disk'}: {cause.strerror}"
        cause = cause.__cause__ or cause.__context__
    return None


def _fail(text: str, code: int) -> int:
    click.echo(f"llm-persona: {text}", err=True)
    return code


def _show_warning(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    """Only our own warnings reach the terminal, each on one line."""
    from llm_persona.domain.errors import Damage, Replaced, Shortfall, one_line

    if issubclass(category, (Damage, Replaced, Shortfall)) or (category is UserWarning and "vector" in str(message)):
        click.echo(f"llm-persona: warning: {one_line(str(message))}", err=True)

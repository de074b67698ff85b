"""Where a command's result goes: `--json`, and finding out early that it cannot be written there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from llm_persona.interfaces.cli.quiet import json_alone, real_stdout

json_option = click.option("--json", "json_path", type=click.Path(dir_okay=False), callback=json_alone,
                           help="Write the result as JSON (-: to standard output, alone).")  # fmt: skip


def write_result(path: str | None, value: Any) -> None:
    """Write `--json`, if asked for; `-` is standard output."""
    if path == "-":
        from llm_persona.domain.store import json_chunks

        real_stdout().writelines(json_chunks(value, ascii_only=True))
        real_stdout().flush()
    elif path is not None:
        from llm_persona.domain.store import write_json

        write_json(Path(path), value)


@contextmanager
def output_checked(*paths: str | None) -> Iterator[None]:
    """Find out before the work, not after it, that a result cannot be written."""
    import tempfile

    from llm_persona.domain.errors import UserError

    for text in paths:
        if text is None or text == "-":
            continue
        folder = Path(text).absolute().parent
        while not folder.exists():
            folder = folder.parent
        try:
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            raise UserError(f"{text}: {folder} is not a writable folder; choose another place") from error
        if Path(text).is_dir():
            raise UserError(f"{text}: is a folder; give a file name")
    yield

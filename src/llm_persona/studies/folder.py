"""A folder that one process at a time works in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from filelock import FileLock, Timeout

from llm_persona.domain.errors import UserError
from llm_persona.domain.formats import version_in
from llm_persona.domain.store import read_json

LOCK = ".lock"
KINDS = ("results", "manifest", "audit", "prevention")
"""Kinds of the files KIND.json that a folder may hold."""


@contextmanager
def working_in(folder: Path, what: str) -> Iterator[None]:
    """Make the folder with its `stages/`, and hold its lock; temporary files of a killed process are removed.

    Args:
        what: what is done there, for the error ("running a study").

    Raises:
        UserError: another process works there, the folder cannot be written, or a newer llm-persona wrote it.
    """
    try:
        (folder / "stages").mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "stages" / LOCK).acquire(timeout=0):
            refuse_newer(folder)
            sweep(folder)  # we hold the lock: nobody else is writing
            yield
    except Timeout as error:
        raise UserError(f"--out {folder}: another process is {what} there; wait or choose another folder") from error
    except OSError as error:
        if Path(error.filename or "/").is_relative_to(folder):
            raise UserError(
                f"--out {folder}: cannot be written ({error.strerror}); choose a writable folder, finished work is kept"
            ) from error
        raise


def sweep(folder: Path) -> None:
    """Remove what a killed process left half written; only while nobody writes there."""
    for path in folder.rglob(".*.tmp"):
        path.unlink(missing_ok=True)


def refuse_newer(folder: Path) -> None:
    """Leave alone what a newer llm-persona wrote.

    Raises:
        UserError: names the file.
    """
    for kind in KINDS:
        name = f"{kind}.json"
        if (folder / name).is_file():
            try:
                found = read_json(folder / name)
            except UserError:
                continue  # damaged: written again at the end
            if isinstance(found, dict):
                version_in(found.get("format"), kind, folder / name)
    settings = study_settings(folder)
    if settings is not None:
        version_in(settings.get("format"), "study", folder / "study.yaml")


def study_settings(folder: Path) -> dict[str, object] | None:
    """What the folder's study.yaml holds; None where there is none that can be read."""
    try:
        found = yaml.safe_load((folder / "study.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return None
    return found if isinstance(found, dict) else None

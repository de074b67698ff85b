"""Versions of the files we write: each names its format, an older one is read, a newer one is refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llm_persona.domain.errors import UserError, one_line
from llm_persona.domain.store import digest

VERSIONS = {
    "activations": 1, "adapter": 1, "audit": 1, "checkpoint": 1, "digests": 1, "evaluation": 1, "gate": 1,
    "manifest": 1, "model": 1, "prevention": 1, "reply": 1, "results": 1, "scores": 1, "screen": 1, "stage": 1,
    "study": 1, "vector": 1,
}  # fmt: skip
"""The version of each kind of file that this llm-persona writes, and the newest that it reads. Raised where a reader of
the former version would read wrongly; keys that are only added raise nothing."""
OWN = ("format", "digest")


def format_of(kind: str) -> str:
    """What a file of that kind says in its field `format`."""
    return f"llm-persona.{kind}.{VERSIONS[kind]}"


def version_in(found: Any, kind: str, where: str | Path) -> int:
    """The version that a file's field `format` names; 0 where it has none (files from before they had one).

    Raises:
        UserError: a newer version, or the format of something else.
    """
    if found is None or found == "":
        return 0
    start = f"llm-persona.{kind}."
    number = found.removeprefix(start) if isinstance(found, str) and found.startswith(start) else ""
    if not (number.isascii() and number.isdecimal() and len(number) < 6):
        raise UserError(f"{where}: its format is {one_line(repr(found), 60)}, not {format_of(kind)}; give another file")
    if int(number) > VERSIONS[kind]:
        raise UserError(
            f"{where}: format {found} was written by a newer llm-persona (this one reads {kind} files up to version "
            f"{VERSIONS[kind]}); update llm-persona"
        )
    return int(number)


def sealed(kind: str, value: Mapping[str, Any]) -> dict[str, Any]:
    """The value with its format, and with a digest of all the rest by which damage is noticed."""
    return {"format": format_of(kind), **value, "digest": digest(_rest(value))}


def is_intact(found: Mapping[str, Any]) -> bool:
    """Whether a sealed value is as it was written; one without a digest (older files) counts as intact."""
    try:
        return "digest" not in found or found["digest"] == digest(_rest(found))
    except RecursionError:  # nested deeper than we write
        return False


def unsealed(found: Any, kind: str, where: str | Path) -> dict[str, Any] | None:
    """What was sealed, from a file of this or an older version; None if it is damaged.

    Raises:
        UserError: a newer version.
    """
    if not isinstance(found, dict):
        return None
    version_in(found.get("format"), kind, where)
    return _rest(found) if is_intact(found) else None


def _rest(value: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in value.items() if k not in OWN}

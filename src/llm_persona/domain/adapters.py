"""What an adapter's folder says of itself, and whether its files are as they were written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llm_persona.domain.errors import UserError
from llm_persona.domain.formats import unsealed
from llm_persona.domain.store import digest, file_digest, read_json

RECORD = "llm-persona.json"
FILES = ("adapter_model.safetensors", "adapter_config.json")
"""What decides an adapter's effect (the configuration holds the scale): the record keeps their digests."""


def adapter_digest(folder: Path) -> str:
    """Digest of what decides an adapter's effect; the folder's name does not count."""
    return digest([file_digest(folder / name) for name in FILES])


def adapter_record(folder: Path) -> dict[str, Any] | None:
    """The record of a training of ours; None where the folder holds none, or a damaged one.

    Raises:
        UserError: written by a newer llm-persona.
    """
    place = folder / RECORD
    if not place.is_file():
        return None
    try:
        found = read_json(place, "record of a training")
    except UserError:
        return None
    return unsealed(found, "adapter", place)


def adapter_fault(folder: Path) -> str:
    """Which file of the folder is missing or not as it was written, and how; "" where all are as they should be, and
    where the folder keeps no digests (adapters of others, and from before version 1).

    Raises:
        UserError: the record was written by a newer llm-persona.
    """
    record = adapter_record(folder)
    if record is None:
        return f"{folder / RECORD}: is not as it was written" if (folder / RECORD).is_file() else ""
    digests = record.get("files", {})
    for name in FILES:
        if not (folder / name).is_file():
            return f"{folder / name}: is gone"
        if name in digests and file_digest(folder / name) != digests[name]:
            return f"{folder / name}: is not as it was written (its digest differs)"
    return ""

"""Weights and adapters in the layout of the Hub's cache: each file there is named by its own digest."""

from __future__ import annotations

from pathlib import Path

from llm_persona.domain.hub import check_blobs
from llm_persona.subject.file_digests import file_digests
from llm_persona.subject.smollm2 import cache_folder


def check_hub_files(folder: Path, name: str) -> None:
    """Refuse a snapshot of which a file is not what its name says; a folder of any other kind is left alone.

    A large file is read once: its digest is remembered (see `file_digests`).

    Raises:
        UserError: names the file, and the one to delete.
    """
    check_blobs(folder, name, lambda blob: file_digests([blob], cache_folder())[blob.name])


def hub_snapshot(model: str) -> Path | None:
    """The folder in which the Hub's cache holds a model; None where it holds none."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(model, "config.json")
    return Path(found).parent if isinstance(found, str) else None

"""Digests of large files, remembered: reading gigabytes at every start would take minutes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from llm_persona.domain.errors import UserError
from llm_persona.domain.formats import sealed, unsealed
from llm_persona.domain.store import file_digest, read_json, write_json

LARGE_FILE = 64 << 20
MEMORY = "file-digests.json"


def file_digests(files: Sequence[Path], cache: Path) -> dict[str, str]:
    """Name to SHA-256 of each file.

    Digests of large files are taken from `cache` while the file's size, inode and both its times (of change, and of
    change of its inode, which nobody can set back) are those of the last reading.
    """
    try:
        kept = unsealed(read_json(cache / MEMORY), "digests", cache / MEMORY) or {}
        known = {str(mark): str(value) for mark, value in kept.get("digests", {}).items()}
    except (UserError, AttributeError):
        known = {}
    before, found = dict(known), {}
    for file in files:
        stat = file.stat()
        mark = f"{file.resolve()}:{stat.st_size}:{stat.st_ino}:{stat.st_mtime_ns}:{stat.st_ctime_ns}"
        if mark in known:
            found[file.name] = known[mark]
            continue
        found[file.name] = file_digest(file)
        if stat.st_size >= LARGE_FILE:
            known = {m: d for m, d in known.items() if not m.startswith(f"{file.resolve()}:")}
            known[mark] = found[file.name]
    if known != before:
        with suppress(UserError):  # without a writable cache the digest is simply computed each time
            write_json(cache / MEMORY, sealed("digests", {"digests": known}))
    return found

"""Finished work that is never done twice: each stage is a file named by the digest of what decides it."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from llm_persona.analysis.activations import Activations
from llm_persona.domain.errors import Damage, UserError
from llm_persona.domain.formats import format_of, version_in
from llm_persona.domain.provenance import versions
from llm_persona.domain.store import canonical, digest, file_digest, read_json, write_json

SCHEMA = 1
"""Raised when the meaning of a stage's result changes: older stages are then made anew."""


DECIDING = {name: versions()[name] for name in ("torch", "transformers", "peft", "numpy")}
"""Libraries whose version may change a number: what another version made is not taken over."""


class Reporter(Protocol):
    """Where progress goes."""

    def begin(self, stage: str) -> None:
        """A stage starts."""

    def end(self, stage: str, seconds: float, reused: bool) -> None:
        """A stage is there: made in `seconds`, or reused."""

    def spare(self, count: int) -> None:
        """So many stages that were counted on are not needed."""


class Silent:
    """No progress."""

    def begin(self, stage: str) -> None:
        """A stage starts."""

    def end(self, stage: str, seconds: float, reused: bool) -> None:
        """A stage is there: made in `seconds`, or reused."""

    def spare(self, count: int) -> None:
        """So many stages that were counted on are not needed."""


class Stages:
    """Results by stage. With a folder they are kept on disk and survive a kill; without, they are just made."""

    def __init__(self, folder: Path | None = None, reporter: Reporter | None = None) -> None:
        self.folder = folder
        self.reporter: Reporter = reporter or Silent()
        self.seconds: dict[str, float] = {}
        self.made = 0
        self.files: set[str] = set()
        """Names of the files that the finished stages lie in."""

    def has(self, name: str, key: Any) -> bool:
        """Whether the stage is finished and whole."""
        return self._read(name, key) is not None

    def value(self, name: str, key: Any, make: Callable[[], Any]) -> Any:
        """The stage's JSON value, made if need be. What comes back went through JSON in any case, so a run that
        was interrupted and one that was not go on with the very same numbers."""
        found = self._read(name, key)
        self.reporter.begin(name)
        if found is None:
            started = time.monotonic()
            value = make()
            found = {"stage": name, "key": self._key(name, key), "seconds": time.monotonic() - started, "value": value}
            self.made += 1
            if self.folder is not None:
                stamp = {"format": format_of("stage"), **found, "digest": digest(value)}
                write_json(self._path(name, key, ".json"), stamp)
                found = json.loads(json.dumps(canonical(found)))
            self.reporter.end(name, found["seconds"], reused=False)
        else:
            self.reporter.end(name, 0.0, reused=True)
        self.seconds[name] = found["seconds"]
        if self.folder is not None:
            self.files.add(self._path(name, key, ".json").name)
        return found["value"]

    def activations(self, name: str, key: Any, make: Callable[[], Activations]) -> Activations:
        """Recorded activations, kept as safetensors; a damaged file is recorded again."""
        if self.folder is None:
            return make()
        path = self._path(name, key, ".safetensors")

        def produce() -> dict[str, str]:
            make().save(path)
            return {"file": path.name, "sha256": file_digest(path)}

        stamp = self.value(name, key, produce)
        if not path.is_file() or file_digest(path) != stamp["sha256"]:
            state = "is not as it was written" if path.is_file() else "is gone"
            warnings.warn(f"{path}: {state}; it is recorded again", Damage, stacklevel=2)
            self._path(name, key, ".json").unlink(missing_ok=True)
            self.value(name, key, produce)
        self.files.add(path.name)
        return Activations.load(path)

    def _key(self, name: str, key: Any) -> str:
        return digest([SCHEMA, DECIDING, name, key])

    def _path(self, name: str, key: Any, suffix: str) -> Path:
        assert self.folder is not None
        safe = "".join(c if c.isalnum() or c in "-+." else "_" for c in name)[:80]
        return self.folder / f"{safe}-{self._key(name, key)[:16]}{suffix}"

    def _read(self, name: str, key: Any) -> Any:
        if self.folder is None:
            return None
        path = self._path(name, key, ".json")
        if not path.exists():
            return None
        try:
            found = read_json(path)
        except UserError:
            found = None
        if isinstance(found, dict):
            version_in(found.get("format"), "stage", path)
        if is_whole_stage(found) and found["key"] == self._key(name, key):
            return found
        warnings.warn(f"{path}: is not as it was written; that stage is made again", Damage, stacklevel=3)
        path.unlink(missing_ok=True)
        return None

    def forget(self, name: str, key: Any) -> None:
        """Have a stage made again: what it left outside the store is gone."""
        if self.folder is not None:
            self._path(name, key, ".json").unlink(missing_ok=True)


def is_whole_stage(found: Any) -> bool:
    """Whether the contents of a stage's file are as they were written."""
    return (
        isinstance(found, dict)
        and isinstance(found.get("seconds"), (int, float))
        and "key" in found
        and "value" in found
        and found.get("digest") == digest(found["value"])
    )

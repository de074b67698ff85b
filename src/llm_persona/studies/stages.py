"""Finished work that is never done twice: each stage is a file named by the digest of what decides it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from llm_persona.analysis.activations import Activations
from llm_persona.domain.errors import UserError
from llm_persona.domain.provenance import versions
from llm_persona.domain.store import digest, read_json, write_json

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

    def has(self, name: str, key: Any) -> bool:
        """Whether the stage is finished and whole."""
        return self._read(name, key) is not None

    def value(self, name: str, key: Any, make: Callable[[], Any]) -> Any:
        """The stage's JSON value, made if need be. What comes back was always read from JSON, so a run that
        was interrupted and one that was not go on with the very same numbers."""
        found = self._read(name, key)
        self.reporter.begin(name)
        if found is None:
            started = time.monotonic()
            value = make()
            found = {"stage": name, "key": self._key(name, key), "seconds": time.monotonic() - started, "value": value}
            self.made += 1
            if self.folder is not None:
                path = self._path(name, key, ".json")
                write_json(path, {**found, "digest": digest(value)})
                found = read_json(path)
            self.reporter.end(name, found["seconds"], reused=False)
        else:
            self.reporter.end(name, 0.0, reused=True)
        self.seconds[name] = found["seconds"]
        return found["value"]

    def activations(self, name: str, key: Any, make: Callable[[], Activations]) -> Activations:
        """Recorded activations, kept as safetensors; a damaged file is recorded again."""
        if self.folder is None:
            return make()
        path = self._path(name, key, ".safetensors")

        def produce() -> dict[str, str]:
            from llm_persona.domain.store import file_digest

            make().save(path)
            return {"file": path.name, "sha256": file_digest(path)}

        from llm_persona.domain.store import file_digest

        stamp = self.value(name, key, produce)
        if not path.is_file() or file_digest(path) != stamp["sha256"]:
            self._path(name, key, ".json").unlink(missing_ok=True)
            self.value(name, key, produce)
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
            whole = found["key"] == self._key(name, key) and found["digest"] == digest(found["value"])
        except (UserError, KeyError, TypeError):
            whole = False
        return found if whole else None

    def forget(self, name: str, key: Any) -> None:
        """Have a stage made again: what it left outside the store is gone."""
        if self.folder is not None:
            self._path(name, key, ".json").unlink(missing_ok=True)

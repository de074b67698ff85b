"""Recorded activations with their poles and groups, and their file."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from llm_persona.analysis.tensor_digest import tensor_digest
from llm_persona.domain.errors import UserError
from llm_persona.domain.formats import format_of, version_in
from llm_persona.domain.left_out import LeftOut

T = TypeVar("T")
BLOCK = 256
"""Rows that are worked on at once: temporary copies must not grow with the number of rows."""
TEXTS = ("poles", "groups", "left_out")
"""What a file keeps beside the values; the last only where something was left out."""


@dataclass(frozen=True)
class Activations:
    """`values` float [n, layers, hidden]; `poles` "high"/"low" [n]; `groups` [n], the question of each row.

    `left_out`: the rows given to be recorded that are not among them.
    """

    values: np.ndarray
    poles: Sequence[str]
    groups: Sequence[Hashable]
    left_out: tuple[LeftOut, ...] = ()

    def __post_init__(self) -> None:
        values = np.asarray(self.values)
        if values.ndim != 3:
            raise UserError(f"activations: values must be [n, layers, hidden], not {values.ndim}-dimensional")
        if not len(values) == len(self.poles) == len(self.groups):
            raise UserError(
                f"activations: {len(values)} rows, {len(self.poles)} poles and {len(self.groups)} groups; one each"
            )
        unknown = sorted({str(p) for p in self.poles} - {"high", "low", "neutral"})
        if unknown:
            raise UserError(f"activations: pole {unknown[0]!r}; use high, low or neutral")
        for start in range(0, len(values), BLOCK):
            finite = np.isfinite(values[start : start + BLOCK]).all(axis=(1, 2))
            if not finite.all():
                bad = start + int(np.flatnonzero(~finite)[0])
                raise UserError(f"activations: row {bad} holds NaN or infinity; try --dtype float32")

    def __len__(self) -> int:
        return len(self.values)

    @property
    def n_layers(self) -> int:
        """Number of layers."""
        return int(self.values.shape[1])

    @property
    def high(self) -> np.ndarray:
        """Boolean [n]: which rows are of the high pole."""
        return np.array([p == "high" for p in self.poles], dtype=bool)

    @property
    def group_index(self) -> np.ndarray:
        """Integer [n]: groups numbered in order of first appearance."""
        numbers: dict[Any, int] = {}
        return np.array([numbers.setdefault(g, len(numbers)) for g in self.groups], dtype=int)

    def kept(self, rows: Sequence[T]) -> list[T]:
        """Of the rows given to be recorded, or of what belongs to each of them, those that are here."""
        missing = {entry.row for entry in self.left_out}
        return [row for number, row in enumerate(rows) if number not in missing]

    def take(self, rows: np.ndarray) -> Activations:
        """The given rows, in that order."""
        index = np.asarray(rows)
        if index.dtype == bool:
            index = np.flatnonzero(index)
        return Activations(self.values[index], [self.poles[i] for i in index], [self.groups[i] for i in index])

    def save(self, path: str | Path) -> None:
        """Write as safetensors with poles and groups (as text) in the metadata."""
        import json

        from safetensors.numpy import save_file

        from llm_persona.domain.store import appearing

        meta = {
            "format": format_of("activations"),
            "poles": json.dumps(list(self.poles)),
            "groups": json.dumps([str(g) for g in self.groups]),
        }
        values = np.ascontiguousarray(self.values, dtype=np.float32)
        if self.left_out:
            meta["left_out"] = json.dumps([entry.as_json() for entry in self.left_out])
        texts = {name: meta[name] for name in TEXTS if name in meta}
        meta["digest"] = tensor_digest({"values": values}, texts)
        with appearing(Path(path)) as temporary:
            save_file({"values": values}, temporary, metadata=meta)

    @classmethod
    def load(cls, path: str | Path) -> Activations:
        """Read what `save` wrote.

        Raises:
            UserError: no such file, or not one of ours.
        """
        import json

        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(path), framework="np") as stored:
                meta = stored.metadata() or {}
                if not version_in(meta.get("format"), "activations", path):
                    raise UserError(f"{path}: not an activations file; record them again")
                values = stored.get_tensor("values")
                texts = {name: meta[name] for name in TEXTS if name in meta}
                if "digest" in meta and meta["digest"] != tensor_digest({"values": values}, texts):
                    raise UserError(f"{path}: is not as it was written (its digest differs); record them again")
                poles, groups = json.loads(meta["poles"]), json.loads(meta["groups"])
                if not all(isinstance(x, list) and all(isinstance(y, str) for y in x) for x in (poles, groups)):
                    raise TypeError("poles and groups are lists of texts")
                if values.dtype.kind != "f":
                    raise TypeError(values.dtype)
                left = tuple(LeftOut(**entry) for entry in json.loads(meta.get("left_out", "[]")))
                return cls(values, poles, groups, left)
        except UserError as error:
            raise error if str(error).startswith(str(path)) else UserError(f"{path}: {error}") from error
        except (OSError, SafetensorError, KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"{path}: cannot be read as activations; record them again") from error

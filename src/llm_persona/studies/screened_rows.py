"""The numbers of a screened file's rows, in arrays: a file of millions of rows costs tens of bytes a row."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

import numpy as np

from llm_persona.instruments.projection_difference import FORMS
from llm_persona.training.data import Skipped

BY = (None, "projection_difference", "prompt_last")
"""What a row was judged by, in the order of the codes in `ScreenedRows`."""


class Measured:
    """Gathers what the parts measured: `rows` [n] numbers of readable rows, `values` [n, forms] (NaN: not computed),
    `reasons` by place (why a full difference is missing), `used` [usable] (False: turned out unreadable)."""

    def __init__(self, listed: int) -> None:
        self._rows = array("q")
        self._values = array("d")
        self._used = array("b")
        self._listed = listed
        self.reasons: dict[int, str] = {}
        self.late: list[Skipped] = []
        """The first rows that turned out unreadable, up to `listed`."""

    def add(self, part: Iterable[dict[str, Any]]) -> None:
        """Take a part's rows over, in file order."""
        for row in part:
            self._used.append("skipped" not in row)
            if "skipped" in row:
                if len(self.late) < self._listed:
                    self.late.append(Skipped(row["row"], row["skipped"]))
                continue
            if "reason" in row:
                self.reasons[len(self._rows)] = row["reason"]
            self._rows.append(row["row"])
            given = (row.get(name) for name in FORMS)
            self._values.extend(float("nan") if x is None else x for x in given)

    def __len__(self) -> int:
        return len(self._used)

    @property
    def used(self) -> np.ndarray:
        """[usable], which of the usable rows could be read."""
        return np.frombuffer(self._used, dtype=np.int8).astype(bool)

    @property
    def rows(self) -> np.ndarray:
        """[n] row numbers."""
        return np.frombuffer(self._rows, dtype=np.int64)

    @property
    def values(self) -> np.ndarray:
        """[n, forms]."""
        return np.frombuffer(self._values, dtype=np.float64).reshape(-1, len(FORMS))


class ScreenedRows(Sequence[dict[str, Any]]):
    """A row's dict of the contract is made when it is asked for.

    Args:
        numbers: [n] rows of the file. values: [n, forms]. by: [n] codes into `BY`. flagged: [n], read where a row is
            judged. reasons: by place.
    """

    def __init__(
        self, numbers: np.ndarray, values: np.ndarray, by: np.ndarray, flagged: np.ndarray, reasons: dict[int, str]
    ) -> None:
        self._numbers, self._values, self._by, self._flagged = numbers, values, by, flagged
        self._reasons = reasons

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, place: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, place: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, place: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        place = range(len(self))[place]
        by = BY[self._by[place]]
        row = {
            "row": int(self._numbers[place]),
            **{n: x if np.isfinite(x) else None for n, x in zip(FORMS, self._values[place].tolist(), strict=True)},
            "flagged": None if by is None else bool(self._flagged[place]),
            "by": by,
        }
        if place in self._reasons:
            row["reason"] = self._reasons[place]
        return row

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[i] for i in range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(_same, self, other))

    __hash__ = None  # type: ignore[assignment]


def _same(a: Any, b: Any) -> bool:
    return bool(a == b)

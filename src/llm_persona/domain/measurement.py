"""What an instrument returns: rows, and the summary computed from them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Measurement:
    """Rows (one per item, text or answer) and their summary, under one condition.

    `rows` are plain JSON objects in a fixed order, so that two measurements of the same instrument
    can be paired row by row. A row that could not be scored carries `unscored`: the reason.
    """

    instrument: str
    condition: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "instrument": self.instrument,
            "condition": self.condition,
            "summary": self.summary,
            "rows": self.rows,
        }

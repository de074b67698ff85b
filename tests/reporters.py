"""A reporter of stages for tests."""

from __future__ import annotations


class Counting:
    """Counts stages against what was announced: `worst` is by how many the total was ever passed."""

    def __init__(self, expected: int) -> None:
        self.total, self.done, self.worst = expected, 0, 0

    def begin(self, stage: str) -> None:
        """A stage starts."""

    def end(self, stage: str, seconds: float, reused: bool) -> None:
        self.done += 1
        self.worst = max(self.worst, self.done - self.total)

    def spare(self, count: int) -> None:
        self.total -= count

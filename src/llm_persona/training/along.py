"""What is measured along the way of a training, kept so that a resumed one has the whole of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from llm_persona.domain.store import read_json, write_json
from llm_persona.subject.load import Subject

MEASURED = 10
"""How often a held-out loss is measured in a training."""


@dataclass(frozen=True)
class Watch:
    """`measure(subject)` gives plain data on the model in training, before the first step and after every `every`."""

    every: int
    measure: Callable[[Subject], dict[str, Any]]
    key: Any = None
    """What is measured, as plain data."""


@dataclass
class Along:
    """The record by step: `held_out` losses and what a `Watch` found. Measuring changes nothing in the training."""

    subject: Subject
    file: Path
    watch: Watch | None = None
    loss: Callable[[], float] | None = None
    loss_every: int = 1
    rows: list[dict[str, Any]] = field(default_factory=list)

    def resume(self, step: int) -> None:
        """Go on from `step`: what was measured up to it is taken over."""
        known = read_json(self.file) if self.file.is_file() else []
        self.rows = [row for row in known if row["step"] <= step] if step else []

    def at(self, step: int, last: bool = False) -> dict[str, Any] | None:
        """Measure if this step is one to measure at; the row, if it holds a held-out loss."""
        if any(row["step"] == step for row in self.rows):
            return None
        loss = self.loss if step % self.loss_every == 0 or last else None
        watch = self.watch if self.watch is not None and (step % self.watch.every == 0 or last) else None
        if loss is None and watch is None:
            return None  # (standing still for nothing goes through every module, and waits for an accelerator)
        row: dict[str, Any] = {"step": step}
        with _standing_still(self.subject):
            if loss is not None:
                row["held_out"] = loss()
            if watch is not None:
                row |= watch.measure(self.subject)
        self.rows.append(row)
        write_json(self.file, self.rows)
        return row if "held_out" in row else None

    @property
    def best(self) -> tuple[int, float] | None:
        """Step and value of the lowest held-out loss."""
        losses = [(row["step"], row["held_out"]) for row in self.rows if _finite(row.get("held_out"))]
        return min(losses, key=lambda pair: pair[1]) if losses else None

    def since_best(self) -> int:
        """Measurements of the held-out loss after the best one."""
        best = self.best
        return sum(row["step"] > best[0] for row in self.rows if "held_out" in row) if best else 0


def _finite(value: Any) -> bool:
    return isinstance(value, float) and math.isfinite(value)


@contextmanager
def _standing_still(subject: Subject) -> Iterator[None]:
    """The model as for use, and every random state as it was afterwards."""
    training = subject.model.training
    devices = [subject.device] if subject.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.no_grad():
        subject.model.eval()
        try:
            yield
        finally:
            subject.model.train(training)

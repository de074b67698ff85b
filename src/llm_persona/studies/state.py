"""A model in one state, entered once and only if something has to be measured there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np

from llm_persona.analysis.activations import Activations
from llm_persona.analysis.vectors import PersonaVector, projections
from llm_persona.domain.condition import BASE, Condition
from llm_persona.domain.measurement import Measurement
from llm_persona.domain.responses import Response
from llm_persona.studies.lab import Instrument, Lab
from llm_persona.subject.load import Subject
from llm_persona.subject.packing import Row, readable
from llm_persona.subject.record import record


class State:
    """A context manager: the subject of `lab` under `condition`; what is known to the lab's store is not made again."""

    def __init__(self, lab: Lab, condition: Condition = BASE) -> None:
        self.lab, self.condition = lab, condition
        self._stack = ExitStack()
        self._subject: Subject | None = None

    def __enter__(self) -> State:
        return self

    def __exit__(self, *error: Any) -> None:
        self._subject = None
        self._stack.__exit__(*error)

    @property
    def key(self) -> Any:
        """What decides a measurement here besides the instrument."""
        return [self.lab.identity, self.condition.state]

    def subject(self) -> Subject:
        """The subject in this state."""
        if self._subject is None:
            self._subject = self._stack.enter_context(self.lab.subject().under(self.condition))
        return self._subject

    def measure(self, name: str, instrument: Instrument) -> Measurement:
        """One instrument's measurement."""

        def make() -> Any:
            return instrument.measure(self.subject(), self.condition.name).as_json()

        return Measurement(**self.lab.stages.value(self._named(name), [*self.key, instrument.key], make))

    def value(self, name: str, key: Any, make: Callable[[Subject], Any]) -> Any:
        """Any other JSON value that is made of the subject in this state."""
        return self.lab.stages.value(self._named(name), [self.key, key], lambda: make(self.subject()))

    def has(self, name: str, key: Any) -> bool:
        """Whether `value` of the same name and key is in the store."""
        return self.lab.stages.has(self._named(name), [self.key, key])

    def activations(self, name: str, rows: Sequence[Response]) -> Activations:
        """The rows as read in this state."""
        return self.lab.stages.activations(
            self._named(name), [self.key, list(rows)], lambda: record(self.subject(), rows)
        )

    def projections(self, name: str, rows: Sequence[Response], vector: PersonaVector) -> np.ndarray:
        """Projection of each row on each layer's unit direction, [rows, layers], as read in this state; NaN for a row
        that is longer than the subject's context."""

        def make(subject: Subject) -> Any:
            fits = readable(subject, [Row(r.prompt, r.text, r.system) for r in rows])
            asked = [r for r, fit in zip(rows, fits, strict=True) if fit]
            found = iter(projections(record(subject, asked).values, vector).tolist() if asked else [])
            return [next(found) if fit else None for fit in fits]

        found = self.value(name, [list(rows), vector.digest], make)
        nothing = [np.nan] * vector.n_layers
        return np.array([nothing if row is None else row for row in found]).reshape(len(rows), vector.n_layers)

    def _named(self, name: str) -> str:
        return f"{self.condition.name} {name}"

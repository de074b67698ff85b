"""Where texts lie along a persona vector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llm_persona.analysis.stats import mean_estimate
from llm_persona.analysis.vectors import PersonaVector, projections
from llm_persona.domain.measurement import Measurement
from llm_persona.domain.responses import Response
from llm_persona.subject.load import Subject
from llm_persona.subject.record import record


@dataclass(frozen=True)
class Projection:
    """Projection of each response on the unit direction at one layer: <h, v / norm(v)>, response mean."""

    responses: Sequence[Response]
    vector: PersonaVector
    layer: int

    @property
    def key(self) -> Any:
        """What decides the measurement besides the subject's state."""
        return ["projection", list(self.responses), self.vector.digest, self.layer]

    def measure(self, subject: Subject, condition: str = "base") -> Measurement:
        """One row a response; read by the subject in the state it is in."""
        found = projections(record(subject, self.responses).values, self.vector)[:, self.layer]
        rows = [{"group": r.group, "projection": float(x)} for r, x in zip(self.responses, found, strict=True)]
        estimate = mean_estimate(found)
        summary = {"projection": estimate.value, "projection_ci": estimate.ci, "n": estimate.n, "layer": self.layer}
        return Measurement("projection", condition, rows, summary)

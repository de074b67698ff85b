"""Where texts lie along a persona vector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llm_persona.analysis.stats import mean_estimate
from llm_persona.analysis.vectors import PersonaVector, projections_at
from llm_persona.domain.measurement import Measurement
from llm_persona.domain.responses import Response
from llm_persona.subject.load import Subject
from llm_persona.subject.packing import BEYOND, Row, readable
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
        """One row a response; read by the subject in the state it is in. One beyond its context is unscored."""
        fits = readable(subject, [Row(r.prompt, r.text, r.system) for r in self.responses])
        asked = [r for r, fit in zip(self.responses, fits, strict=True) if fit]
        shape = (0, subject.hidden_size)
        values = record(subject, asked, layers=[self.layer]).values[:, 0] if asked else np.empty(shape)
        found = projections_at(values, self.vector, self.layer)
        read = iter(found.tolist())
        rows: list[dict[str, Any]] = [
            {"group": r.group, "projection": next(read)}
            if fit
            else {"group": r.group, "projection": None, "unscored": BEYOND}
            for r, fit in zip(self.responses, fits, strict=True)
        ]
        estimate = mean_estimate(found)
        summary: dict[str, Any] = {
            "projection": estimate.value if asked else None,
            "projection_ci": estimate.ci,
            "n": estimate.n,
            "layer": self.layer,
        }
        if len(asked) < len(fits):
            summary["n_unscored"] = len(fits) - len(asked)
        return Measurement("projection", condition, rows, summary)

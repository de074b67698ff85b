"""What a trace reads at each token: persona vectors, each at one layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llm_persona.analysis.vectors import PersonaVector
from llm_persona.domain.errors import UserError
from llm_persona.subject.load import Subject


@dataclass(frozen=True)
class Reader:
    """A persona vector that is read at one layer."""

    vector: PersonaVector
    layer: int
    name: str = "vector"

    @property
    def pole_gap(self) -> float:
        """Projection units between the poles' means, on the rows the vector was fitted on: the vector's norm."""
        return float(self.vector.norms[self.layer])

    def as_json(self) -> dict[str, Any]:
        """What is read, and its scale."""
        meta = self.vector.meta
        return {
            "name": self.name,
            "layer": self.layer,
            "pole_gap": self.pole_gap,
            "midpoint": self.vector.midpoint(self.layer),
            "position": meta.get("position"),
            "vector": self.vector.digest,
        }


def zero_is(reader: Reader) -> str:
    """What `Trace.zeros` is for this reader, in words."""
    if reader.vector.midpoint(reader.layer) is None:
        return "mean over the prompt's own tokens"
    return "midway between the poles' means on the rows the vector was fitted on"


def readers_for(
    subject: Subject,
    vector: PersonaVector | Sequence[PersonaVector],
    layer: int | Sequence[int] | None = None,
    names: Sequence[str] = (),
) -> tuple[Reader, ...]:
    """Each vector at its layer; without one, at the layer that its file recommends.

    Raises:
        IncompatibleVector: a vector of another width or number of layers.
        UserError: no vector, no such layer, no recommended layer, or a vector that is zero there.
    """
    vectors = [vector] if isinstance(vector, PersonaVector) else list(vector)
    layers = [layer] * len(vectors) if layer is None or isinstance(layer, int) else list(layer)
    if not vectors or len(layers) != len(vectors):
        raise UserError(f"trace: {len(vectors)} vectors and {len(layers)} layers; give each vector its layer")
    found = []
    for number, (one, where) in enumerate(zip(vectors, layers, strict=True)):
        one.check(subject.n_layers, subject.hidden_size, subject.name)
        name = names[number] if names else str(one.meta.get("trait") or f"vector {number + 1}")
        chosen = (one.meta.get("recommended") or {}).get("balanced") if where is None else where
        if chosen is None:
            raise UserError(f"{name}: the vector's file keeps no recommended layer; give a layer")
        if not 0 <= int(chosen) < subject.n_layers:
            raise UserError(f"layer {chosen}: the subject has layers 0 to {subject.n_layers - 1}")
        reader = Reader(one, int(chosen), name)
        if reader.pole_gap == 0:
            raise UserError(f"{name}: the vector is zero at layer {chosen}; choose another layer")
        found.append(reader)
    return tuple(found)

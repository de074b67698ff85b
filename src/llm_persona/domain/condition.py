"""In what state the subject is: base, instructed, with an adapter, steered, or any of these together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Steer:
    """One vector added at one layer, by `coefficient` (c * v_l) or by `dose` (share of the layer's norm)."""

    vector: Any
    """A `PersonaVector` (or anything with `directions` and `reference_norms`)."""
    layer: int
    coefficient: float | None = None
    dose: float | None = None
    name: str = "vector"

    def __post_init__(self) -> None:
        if (self.coefficient is None) == (self.dose is None):
            raise ValueError("give a coefficient or a dose, one of the two")

    @property
    def label(self) -> str:
        """E.g. `openness@12 dose +0.20`."""
        amount = f"dose {self.dose:+g}" if self.dose is not None else f"c {self.coefficient:+g}"
        return f"{self.name}@{self.layer} {amount}"


@dataclass(frozen=True)
class Condition:
    """A state of the subject, and the label of every row measured in it."""

    name: str = "base"
    system: str | None = None
    adapter: str | None = None
    steers: tuple[Steer, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """What a reader of results needs to repeat the condition."""
        return {
            "name": self.name,
            "system": self.system,
            "adapter": self.adapter,
            "steering": [
                {"vector": s.name, "layer": s.layer, "coefficient": s.coefficient, "dose": s.dose} for s in self.steers
            ],
        }


BASE = Condition()


def instructed(trait: Any) -> list[Condition]:
    """The high and the low system prompt of a trait, as conditions."""
    return [Condition(name=f"instructed-{pole}", system=trait.instruction(pole)) for pole in ("high", "low")]


def steered(vector: Any, layer: int, doses: tuple[float, ...], name: str = "vector") -> list[Condition]:
    """One condition a dose; dose 0 is left out, since it is the base."""
    return [
        Condition(name=f"steered {dose:+g}", steers=(Steer(vector, layer, dose=dose, name=name),))
        for dose in doses
        if dose != 0
    ]


def tuned(adapter: str, name: str = "tuned") -> Condition:
    """The subject with a LoRA adapter."""
    return Condition(name=name, adapter=adapter)

"""In what state the subject is: base, instructed, with an adapter, steered, or any of these together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from llm_persona.domain.adapters import FILES
from llm_persona.domain.errors import UserError
from llm_persona.domain.store import file_digest

Positions = Literal["all", "prompt", "response"]
Operator = Literal["add", "ablate", "cap"]


@dataclass(frozen=True)
class Steer:
    """One vector at one layer, with what it does there.

    `add`: c * v_l is added, by `coefficient` c or by `dose` (share of the layer's norm). `ablate`: the component along
    v_l is taken out. `cap`: that component is kept within [floor, ceiling] (projection units; either may be open).
    """

    vector: Any
    """A `PersonaVector` (or anything with `directions` and `reference_norms`)."""
    layer: int
    coefficient: float | None = None
    dose: float | None = None
    name: str = "vector"
    positions: Positions = "all"
    operator: Operator = "add"
    floor: float | None = None
    ceiling: float | None = None

    def __post_init__(self) -> None:
        strengths = (self.coefficient is not None) + (self.dose is not None)
        bounds = self.floor is not None or self.ceiling is not None
        if self.operator not in ("add", "ablate", "cap"):
            raise UserError(f"operator {self.operator!r}: choose add, ablate or cap")
        if self.operator == "add" and strengths != 1:
            raise UserError("steering: give a coefficient or a dose, one of the two")
        if self.operator != "add" and strengths:
            raise UserError(f"operator {self.operator}: takes no coefficient or dose")
        if (self.operator == "cap") != bounds:
            raise UserError("a floor or a ceiling belongs to operator cap, which needs at least one of them")
        if self.floor is not None and self.ceiling is not None and self.floor > self.ceiling:
            raise UserError(f"cap: the floor {self.floor:g} lies above the ceiling {self.ceiling:g}")

    @property
    def label(self) -> str:
        """E.g. `openness@12 dose +0.2`."""
        where = "" if self.positions == "all" else f" on the {self.positions}"
        if self.operator == "ablate":
            return f"{self.name}@{self.layer} ablated{where}"
        if self.operator == "cap":
            ends = ["" if end is None else f"{end:g}" for end in (self.floor, self.ceiling)]
            return f"{self.name}@{self.layer} kept in [{', '.join(ends)}]{where}"
        amount = f"dose {self.dose:+g}" if self.dose is not None else f"c {self.coefficient:+g}"
        return f"{self.name}@{self.layer} {amount}{where}"

    @property
    def effect(self) -> list[Any]:
        """What decides its effect besides the vector."""
        return [self.layer, self.coefficient, self.dose, self.positions, self.operator, self.floor, self.ceiling]

    @property
    def state(self) -> list[Any]:
        """What it does to a subject, as plain data for a digest; its name does not count."""
        return [self.vector.digest, *self.effect]

    def as_json(self) -> dict[str, Any]:
        """What a reader of results needs to repeat it."""
        found = {"vector": self.name, "layer": self.layer, "coefficient": self.coefficient, "dose": self.dose}
        if self.positions != "all":
            found["positions"] = self.positions
        if self.operator != "add":
            found |= {"operator": self.operator, "floor": self.floor, "ceiling": self.ceiling}
        return found


@dataclass(frozen=True)
class Condition:
    """A state of the subject, and the label of every row measured in it."""

    name: str = "base"
    system: str | None = None
    adapter: str | None = None
    steers: tuple[Steer, ...] = ()

    @property
    def state(self) -> Any:
        """What it does to the subject, as plain data for a digest; its name does not count."""
        adapter = None
        if self.adapter is not None:
            adapter = [file_digest(Path(self.adapter) / name) for name in FILES]
        return [self.system, adapter, [steer.state for steer in self.steers]]

    def as_json(self) -> dict[str, Any]:
        """What a reader of results needs to repeat the condition."""
        return {
            "name": self.name,
            "system": self.system,
            "adapter": self.adapter,
            "steering": [steer.as_json() for steer in self.steers],
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

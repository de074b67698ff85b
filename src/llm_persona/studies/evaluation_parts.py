"""TRAIT over item sets in parts: what decides a part's rows, and how workers make them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from llm_persona.domain.condition import Condition
from llm_persona.instruments.trait_benchmark import TraitBenchmark
from llm_persona.studies.lab import Lab
from llm_persona.studies.parts import Part
from llm_persona.subject.load import Subject

PART = 50
"""Items between two savings: half a minute of a small model on a CPU."""


def parts_of(
    identity: Any, name: str, benchmark: TraitBenchmark, condition: Condition
) -> Iterator[tuple[Part, TraitBenchmark]]:
    """Each part of a benchmark's items, as a stage whose name begins with `name`, and what is asked there."""
    for start in range(0, len(benchmark.items), PART):
        part = replace(benchmark, items=benchmark.items[start : start + PART])
        yield (
            Part(f"{name} {start}", [identity, condition.state, part.key], len(part.items), [start, len(part.items)]),
            part,
        )


@dataclass
class EvaluationMaker:
    """Makes parts on a worker, whose subject stays in one trait's condition until another trait's part comes."""

    lab: Lab
    conditions: Mapping[str, Condition]
    askings: Mapping[str, Mapping[str, TraitBenchmark]]

    def __post_init__(self) -> None:
        self._stack = ExitStack()
        self._subject: Subject | None = None
        self._trait: str | None = None

    @property
    def name(self) -> str:
        """For messages."""
        return f"evaluating {self.lab.identity['model']}"

    def make(self, given: Any) -> list[dict[str, Any]]:
        """The rows of `size` items of (trait, asking) from `start` on."""
        trait, asking, start, size = given
        condition = self.conditions[trait]
        if self._subject is None or trait != self._trait:
            self._stack.close()
            self._subject = self._stack.enter_context(self.lab.same_here().subject().under(condition))
            self._trait = trait
        benchmark = self.askings[trait][asking]
        part = replace(benchmark, items=benchmark.items[start : start + size])
        return part.measure(self._subject, condition.name).rows

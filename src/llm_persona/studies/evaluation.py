"""TRAIT over item sets and conditions: in parts that survive a kill, with reliability where it is asked for."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from llm_persona.analysis.reliability import reliability
from llm_persona.analysis.trait_scoring import summarise
from llm_persona.domain.condition import Condition
from llm_persona.domain.errors import UserError
from llm_persona.domain.formats import format_of
from llm_persona.domain.items import Items
from llm_persona.domain.measurement import Measurement
from llm_persona.domain.store import digest
from llm_persona.domain.templates import BUILT_IN
from llm_persona.instruments.trait_benchmark import TraitBenchmark
from llm_persona.studies.stages import Stages
from llm_persona.subject.smollm2 import cache_folder

PART = 50
"""Items between two savings: half a minute of a small model on a CPU."""

Progress = Callable[[int], None]


@dataclass(frozen=True)
class EvaluationPlan:
    """What is asked of every set: `benchmark` (its items are ignored), and whether reliability is measured too."""

    benchmark: TraitBenchmark
    reliability: bool = False

    def askings(self, items: Items) -> dict[str, TraitBenchmark]:
        """The ways of asking, the one that is scored first."""
        first = replace(self.benchmark, items=items)
        name = "as asked" if self.benchmark.mode == "likelihood" else f"template {self.benchmark.template}"
        found = {name: first}
        if not self.reliability:
            return found
        if self.benchmark.mode != "likelihood":
            found |= {f"template {t}": replace(first, template=t) for t in BUILT_IN if t != self.benchmark.template}
        if all(item.paraphrased_situation and item.paraphrased_query for item in items):
            found["paraphrase"] = replace(first, paraphrase=True)
        if len(found) < 2:
            raise UserError("--reliability: these items have no paraphrases, and likelihood mode has no templates")
        return found

    def count(self, sets: Mapping[str, Items]) -> int:
        """Items to ask in all, every way of asking counted."""
        return sum(len(self.askings(items)) * len(items) for items in sets.values())


def evaluate_sets(
    subject: Any,
    sets: Mapping[str, Items],
    conditions: Mapping[str, Condition],
    plan: EvaluationPlan,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure every set under its condition; the contract's JSON of `evaluate`, with `rows`.

    Parts that are finished are kept in the cache folder until all is done: the same call after a kill goes on there.
    """
    states = [condition.state for condition in conditions.values()]
    name = digest([subject.identity, plan, {trait: items.digest for trait, items in sets.items()}, states])
    folder = cache_folder() / "evaluations" / name[:24]
    stages = Stages(folder)
    traits = {}
    for trait, items in sets.items():
        with subject.under(conditions[trait]):
            found = {
                asking: _in_parts(subject, benchmark, conditions[trait], stages, f"{trait} {asking}", progress)
                for asking, benchmark in plan.askings(items).items()
            }
        first = next(iter(found.values()))
        traits[trait] = {**first.summary, "rows": first.rows}
        if plan.reliability:
            traits[trait]["reliability"] = reliability({asking: m.rows for asking, m in found.items()})
    shutil.rmtree(folder, ignore_errors=True)
    condition = next(iter(conditions.values()))
    return {
        "format": format_of("evaluation"),
        "model": subject.name,
        "mode": plan.benchmark.mode,
        "condition": condition.as_json(),
        "traits": traits,
    }


def _in_parts(
    subject: Any, benchmark: TraitBenchmark, condition: Condition, stages: Stages, name: str, progress: Progress | None
) -> Measurement:
    rows: list[dict[str, Any]] = []
    for start in range(0, len(benchmark.items), PART):
        part = replace(benchmark, items=benchmark.items[start : start + PART])
        key = [subject.identity, condition.state, part.key]

        def make(part: TraitBenchmark = part) -> Any:
            return part.measure(subject, condition.name).rows

        rows += stages.value(f"{name} {start}", key, make)
        if progress is not None:
            progress(len(part.items))
    return Measurement(f"trait-{benchmark.mode}", condition.name, rows, summarise(rows))

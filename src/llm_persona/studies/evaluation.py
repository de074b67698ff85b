"""TRAIT over item sets and conditions: in parts that survive a kill, with reliability where it is asked for."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
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
from llm_persona.studies.evaluation_parts import EvaluationMaker, parts_of
from llm_persona.studies.lab import Lab
from llm_persona.studies.parts import Part, Progress, make_parts, telling, with_next
from llm_persona.studies.pieces import Executor
from llm_persona.studies.same_machines import check_workers
from llm_persona.studies.stages import Stages
from llm_persona.subject.load import Subject
from llm_persona.subject.rendered_once import of_tokenizer
from llm_persona.subject.smollm2 import cache_folder
from llm_persona.subject.standing import as_it_stands


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
    kept: Progress | None = None,
) -> dict[str, Any]:
    """Measure every set under its condition; the contract's JSON of `evaluate`, with `rows`.

    Parts that are finished are kept in the cache folder until all is done: the same call after a kill goes on there.
    `progress` is told of the items just done; of those that an earlier call left, `kept` instead, if it is given.
    """
    return _evaluated(as_it_stands(subject), lambda: subject, sets, conditions, plan, (progress, kept))


def evaluate_sets_by(
    executor: Executor,
    model: str,
    sets: Mapping[str, Items],
    conditions: Mapping[str, Condition],
    plan: EvaluationPlan,
    dtype: str = "auto",
    device: str = "auto",
    progress: Progress | None = None,
    kept: Progress | None = None,
) -> dict[str, Any]:
    """`evaluate_sets` with the parts made by an executor's workers, which load the model; the numbers are the same.

    The model is not loaded here. Adapters must lie where every worker sees them.

    Raises:
        UserError: as `evaluate_sets`; a worker runs the model otherwise than this machine, or was lost too often.
    """
    check_workers(executor, [(model, dtype, device)])
    lab = Lab(model, dtype, device, Stages())
    askings = {trait: plan.askings(items) for trait, items in sets.items()}
    parts = (
        replace(part, given=[trait, asking, *part.given])
        for trait, asked in askings.items()
        for asking, benchmark in asked.items()
        for part, _ in parts_of(lab.identity, f"{trait} {asking}", benchmark, conditions[trait])
    )
    stages = Stages(_folder(lab.identity, sets, conditions, plan))
    make_parts(stages, parts, EvaluationMaker(lab, conditions, askings), executor, progress, kept)
    return _evaluated(lab.identity, lab.subject, sets, conditions, plan, (None, None))


def _folder(
    identity: Any, sets: Mapping[str, Items], conditions: Mapping[str, Condition], plan: EvaluationPlan
) -> Path:
    states = [condition.state for condition in conditions.values()]
    name = digest([identity, plan, {trait: items.digest for trait, items in sets.items()}, states])
    return cache_folder() / "evaluations" / name[:24]


def _evaluated(
    identity: Any,
    subject: Callable[[], Any],
    sets: Mapping[str, Items],
    conditions: Mapping[str, Condition],
    plan: EvaluationPlan,
    told: tuple[Progress | None, Progress | None],
) -> dict[str, Any]:
    """The result; `subject` is called only where a part is missing."""
    folder = _folder(identity, sets, conditions, plan)
    stages = Stages(folder)
    traits = {}
    for trait, items in sets.items():
        with _Conditioned(subject, conditions[trait]) as state:
            found = {
                asking: _in_parts(identity, state, benchmark, stages, f"{trait} {asking}", told)
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
        "model": identity["model"],
        "mode": plan.benchmark.mode,
        "condition": condition.as_json(),
        "traits": traits,
    }


class _Conditioned:
    """The subject under a condition that is entered when a part has to be measured, and left at the end."""

    def __init__(self, subject: Callable[[], Any], condition: Condition) -> None:
        self._load, self.condition = subject, condition
        self._stack = ExitStack()
        self._subject: Any = None

    def __enter__(self) -> _Conditioned:
        return self

    def __exit__(self, *error: Any) -> None:
        if isinstance(self._subject, Subject):
            of_tokenizer(self._subject.tokenizer).stop()  # what was to come is rendered under this condition
        self._stack.__exit__(*error)

    def subject(self) -> Any:
        """The subject in that state."""
        if self._subject is None:
            self._subject = self._stack.enter_context(self._load().under(self.condition))
        return self._subject


def _in_parts(
    identity: Any,
    state: _Conditioned,
    benchmark: TraitBenchmark,
    stages: Stages,
    name: str,
    told: tuple[Progress | None, Progress | None],
) -> Measurement:
    rows: list[dict[str, Any]] = []
    for (part, asked), following in with_next(parts_of(identity, name, benchmark, state.condition)):

        def make(asked: TraitBenchmark = asked, following: tuple[Part, TraitBenchmark] | None = following) -> Any:
            subject = state.subject()
            if following is not None:
                following[1].render_beside(subject)
            return asked.measure(subject, state.condition.name).rows

        with telling(stages, part.size, *told):
            rows += stages.value(part.stage, part.key, make)
    return Measurement(f"trait-{benchmark.mode}", state.condition.name, rows, summarise(rows))

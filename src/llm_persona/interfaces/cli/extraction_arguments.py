"""What `vectors extract` asks for, settled before a model is loaded or a worker started."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llm_persona.interfaces.cli.chosen_items import read_item_set

if TYPE_CHECKING:
    from llm_persona.analysis.vectors import PersonaVector
    from llm_persona.domain.traits import Trait
    from llm_persona.studies.sources import ItemSets, SourcePlan


@dataclass(frozen=True)
class Settled:
    """The trait, its items, how the contrast is made (no judge is opened yet), and other traits' vectors by name."""

    trait: Trait
    sets: ItemSets
    plan: SourcePlan
    others: dict[str, PersonaVector]


def settled(
    trait: str, items: str, source: Any, position: Any, over: Any, contrast: Any, samples: int,
    temperature: float | None, max_new_tokens: int, keep: Any, high_adapter: str | None, low_adapter: str | None,
    against: tuple[str, ...], limit: int | None, seed: int, judge: str | None, judge_text: bool,
    base_url: str | None, **_: Any,
) -> Settled:  # fmt: skip
    """Read everything that the command's arguments name but the model and the judge, whose key may be a worker's alone.

    Raises:
        UserError: a trait, file or folder that is not there or no such thing, or options that do not go together.
    """
    from llm_persona.analysis.vectors import PersonaVector
    from llm_persona.domain.errors import UserError
    from llm_persona.domain.traits import load_trait
    from llm_persona.studies.sources import SourcePlan, item_sets
    from llm_persona.subject.adapt import check_adapter
    from llm_persona.subject.elicit import ElicitationPlan

    loaded = load_trait(trait)
    known = trait if items == "bank" else loaded.name
    sets = item_sets(read_item_set(known, items, "all", None), loaded, (limit, limit, limit), limit, limit)
    adapters = (high_adapter, low_adapter)
    if source == "tuned":
        for adapter in adapters:
            if not adapter:
                raise UserError("--source tuned needs --high-adapter DIR and --low-adapter DIR")
            check_adapter(adapter)
    if judge is not None and source == "labelled":
        raise UserError("--judge: filters answers, and a labelled contrast has none; add --source prompted")
    if judge is None and (base_url is not None or judge_text):
        raise UserError("--base-url and --text speak of a judge; add --judge")
    heat = temperature if temperature is not None else 1.0 if samples > 1 else 0.0
    answers = ElicitationPlan(contrast, samples, heat, max_new_tokens, seed)
    plan = SourcePlan(source, position, over, answers, keep, adapters, limit)
    plan.check()
    vectors = [PersonaVector.load(path) for path in against]
    others = {str(v.meta.get("trait", path)): v for v, path in zip(vectors, against, strict=True)}
    return Settled(loaded, sets, plan, others)

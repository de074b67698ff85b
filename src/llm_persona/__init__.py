"""llm-persona: measure, find, steer and audit the personality of language models.

The public names are loaded when first used, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llm_persona.analysis.activations import Activations
    from llm_persona.analysis.quality import Quality, assess
    from llm_persona.analysis.vectors import PersonaVector, fit
    from llm_persona.domain.condition import BASE, Condition, Steer, instructed, steered, tuned
    from llm_persona.domain.config import StudyConfig
    from llm_persona.domain.errors import IncompatibleVector, Overlap, UserError
    from llm_persona.domain.item_sources import load_items
    from llm_persona.domain.items import Item, Items
    from llm_persona.domain.measurement import Measurement
    from llm_persona.domain.responses import Response, labelled
    from llm_persona.domain.traits import Trait, list_traits, load_trait
    from llm_persona.instruments.trait_benchmark import evaluate
    from llm_persona.studies.recommend import recommend
    from llm_persona.studies.study import run_study
    from llm_persona.subject.adapt import adapted
    from llm_persona.subject.elicit import prompted
    from llm_persona.subject.generate import Answer, generate
    from llm_persona.subject.load import Subject, load_subject
    from llm_persona.subject.record import record, record_positions
    from llm_persona.subject.steer import steering
    from llm_persona.subject.trace import Trace, trace, trace_live
    from llm_persona.training.finetune import finetune

_HOMES = {
    "Activations": "analysis.activations",
    "Quality": "analysis.quality",
    "assess": "analysis.quality",
    "PersonaVector": "analysis.vectors",
    "fit": "analysis.vectors",
    "BASE": "domain.condition",
    "Condition": "domain.condition",
    "Steer": "domain.condition",
    "instructed": "domain.condition",
    "steered": "domain.condition",
    "tuned": "domain.condition",
    "StudyConfig": "domain.config",
    "IncompatibleVector": "domain.errors",
    "Overlap": "domain.errors",
    "UserError": "domain.errors",
    "Item": "domain.items",
    "Items": "domain.items",
    "load_items": "domain.item_sources",
    "Measurement": "domain.measurement",
    "Response": "domain.responses",
    "labelled": "domain.responses",
    "Trait": "domain.traits",
    "list_traits": "domain.traits",
    "load_trait": "domain.traits",
    "evaluate": "instruments.trait_benchmark",
    "recommend": "studies.recommend",
    "run_study": "studies.study",
    "adapted": "subject.adapt",
    "prompted": "subject.elicit",
    "Answer": "subject.generate",
    "generate": "subject.generate",
    "Subject": "subject.load",
    "load_subject": "subject.load",
    "record": "subject.record",
    "record_positions": "subject.record",
    "steering": "subject.steer",
    "Trace": "subject.trace",
    "trace": "subject.trace",
    "trace_live": "subject.trace",
    "finetune": "training.finetune",
}

__all__ = [
    "BASE",
    "Activations",
    "Answer",
    "Condition",
    "IncompatibleVector",
    "Item",
    "Items",
    "Measurement",
    "Overlap",
    "PersonaVector",
    "Quality",
    "Response",
    "Steer",
    "StudyConfig",
    "Subject",
    "Trace",
    "Trait",
    "UserError",
    "adapted",
    "assess",
    "evaluate",
    "finetune",
    "fit",
    "generate",
    "instructed",
    "labelled",
    "list_traits",
    "load_items",
    "load_subject",
    "load_trait",
    "prompted",
    "recommend",
    "record",
    "record_positions",
    "run_study",
    "steered",
    "steering",
    "trace",
    "trace_live",
    "tuned",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"llm_persona.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'llm_persona' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])

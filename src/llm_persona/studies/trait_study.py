"""What is known of one trait while its study runs; the phases (`studies.trait_*`) measure, and add to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from llm_persona.analysis.vectors import PersonaVector
from llm_persona.domain.condition import Condition
from llm_persona.domain.config import StudyConfig
from llm_persona.domain.items import Items
from llm_persona.domain.measurement import Measurement
from llm_persona.domain.responses import Response
from llm_persona.domain.traits import POLES, Trait, load_trait
from llm_persona.instruments.judging.protocol import Verdict
from llm_persona.instruments.perplexity import Perplexity, neutral_texts
from llm_persona.instruments.samples import Samples
from llm_persona.instruments.trait_benchmark import TraitBenchmark
from llm_persona.studies.extraction import Extraction
from llm_persona.studies.lab import Instrument, Lab
from llm_persona.studies.sources import item_sets
from llm_persona.studies.trait_rows import shift, summary


@dataclass
class TraitStudy:
    """The state of one trait's study; each phase adds to `results`."""

    lab: Lab
    config: StudyConfig
    trait: Trait
    results: dict[str, Any] = field(default_factory=dict)

    moved_by: dict[str, dict[float, list[float]]] = field(default_factory=dict)
    """How each other trait's vector moved this trait's preference: by name and dose, a number an item."""

    verdicts: list[dict[str, Verdict]] = field(default_factory=list)
    """Of each of `trait_answers.answers`, by what was graded; none without a judge."""

    def __post_init__(self) -> None:
        bank = Items(self.trait.bank, f"bank:{self.trait.name}")
        limits = (self.config.fit_items, self.config.select_items, self.config.test_items)
        self.sets = item_sets(bank, self.trait, limits, self.config.second_items, self.config.transfer_items)
        self.test, self.fit_items = self.sets.test, self.sets.fit
        self.questions = self.trait.questions_of("test")[: self.config.questions]
        self.measured: dict[str, dict[str, Measurement]] = {}
        self.results["tuned"] = {}
        names = ("fit", "select", "test", "second", "transfer")
        self.results["items"] = {"source": bank.source, **{name: len(getattr(self.sets, name)) for name in names}}
        # There after the phase `trait_vector.vector`:
        self.extraction: Extraction
        self.persona: PersonaVector
        self.layer: int
        self.reader: PersonaVector  # reads answers; from other items than the vector that steers
        self.gap: float  # between the poles' means along the reader
        self.midpoint: float
        # There after the phase `trait_reading.written`, by condition:
        self.readings: dict[str, dict[str, float]]  # by question
        self.read_back: dict[str, Measurement]
        self.projected: dict[str, list[float | None]]  # by answer that is not empty

    @property
    def name(self) -> str:
        """The trait's name."""
        return self.trait.name

    def instruments(self, kind: str) -> dict[str, Instrument]:
        """What is measured under a kind of condition."""
        found: dict[str, Instrument] = {"likelihood": TraitBenchmark(self.test)}
        if kind in self.config.choice_conditions:
            found |= {
                mode: TraitBenchmark(self.test[: self.config.letter_items], mode) for mode in self.config.letter_modes
            }
        found["neutral"] = Perplexity(neutral_texts()[: self.config.neutral_passages])
        if kind != "steered":  # those are generated together
            found["samples"] = self.samples
        return found

    @property
    def samples(self) -> Samples:
        """The open questions that every condition answers."""
        config = self.config
        return Samples(self.questions, config.max_new_tokens, config.samples, config.temperature, config.seed)

    def measure(self, kind: str, condition: Condition) -> dict[str, Measurement]:
        """Apply the instruments of `kind` under `condition` and keep the measurements."""
        found = self.lab.measure_all(f"{self.name} {condition.name}", condition, self.instruments(kind))
        self.measured[condition.name] = found
        return found

    def summary(self, name: str) -> dict[str, Any]:
        """What results say of the measurements under a condition."""
        return summary(self.measured[name])

    def shift(self, name: str) -> dict[str, Any]:
        """How far a condition moved the trait from the base, and at what cost."""
        return shift(self.measured[name], self.measured["base"])

    def places(self) -> list[tuple[dict[str, Any], str]]:
        """Where in the results each condition's row is."""
        places = [(self.results["baseline"], "base")]
        places += [(self.results["instructed"][p], f"instructed-{p}") for p in POLES]
        places += [(row, f"combined-{p}") for p, row in self.results.get("combined", {}).items()]
        places += [(point, f"steered {point['dose']:+g}") for point in self.results["steering"]]
        places += [(row, f"tuned-{p}") for p, row in self.results["tuned"].items()]
        return places

    def responses(self, name: str) -> list[Response]:
        """The non-empty answers written under a condition, to be read without any instruction."""
        rows = self.measured[name]["samples"].rows
        return [Response(r["question"], r["text"], "neutral", r["id"]) for r in rows if r["text"]]


def open_trait(lab: Lab, config: StudyConfig, name: str) -> TraitStudy:
    """The study of one installed trait or trait file."""
    return TraitStudy(lab, config, load_trait(name))

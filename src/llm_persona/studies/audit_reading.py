"""What an audit measures of one trait in one state of a model: the same for the base and for every tuned model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from llm_persona.analysis.activations import Activations
from llm_persona.analysis.paired import means_by_group
from llm_persona.analysis.quality import assess
from llm_persona.analysis.vector_change import PoleSums, cosine_interval, pole_sums
from llm_persona.analysis.vectors import PersonaVector, cosines, fit, projections
from llm_persona.domain.errors import TooLong
from llm_persona.domain.items import Items
from llm_persona.domain.responses import Response, labelled
from llm_persona.domain.traits import Question, Trait
from llm_persona.instruments.trait_benchmark import TraitBenchmark
from llm_persona.studies.state import State
from llm_persona.subject.load import Subject
from llm_persona.subject.record import record


@dataclass
class TraitWork:
    """One trait's material and, by model, what was found."""

    trait: Trait
    test: Items
    fit_rows: list[Response]
    vector: PersonaVector
    layer: int
    layer_from: str
    questions: list[Question]
    before: PersonaVector
    """Extracted from the base on the very rows on which it is extracted again: what the later one is compared with."""
    fit_left_out: list[dict[str, Any]] = field(default_factory=list)
    """Fit rows that are longer than the base's context."""
    before_sums: PoleSums | None = None
    """What `before` was fitted on at the layer; None where nothing is extracted again."""
    found: dict[str, dict[str, Any]] = field(default_factory=dict)


class _Recorded:
    """The test and fit rows as one model reads them, read once however many figures need them."""

    def __init__(self, name: str, model: str, w: TraitWork) -> None:
        self._where, self._w = f"trait {name}, {model}", w
        self._kept: dict[str, Activations] = {}

    def test(self, subject: Subject) -> Activations:
        """The held-out items' responses."""
        self._w.vector.check(subject.n_layers, subject.hidden_size)
        return self._read("test", labelled(self._w.test), subject)

    def fit(self, subject: Subject) -> Activations:
        """The rows that the vector is extracted from again."""
        return self._read("fit", self._w.fit_rows, subject)

    def _read(self, what: str, rows: Sequence[Response], subject: Subject) -> Activations:
        if what not in self._kept:
            try:
                self._kept[what] = record(subject, rows)
            except TooLong as error:
                raise TooLong(f"{self._where}: {error}") from error
        return self._kept[what]


def measure_trait(state: State, model: str, name: str, w: TraitWork, reextract: bool) -> None:
    """Preference and score, and the fixed texts as read here, into `w.found[model]`."""
    benchmark = state.measure(f"{name} likelihood", TraitBenchmark(w.test))
    test = labelled(w.test)
    recorded = _Recorded(name, model, w)

    def again(subject: Subject) -> PersonaVector:
        return w.before if model == "base" else fit(recorded.fit(subject))

    def read(subject: Subject) -> Any:
        acts = recorded.test(subject)
        kept = assess(acts, w.vector, permutations=1).layers[w.layer]
        values: dict[str, Any] = {
            "mean_projection": (acts.values.astype(np.float64).mean(axis=0) * _units(w.vector)).sum(axis=1).tolist(),
            "by_row": _by_row(acts, w.vector, w.layer, len(test)),
            "left_out": [entry.as_json() for entry in acts.left_out],
            "auc_base_vector": kept.auc,
            "separation_base_vector": kept.separation,
        }
        if reextract:
            vector = again(subject)
            own = assess(acts, vector, permutations=1).layers[w.layer]
            values |= {
                "cosines": cosines(w.before, vector).tolist(),
                "norm_ratio": float(vector.norms[w.layer] / w.before.norms[w.layer]),
                "auc": own.auc,
                "auc_ci": list(own.auc_ci),
                "separation": own.separation,
                "separation_ci": list(own.separation_ci),
            }
        return values

    def read_by_question(subject: Subject) -> Any:
        acts = recorded.test(subject)
        along, groups = projections(acts.values, w.vector), [str(group) for group in acts.groups]
        by_layer = [means_by_group(groups, column.tolist()) for column in along.T]
        values: dict[str, Any] = {"profile": {g: [means[g] for means in by_layer] for g in by_layer[0]}}
        if reextract:
            values["own_by_row"] = _by_row(acts, again(subject), w.layer, len(test))
            if model != "base" and w.before_sums is not None:
                values["cosine_ci"] = cosine_interval(w.before_sums, pole_sums(recorded.fit(subject), w.layer))
        return values

    key = ["read", test, w.vector.digest, w.layer, [w.fit_rows, w.before.digest] if reextract else None]
    whole, parts = f"{name} reads fixed texts", f"{name} reads fixed texts by question"
    by_question: dict[str, Any] = {}
    if state.has(whole, key) and not state.has(parts, key):
        state.lab.stages.reporter.spare(1)  # of an earlier version: not read again for the sake of its intervals
    else:
        by_question = state.value(parts, key, read_by_question)
    w.found[model] = {
        "rows": benchmark.rows,
        "summary": benchmark.summary,
        "benchmark": benchmark,
        "fixed": state.value(whole, key, read),
        "by_question": by_question,
        "groups": [r.group for r in test],
        "high": [r.pole == "high" for r in test],
    }


def _by_row(acts: Activations, vector: PersonaVector, layer: int, rows: int) -> list[float | None]:
    """Projection of each row that was given at one layer, None for those left out."""
    values = acts.values[:, layer].astype(np.float64) @ vector.unit(layer)
    found: list[float | None] = [None] * rows
    for number, value in zip(acts.kept(range(rows)), values.tolist(), strict=True):
        found[number] = value
    return found


def _units(vector: PersonaVector) -> np.ndarray:
    return np.stack([vector.unit(layer) for layer in range(vector.n_layers)])

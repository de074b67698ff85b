"""From items to a vector with its evidence: record, fit, judge, control, recommend."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from llm_persona.analysis.activations import Activations
from llm_persona.analysis.controls import length_auc, lexical_auc, random_auc, sentiment_auc, shuffled_auc
from llm_persona.analysis.quality import Quality, assess
from llm_persona.analysis.vectors import PersonaVector, fit
from llm_persona.domain.condition import Condition
from llm_persona.domain.errors import UserError
from llm_persona.domain.items import SPLITS, Items, Split
from llm_persona.domain.provenance import git_revision, versions
from llm_persona.domain.responses import Response, labelled
from llm_persona.domain.traits import POLES, Trait
from llm_persona.studies.recommend import Recommendation, choose, run_sweep
from llm_persona.studies.stages import Stages
from llm_persona.subject.elicit import prompted
from llm_persona.subject.generate import generate
from llm_persona.subject.load import Subject
from llm_persona.subject.record import Position, record


@dataclass(frozen=True)
class Rows:
    """The contrast's rows by split, with the ids of the items or questions they came from."""

    fit: Sequence[Response]
    select: Sequence[Response]
    test: Sequence[Response]

    @property
    def made_from(self) -> list[str]:
        """Groups that the vector was fitted on or its layer chosen with."""
        return sorted({r.group for r in [*self.fit, *self.select]})


@dataclass(frozen=True)
class Extraction:
    """A vector and everything that was measured about it."""

    vector: PersonaVector
    quality: Quality
    recommended: Recommendation
    controls: dict[str, Any]
    acts: dict[str, Activations]

    def as_json(self) -> dict[str, Any]:
        """The contract's JSON of `vectors extract`."""
        meta = self.vector.meta
        return {
            "trait": meta.get("trait"),
            "model": meta.get("model"),
            "source": meta.get("source"),
            "position": meta.get("position"),
            "n_high": self.quality.n_high,
            "n_low": self.quality.n_low,
            "n_groups": self.quality.n_groups,
            "n_fit_groups": len(set(self.acts["fit"].groups)),
            "layers": self.quality.as_json(),
            "recommended": self.recommended.as_json(),
            "controls": self.controls,
        }


def labelled_rows(items: Items) -> Rows:
    """The labelled contrast of an item set, by its fixed splits."""
    return Rows(labelled(items.split("fit")), labelled(items.split("select")), labelled(items.split("test")))


def extract(
    subject: Callable[[], Subject],
    identity: dict[str, str],
    trait: str,
    rows: Rows,
    sweep_items: Items,
    source: str = "labelled",
    position: Position = "response_mean",
    layers: int = 5,
    dose: float = 0.2,
    stages: Stages | None = None,
    seed: int = 0,
) -> Extraction:
    """Fit on fit, choose on select, claim on test.

    `subject` is called only if something is not yet known to `stages`. The sweep steers on `sweep_items`
    (the select split of the trait's items), whatever the source of the contrast is.

    Raises:
        UserError: a split without rows of both poles.
    """
    stages = stages or Stages()
    parts = {"fit": rows.fit, "select": rows.select, "test": rows.test}
    for name, part in parts.items():
        if {r.pole for r in part} != {"high", "low"}:
            raise UserError(f"{trait}: split {name!r} has no rows of both poles; add items to it or use the bank")
    key = {"subject": identity, "position": position, "source": source}

    def recorded(part: Sequence[Response]) -> Activations:
        return record(subject(), part, position)

    acts = {
        name: stages.activations(f"{trait} record {name}", [key, part], partial(recorded, part))
        for name, part in parts.items()
    }
    vector = fit(
        acts["fit"],
        {
            "trait": trait,
            **identity,
            "source": source,
            "position": position,
            "items": sorted({*rows.made_from, *sweep_items.ids}),
            "seed": seed,
            "versions": versions(),
            "git": git_revision(),
        },
    )
    chosen_on = assess(acts["select"], vector, seed=seed)
    sweep_key = [key, rows.fit, sweep_items.digest]
    sweep = run_sweep(subject, vector, sweep_items, layers, dose, chosen_on.best, _named(stages, trait), sweep_key)
    recommended = choose(vector, chosen_on, sweep, dose)
    kept = {k: v for k, v in recommended.as_json().items() if k != "sweep"}
    vector = replace(vector, meta={**vector.meta, "recommended": kept})
    quality = assess(acts["test"], vector, seed=seed)
    layer = recommended.balanced
    texts = {name: [r.text for r in part] for name, part in parts.items()}
    controls = {
        "layer": layer,
        "shuffled_auc": shuffled_auc(acts["fit"], acts["test"], layer, seed=seed),
        "random_auc": random_auc(acts["test"], layer, seed=seed),
        "lexical_auc": lexical_auc(texts["fit"], acts["fit"].high, texts["test"], acts["test"].high),
        "length_auc": length_auc(texts["test"], acts["test"].high),
        "sentiment_auc": sentiment_auc(texts["test"], acts["test"].high),
    }
    return Extraction(vector, quality, recommended, controls, acts)


def _named(stages: Stages, trait: str) -> Stages:
    """The same store under names that begin with the trait."""
    inner = stages

    class Named(Stages):
        def value(self, name: str, key: Any, make: Callable[[], Any]) -> Any:
            return inner.value(f"{trait} {name}", key, make)

    return Named(inner.folder, inner.reporter)


def source_rows(
    subject: Subject,
    trait: Trait,
    items: Items,
    source: str,
    adapters: tuple[str | None, str | None] = (None, None),
    limit: int | None = None,
    position: Position = "response_mean",
) -> Rows:
    """The contrast's rows for a source: labelled responses, prompted answers, or tuned models' own answers.

    Prompted and tuned answers are made to the trait's open questions and read under no instruction.
    """
    if position != "response_mean" and source != "prompted":
        raise UserError(
            f"--position {position}: {source} rows of both poles share their prompts, so nothing could differ there; "
            "use response_mean, or --source prompted"
        )
    if source == "labelled":
        return labelled_rows(items)
    if source == "prompted":
        # Prompt positions only differ while the instruction is in the prompt; such vectors see the instruction itself.
        read: Literal["reader", "author"] = "reader" if position == "response_mean" else "author"
        return Rows(*(prompted(subject, trait, split, read=read, limit=limit) for split in SPLITS))
    return Rows(*(_tuned_rows(subject, trait, split, adapters, limit) for split in SPLITS))


def _tuned_rows(
    subject: Subject, trait: Trait, split: Split, adapters: tuple[str | None, str | None], limit: int | None
) -> list[Response]:
    questions = trait.questions_of(split)[:limit]
    rows = []
    for pole, adapter in zip(POLES, adapters, strict=True):
        with subject.under(Condition(adapter=adapter)):
            answers = generate(subject, [q.text for q in questions], max_new_tokens=64)
        rows += [Response(q.text, a.text, pole, q.id) for q, a in zip(questions, answers, strict=True) if a.text]
    return rows

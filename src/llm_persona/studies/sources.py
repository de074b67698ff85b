"""Where a contrast's rows come from: an item's labelled responses, prompted answers, or tuned models' own answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from llm_persona.analysis.quality import assess
from llm_persona.analysis.vectors import fit, projections, projections_at
from llm_persona.domain.adapters import FILES
from llm_persona.domain.condition import Condition
from llm_persona.domain.errors import UserError
from llm_persona.domain.item_sources import has_second_author, load_items
from llm_persona.domain.items import SPLITS, Items, Split
from llm_persona.domain.responses import Response, labelled
from llm_persona.domain.store import file_digest
from llm_persona.domain.traits import POLES, Trait
from llm_persona.studies.judge_filter import JudgeFilter
from llm_persona.subject.elicit import ElicitationPlan, Elicited, elicit, prompts_of
from llm_persona.subject.generate import generate
from llm_persona.subject.load import Subject
from llm_persona.subject.packing import BEYOND
from llm_persona.subject.record import Position, record

Filter = Literal["none", "projection"]


@dataclass(frozen=True)
class Rows:
    """The contrast's rows by split; `transfer` is read as a control and decides nothing."""

    fit: Sequence[Response]
    select: Sequence[Response]
    test: Sequence[Response]
    transfer: Sequence[Response] = ()
    elicited: dict[str, Any] | None = None
    """Counts of answers made, dropped and kept, by split (prompted and tuned sources)."""
    judged: dict[str, Any] | None = None
    """By whom and with which thresholds answers were kept, where a judge filtered them."""
    adapters: dict[str, Any] | None = None
    """By pole, the `path` and file digests (SHA-256) of the adapter that answered (tuned source)."""

    @property
    def made_from(self) -> list[str]:
        """Groups that the vector was fitted on or its layer chosen with."""
        return sorted({r.group for r in [*self.fit, *self.select]})


@dataclass(frozen=True)
class ItemSets:
    """The items of one trait by purpose: the bank's splits, and another author's items where there are some."""

    fit: Items
    select: Items
    test: Items
    transfer: Items
    source: str
    second: Items = field(default_factory=lambda: Items([], "none"))
    """Items of another author that choose the layer beside the select split."""

    @property
    def choosing(self) -> Items:
        """What a layer is chosen on."""
        return Items([*self.select, *self.second], self.source)


def item_sets(
    items: Items,
    trait: Trait,
    limits: tuple[int | None, int | None, int | None] = (None, None, None),
    second: int | None = None,
    transfer: int | None = None,
) -> ItemSets:
    """The sets of a trait's bank or of other items, with `limits` on fit, select and test, and on another author's.

    A layer that is chosen on one author's items alone may read that author's style: where a bundled trait has items
    of a second author, fifteen of them choose too, and the other twenty-five are a control of transfer.
    """
    fit_items, select, test = (items.split(s)[:n] for s, n in zip(SPLITS, limits, strict=True))
    other = load_items(trait.name, author="second") if has_second_author(trait) else Items([], "none")
    return ItemSets(fit_items, select, test, other.split("test")[:second], items.source, other.split("select")[:second])


def labelled_rows(sets: ItemSets) -> Rows:
    """The labelled contrast of item sets."""
    return Rows(labelled(sets.fit), labelled(sets.choosing), labelled(sets.test), labelled(sets.transfer))


@dataclass(frozen=True)
class SourcePlan:
    """How a contrast is made. `over`: what the subject answers; `keep`: which answers count."""

    source: Literal["labelled", "prompted", "tuned"] = "labelled"
    position: Position = "response_mean"
    over: Literal["questions", "situations"] = "questions"
    answers: ElicitationPlan = field(default_factory=ElicitationPlan)
    keep: Filter = "none"
    adapters: tuple[str | None, str | None] = (None, None)
    limit: int | None = None
    judged: JudgeFilter | None = None
    """A judge that keeps the answers which express their pole and hold together."""

    def check(self) -> None:
        """Refuse a contrast that cannot be made.

        Raises:
            UserError: a position at which the poles cannot differ, or a judge of answers that there are none of.
        """
        if self.position != "response_mean" and self.source != "prompted":
            raise UserError(
                f"--position {self.position}: {self.source} rows of both poles share their prompts, so nothing could "
                "differ there; use response_mean, or --source prompted"
            )
        if self.judged is not None and self.source == "labelled":
            raise UserError("--judge: filters answers, and a labelled contrast has none; add --source prompted")


def source_rows(
    subject: Subject, trait: Trait, sets: ItemSets, plan: SourcePlan, progress: Callable[[int], None] | None = None
) -> Rows:
    """The contrast's rows for a plan.

    Prompted and tuned answers are read under no instruction, unless a prompt position is asked for: prompts only
    differ while the instruction is in them, so such vectors see the instruction itself.

    Raises:
        UserError: a position that cannot differ, or a filter that leaves a split without a pole.
    """
    plan.check()
    if plan.source == "labelled":
        return labelled_rows(sets)
    if plan.source == "tuned":
        found = {split: _tuned_answers(subject, trait, split, sets, plan) for split in SPLITS}
    else:
        read: Literal["reader", "author"] = "reader" if plan.position == "response_mean" else "author"
        found = {
            split: elicit(subject, trait, _prompts(trait, split, sets, plan), split, plan.answers, read, progress)
            for split in SPLITS
        }
    if plan.keep == "projection":
        found = _expressed(subject, sets, found)
    if plan.judged is not None:
        found = {split: plan.judged.keep(part, trait, split, progress) for split, part in found.items()}
    for split, part in found.items():
        missing = [pole for pole in POLES if not any(r.pole == pole for r in part.rows)]
        if missing:
            raise UserError(
                f"{trait.name}: of split {split!r} no {missing[0]} answer is left ({part.counts()}); ask for more "
                "--samples, or use --filter none"
            )
    said = plan.judged.as_json(trait) if plan.judged is not None else None
    counts: dict[str, Any] = {split: part.counts() for split, part in found.items()}
    by = _adapter_digests(plan) if plan.source == "tuned" else None
    return Rows(found["fit"].rows, found["select"].rows, found["test"].rows, labelled(sets.transfer), counts, said, by)


def _adapter_digests(plan: SourcePlan) -> dict[str, Any]:
    """By pole, which adapter answered: a path alone does not say what lay there."""
    return {
        pole: {"path": adapter, **{name: file_digest(Path(adapter) / name) for name in FILES}}
        for pole, adapter in zip(POLES, plan.adapters, strict=True)
        if adapter is not None
    }


def _prompts(trait: Trait, split: Split, sets: ItemSets, plan: SourcePlan) -> list[tuple[str, str]]:
    items = None if plan.over == "questions" else getattr(sets, split)
    return prompts_of(trait, split, items)[: plan.limit]


def _tuned_answers(subject: Subject, trait: Trait, split: Split, sets: ItemSets, plan: SourcePlan) -> Elicited:
    prompts = [prompt for prompt in _prompts(trait, split, sets, plan) for _ in range(plan.answers.samples)]
    rows = []
    for pole, adapter in zip(POLES, plan.adapters, strict=True):
        with subject.under(Condition(adapter=adapter)):
            answers = generate(
                subject,
                [text for _, text in prompts],
                plan.answers.max_new_tokens,
                temperature=plan.answers.temperature,
                seed=plan.answers.seed,
            )
        rows += [
            Response(text, answer.text, pole, group, None, f"tuned {pole}")
            for (group, text), answer in zip(prompts, answers, strict=True)
        ]
    found = Elicited(rows, {pole: len(prompts) for pole in POLES})
    return found.keep([bool(r.text) for r in rows], "empty")


def _expressed(subject: Subject, sets: ItemSets, found: dict[Split, Elicited]) -> dict[Split, Elicited]:
    """Keep high answers that lie above, and low ones that lie below, the midpoint of the labelled poles.

    Read by the labelled vector of the fit items at its best layer on the select items. A vector made of what is kept
    leans toward the labelled one by that choice: its cosine with it is no independent evidence.
    """
    acts = record(subject, labelled(sets.fit))
    vector = fit(acts)
    layer = assess(record(subject, labelled(sets.select)), vector, permutations=1).best
    scores = projections(acts.values, vector)[:, layer]
    middle = (scores[acts.high].mean() + scores[~acts.high].mean()) / 2
    kept = {}
    for split, part in found.items():
        if not part.rows:
            kept[split] = part
            continue
        plain = [Response(r.prompt, r.text, r.pole, r.group) for r in part.rows]
        read = record(subject, plain, layers=[layer])
        values = iter(projections_at(read.values[:, 0], vector, layer))
        left = {entry.row for entry in read.left_out}
        part = part.keep([n not in left for n in range(len(part.rows))], BEYOND)
        mask = [bool(v > middle) == (r.pole == "high") for v, r in zip(values, part.rows, strict=True)]
        kept[split] = part.keep(mask, "not expressed")
    return kept

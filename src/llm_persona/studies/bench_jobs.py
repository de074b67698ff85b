"""What `bench` compares: what studies are made of, each against a plain way of the same job."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llm_persona.analysis.vectors import PersonaVector, fit
from llm_persona.domain.condition import Condition, Steer
from llm_persona.domain.errors import Shortfall, UserError, one_line
from llm_persona.domain.items import OPTIONS, Item, Items
from llm_persona.domain.responses import Response, labelled
from llm_persona.instruments.trait_benchmark import TraitBenchmark
from llm_persona.studies.timing import AT_MOST, Comparison
from llm_persona.subject.export import to_checkpoint
from llm_persona.subject.generate import generate
from llm_persona.subject.load import Subject, load_subject
from llm_persona.subject.logits import logits_at
from llm_persona.subject.memory import is_out_of_memory
from llm_persona.subject.one_at_a_time import letters, likelihoods, response_means
from llm_persona.subject.packing import Row, in_batches
from llm_persona.subject.placement import is_spread
from llm_persona.subject.reading import reading
from llm_persona.subject.record import record
from llm_persona.subject.reuse import reusing_below
from llm_persona.subject.stopping import stopping_after
from llm_persona.training.bare_steps import bare_steps
from llm_persona.training.data import TrainingData, from_items
from llm_persona.training.finetune import finetune
from llm_persona.training.recipe import PERSONA

DOSES = (-0.3, -0.2, -0.1, 0.1, 0.2, 0.3)
NEW_TOKENS = 32
SAME_TEXT = 1e-6
"""A dose that changes no answer, so that both sides of the comparison write the same tokens."""
AGREE = {torch.float32: 1e-3, torch.bfloat16: 0.25, torch.float16: 0.05}
"""How far the two ways may differ in mean log-probability (batches round differently)."""


@dataclass(frozen=True)
class Rotation:
    """A different stretch of the bank each round."""

    bank: Items
    count: int

    def __call__(self, number: int) -> list[Item]:
        """The items of a round."""
        return [self.bank[(number * self.count + k) % len(self.bank)] for k in range(self.count)]


def comparisons(subject: Subject, rotation: Rotation) -> list[Comparison]:
    """What is compared; each pair is first held to give the same numbers."""
    vector = fit(record(subject, labelled(rotation(0))))
    layer = subject.n_layers // 2
    _agree(subject, rotation(0))
    return [
        Comparison(
            "recording, against a bare forward", "share of the bare forward's speed, same batches",
            lambda n: record(subject, _alone(rotation(n))), lambda n: _bare(subject, _alone(rotation(n))),
            at_least=0.95,
        ),
        Comparison(
            "recording labelled items", "times as fast as one text at a time",
            lambda n: record(subject, labelled(rotation(n))),
            lambda n: response_means(subject, _rows(labelled(rotation(n)))), at_least=3.0,
        ),
        Comparison(
            "TRAIT, likelihood, against a bare forward", "time over that of the forward and its logits, same batches",
            lambda n: TraitBenchmark(rotation(n)).measure(subject),
            lambda n: _logits(subject, _option_rows(rotation(n))), at_most=AT_MOST,
        ),
        Comparison(
            "TRAIT, likelihood", "times as fast as one prompt at a time",
            lambda n: TraitBenchmark(rotation(n)).measure(subject),
            lambda n: likelihoods(subject, _option_rows(rotation(n))), at_least=3.0,
        ),
        Comparison(
            "TRAIT, choice", "times as fast as one prompt at a time",
            lambda n: TraitBenchmark(rotation(n), "choice").measure(subject),
            lambda n: letters(subject, TraitBenchmark(rotation(n), "choice").prompts()), at_least=1.5,
        ),
        Comparison(
            # (what a measurement itself takes over its forward, the comparison above says)
            f"{len(DOSES)} doses at layer {layer}", "time over that of the work that differs",
            lambda n: _sweep(subject, vector, layer, rotation(n)),
            lambda n: TraitBenchmark(rotation(n)).measure(subject), at_most=1.15,
            times=len(DOSES), once=lambda n: _below(subject, _option_rows(rotation(n)), layer),
        ),
        Comparison(
            "steered generation", "time over that of unsteered, same text",
            lambda n: _write(subject, rotation(n), Condition(steers=(Steer(vector, layer, dose=SAME_TEXT),))),
            lambda n: _write(subject, rotation(n), Condition()), at_most=1.03,
        ),
    ]  # fmt: skip


def _alone(items: Sequence[Item]) -> list[Response]:
    """One response a prompt, so that no prompt is shared and both ways do the same work."""
    return [r for n, r in enumerate(labelled(items)) if n % len(OPTIONS) == 0]


def _rows(responses: Sequence[Response]) -> list[Row]:
    return [Row(r.prompt, r.text, r.system) for r in responses]


def _option_rows(items: Sequence[Item]) -> list[Row]:
    return [Row(item.prompt, item.responses[name]) for item in items for name in OPTIONS]


@torch.no_grad()
def _bare(subject: Subject, responses: Sequence[Response]) -> None:
    """The decoder over the same batches, nothing kept, rendering included: the floor of recording."""
    _below(subject, _rows(responses), subject.n_layers - 1)


@torch.no_grad()
def _below(subject: Subject, rows: Sequence[Row], layer: int) -> None:
    """The decoder over the rows' batches up to a layer, nothing kept: what doses at that layer have in common."""

    def forward(packed: Any) -> None:
        with reading(subject, packed.responses), stopping_after(subject, layer):
            subject.decoder(**packed.inputs, use_cache=False)

    in_batches(subject, rows, forward)


@torch.no_grad()
def _logits(subject: Subject, rows: Sequence[Row]) -> None:
    """The model over the rows' batches, with logits where a response's tokens are predicted, nothing made of them."""

    def forward(packed: Any) -> None:
        places = [(s[0], t) for s in packed.spans for t in (s[4], *range(s[2], s[3] - 1))]
        sequences, tokens = torch.tensor(places, device=subject.device).T
        with reading(subject, packed.responses):
            logits_at(subject.model, packed.inputs, sequences, tokens)

    in_batches(subject, rows, forward)


def _high(items: Sequence[Item]) -> TrainingData:
    return from_items(items, "high")


def _train(subject: Subject, items: Sequence[Item]) -> None:
    with tempfile.TemporaryDirectory() as place:
        finetune(subject, _high(items), Path(place) / "adapter", PERSONA)


def _sweep(subject: Subject, vector: PersonaVector, layer: int, items: Sequence[Item]) -> None:
    with reusing_below(subject, layer):
        for dose in DOSES:
            with subject.under(Condition(steers=(Steer(vector, layer, dose=dose),))):
                TraitBenchmark(items).measure(subject)


def _write(subject: Subject, items: Sequence[Item], condition: Condition) -> None:
    with subject.under(condition):
        generate(subject, [item.prompt for item in items], max_new_tokens=NEW_TOKENS)


def _agree(subject: Subject, items: Sequence[Item]) -> None:
    """The plain ways give our numbers; a race between different jobs would say nothing.

    Raises:
        RuntimeError: they differ by more than batches round.
    """
    limit = AGREE.get(subject.dtype, 0.25)
    ours = record(subject, labelled(items)).values[:, :-1]
    plain = response_means(subject, _rows(labelled(items)))
    far = float(np.abs(ours - plain).max() / np.abs(plain).max())
    if far > limit:
        raise RuntimeError(f"bench: recording and one text at a time differ by {far:.2g} of the largest activation")
    rows = TraitBenchmark(items).measure(subject).rows
    means = [float(x.mean()) for x in likelihoods(subject, _option_rows(items))]
    ours_means = [row["logprobs"][name] for row in rows for name in OPTIONS]
    far = max(abs(a - b) for a, b in zip(ours_means, means, strict=True))
    if far > limit:
        raise RuntimeError(f"bench: likelihoods differ by {far:.2g} from those of one text at a time")


def training_comparison(subject: Subject, rotation: Rotation) -> Comparison | None:
    """A training against its loss and gradients alone; None, with a warning that says why, where it cannot be done."""
    if is_spread(subject.model) or getattr(subject.model, "is_quantized", False):
        _untimed("training", "the model is spread over several devices, or quantised")
        return None
    try:
        bare_steps(subject, _high(rotation(0)[:1]), PERSONA)
    except (UserError, RuntimeError, MemoryError) as error:
        if not isinstance(error, UserError) and not is_out_of_memory(error):
            raise
        _untimed("training", one_line(str(error), 200))  # what was timed before must not be lost
        return None
    return Comparison(
        "training, against bare gradients", "time over that of its loss and gradients, same rows",
        lambda n: _train(subject, rotation(n)), lambda n: bare_steps(subject, _high(rotation(n)), PERSONA),
        at_most=AT_MOST,
    )  # fmt: skip


def _untimed(what: str, reason: str) -> None:
    warnings.warn(f"bench: {what} is not timed: {reason}", Shortfall, stacklevel=3)


def exported_comparison(subject: Subject, rotation: Rotation, folder: Path) -> Comparison | None:
    """Generation by an exported checkpoint against the model that it was made of; None, with a warning that says why,
    where the architecture has no bias that steering can be folded into or there is no room for a second model."""
    vector = fit(record(subject, labelled(rotation(0))))
    layer = subject.n_layers // 2
    try:
        to_checkpoint(subject, vector, folder, layer, vector.coefficient_for(SAME_TEXT, layer))
        made = load_subject(str(folder), dtype=str(subject.dtype).removeprefix("torch."), device=str(subject.device))
    except (UserError, OSError, RuntimeError, MemoryError) as error:
        if not isinstance(error, (UserError, OSError)) and not is_out_of_memory(error):
            raise
        _untimed("the exported checkpoint", one_line(str(error), 200))  # (a second model may have no room here)
        return None
    return Comparison(
        "exported checkpoint", "time over that of unsteered generation, same text",
        lambda n: _write(made, rotation(n), Condition()), lambda n: _write(subject, rotation(n), Condition()),
        at_most=1.03,
    )  # fmt: skip

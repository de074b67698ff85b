"""What `bench` compares: what studies are made of, each against a plain way of the same job."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from llm_persona.analysis.vectors import fit
from llm_persona.domain.condition import Condition, Steer
from llm_persona.domain.errors import Shortfall, UserError, one_line
from llm_persona.domain.items import OPTIONS, Item
from llm_persona.domain.responses import Response, labelled
from llm_persona.instruments.trait_benchmark import TraitBenchmark
from llm_persona.studies.bench_doses import dose_comparisons
from llm_persona.studies.bench_forwards import letters_fit, option_rows, orders, up_to, with_logits
from llm_persona.studies.rotation import Rotation
from llm_persona.studies.timing import AT_MOST, Comparison
from llm_persona.subject.export import to_checkpoint
from llm_persona.subject.generate import generate
from llm_persona.subject.load import Subject, load_subject
from llm_persona.subject.memory import is_out_of_memory
from llm_persona.subject.one_at_a_time import letters as one_by_one
from llm_persona.subject.one_at_a_time import likelihoods, response_means
from llm_persona.subject.packing import Row
from llm_persona.subject.placement import is_spread
from llm_persona.subject.record import record
from llm_persona.subject.rendered_once import of_tokenizer
from llm_persona.training.bare_steps import bare_steps
from llm_persona.training.data import TrainingData, from_items
from llm_persona.training.finetune import finetune
from llm_persona.training.recipe import PERSONA

NEW_TOKENS = 32
SAME_TEXT = 1e-6
"""A dose that changes no answer, so that both sides of the comparison write the same tokens."""
AGREE = {torch.float32: 1e-3, torch.bfloat16: 0.25, torch.float16: 0.05}
"""How far the two ways may differ in mean log-probability (batches round differently)."""


def comparisons(subject: Subject, rotation: Rotation) -> list[Comparison]:
    """What is compared; each pair is first held to give the same numbers."""
    vector = fit(record(subject, labelled(rotation(0))))
    layer = subject.n_layers // 2
    _agree(subject, rotation(0))
    letters = letters_fit(subject, rotation)
    if not letters:
        _untimed("TRAIT, choice (and doses in it)", f"prompts exceed the {subject.max_length} tokens the model reads")
    return [
        Comparison(
            "recording, against a bare forward", "share of the bare forward's speed, same batches",
            lambda n: record(subject, _alone(rotation(n))),
            lambda n: up_to(subject, _rows(_alone(rotation(n))), subject.n_layers - 1),
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
            lambda n: with_logits(subject, option_rows(rotation(n))), at_most=AT_MOST,
        ),
        Comparison(
            "TRAIT, likelihood", "times as fast as one prompt at a time",
            lambda n: TraitBenchmark(rotation(n)).measure(subject),
            lambda n: likelihoods(subject, option_rows(rotation(n))), at_least=3.0,
        ),
        *(_choice(subject, rotation) if letters else []),
        *dose_comparisons(subject, vector, rotation, letters),
        Comparison(
            "steered generation", "time over that of unsteered, same text",
            lambda n: _write(subject, rotation(n), Condition(steers=(Steer(vector, layer, dose=SAME_TEXT),))),
            lambda n: _write(subject, rotation(n), Condition()), at_most=1.03,
        ),
    ]  # fmt: skip


def _choice(subject: Subject, rotation: Rotation) -> list[Comparison]:
    return [
        Comparison(
            "TRAIT, choice", "times as fast as one prompt at a time",
            lambda n: TraitBenchmark(rotation(n), "choice").measure(subject),
            lambda n: one_by_one(subject, orders(rotation(n))), at_least=1.5,
        )
    ]  # fmt: skip


def _alone(items: Sequence[Item]) -> list[Response]:
    """One response a prompt, so that no prompt is shared and both ways do the same work."""
    return [r for n, r in enumerate(labelled(items)) if n % len(OPTIONS) == 0]


def _rows(responses: Sequence[Response]) -> list[Row]:
    return [Row(r.prompt, r.text, r.system) for r in responses]


def _high(items: Sequence[Item]) -> TrainingData:
    return from_items(items, "high")


def _train(subject: Subject, items: Sequence[Item]) -> None:
    with tempfile.TemporaryDirectory() as place:
        finetune(subject, _high(items), Path(place) / "adapter", PERSONA)


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
    means = [float(x.mean()) for x in likelihoods(subject, option_rows(items))]
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

    def written(number: int) -> None:
        of_tokenizer(made.tokenizer).forget()  # a tokenizer of its own, whose texts nobody else makes it forget
        _write(made, rotation(number), Condition())

    return Comparison(
        "exported checkpoint", "time over that of unsteered generation, same text",
        written, lambda n: _write(subject, rotation(n), Condition()), at_most=1.03,
    )  # fmt: skip

"""`bench`: forwards of which nothing is kept, over the batches that a measurement makes: its floor."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from llm_persona.domain.items import OPTIONS, Item
from llm_persona.instruments.trait_benchmark import TraitBenchmark
from llm_persona.studies.rotation import Rotation
from llm_persona.subject.batched import in_batches, in_batches_rendered
from llm_persona.subject.chat import Rendered, render_prompt
from llm_persona.subject.labels import prompts_fit
from llm_persona.subject.load import Subject
from llm_persona.subject.logits import logits_at
from llm_persona.subject.packing import Packed, Row
from llm_persona.subject.reading import reading
from llm_persona.subject.stopping import stopping_after


def option_rows(items: Sequence[Item]) -> list[Row]:
    """What likelihood mode reads: each item's options."""
    return [Row(item.prompt, item.responses[name]) for item in items for name in OPTIONS]


def orders(items: Sequence[Item]) -> list[str]:
    """What choice mode reads: each item in both orders, one after the other."""
    return TraitBenchmark(items, "choice").prompts()


def letters_fit(subject: Subject, rotation: Rotation) -> bool:
    """Whether the model reads the prompts of choice mode."""
    return all(prompts_fit(subject, orders(rotation.bank)))


@torch.no_grad()
def up_to(subject: Subject, rows: Sequence[Row], layer: int) -> None:
    """The decoder over the rows' batches up to a layer, rendering included."""
    in_batches(subject, rows, lambda packed: _forward(subject, packed, layer), up_to=layer)


@torch.no_grad()
def prompts_up_to(subject: Subject, prompts: Sequence[str], layer: int) -> None:
    """The same over prompts of which each two are the orders of one question."""
    ids = [render_prompt(subject, prompt) for prompt in prompts]
    rendered = [Rendered(one, len(one), len(one)) for one in ids]
    keys = [number // 2 for number in range(len(ids))]
    in_batches_rendered(subject, rendered, keys, lambda packed: _forward(subject, packed, layer), up_to=layer)


def _forward(subject: Subject, packed: Packed, layer: int) -> None:
    with reading(subject, packed.responses), stopping_after(subject, layer):
        subject.decoder(**packed.inputs, use_cache=False)


@torch.no_grad()
def with_logits(subject: Subject, rows: Sequence[Row]) -> None:
    """The model over the rows' batches, with logits where a response's tokens are predicted, nothing made of them."""

    def forward(packed: Packed) -> None:
        places = [(s[0], t) for s in packed.spans for t in (s[4], *range(s[2], s[3] - 1))]
        sequences, tokens = torch.tensor(places, device=subject.device).T
        with reading(subject, packed.responses):
            logits_at(subject.model, packed.inputs, sequences, tokens)

    in_batches(subject, rows, forward)

"""What every text of a call begins with (the template's system turn, an instruction), read once for all of them.

Its keys and values stand in a key-value cache that each batch attends to, so that every later token has exactly the
hidden states it would have with the whole text before it ("prefix caching", as inference servers do it).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

from llm_persona.subject.blocks import block_output
from llm_persona.subject.load import Subject
from llm_persona.subject.reading import reading
from llm_persona.subject.stopping import stopping_after

WORTH = 1 / 16
"""Share of a batch's token budget that it must save: reading it costs a forward of its own."""


class _BeforeAll(DynamicLayer):  # type: ignore[misc]
    """One block's keys and values of the prefix [1, heads, tokens, width]: before those of every sequence, and never
    added to, so that no more than the block at work holds a copy of them."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self.keys, self.values = keys, values

    def update(self, keys: torch.Tensor, values: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of the prefix and of the sequences after it, [batch, heads, prefix + length, width]."""
        pairs = ((self.keys, keys), (self.values, values))
        whole = [torch.cat([before.expand(len(new), -1, -1, -1), new], dim=-2) for before, new in pairs]
        return whole[0], whole[1]


class PrefixCache(Cache):  # type: ignore[misc]
    """What a batch attends to before its own tokens: a prefix of these `ids`. Any number of forwards may take it."""

    def __init__(self, ids: tuple[int, ...], read: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> None:
        super().__init__(layers=[_BeforeAll(keys, values) for keys, values in read])
        self.ids = ids


class FillingCache(DynamicCache):  # type: ignore[misc]
    """What the forward that reads a prefix writes its keys and values to."""


@dataclass(frozen=True)
class Prefix:
    """Tokens read once: their ids, the cache for what comes after them, and `sums` float32 [hidden], the block's output
    added up over the tokens, for the layers asked for."""

    ids: tuple[int, ...] = ()
    cache: PrefixCache | None = None
    sums: dict[int, torch.Tensor] = field(default_factory=dict)


NO_PREFIX = Prefix()


@torch.no_grad()
def read_prefix(
    subject: Subject, ids: Sequence[int], up_to: int | None = None, sum_layers: Sequence[int] = ()
) -> Prefix:
    """Read a prefix in the state the subject is in, up to block `up_to` (None: all of them)."""
    filling = FillingCache()
    sums: dict[int, torch.Tensor] = {}

    def summing(layer: int) -> Callable[..., None]:
        def hook(_module: Any, _inputs: Any, output: Any) -> None:
            sums[layer] = block_output(output)[0].float().sum(dim=0)

        return hook

    handles = [subject.blocks[layer].register_forward_hook(summing(layer)) for layer in dict.fromkeys(sum_layers)]
    last = subject.n_layers - 1 if up_to is None else up_to
    given = torch.tensor([list(ids)], device=subject.device)
    try:
        with reading(subject, torch.zeros(given.shape, dtype=torch.bool)), stopping_after(subject, last):
            subject.decoder(input_ids=given, past_key_values=filling, use_cache=True)
    finally:
        for handle in handles:
            handle.remove()
    read = [(layer.keys, layer.values) for layer in filling.layers]
    return Prefix(tuple(ids), PrefixCache(tuple(ids), read), sums)


def rotates_by_length(config: Any) -> bool:
    """Whether an architecture's rotary positions depend on how long a sequence becomes ("longrope", "dynamic"): keys
    read before its end is known would then be others'."""
    found = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    entries = [found, *(entry for entry in found.values() if isinstance(entry, dict))]
    kinds = [str(entry.get("rope_type", entry.get("type", ""))) for entry in entries]
    return any("dynamic" in kind or kind == "longrope" for kind in kinds)

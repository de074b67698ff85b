"""What every text of a call begins with (the template's system turn, an instruction), read once for all of them.

Its keys and values stand in a key-value cache that each batch attends to, so that every later token has exactly the
hidden states it would have with the whole text before it ("prefix caching", as inference servers do it).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import DynamicCache

from llm_persona.subject.blocks import block_output
from llm_persona.subject.load import Subject
from llm_persona.subject.reading import reading
from llm_persona.subject.stopping import stopping_after

WORTH = 1 / 16
"""Share of a batch's token budget that it must save: reading it costs a forward of its own."""


class PrefixCache(DynamicCache):  # type: ignore[misc]
    """A key-value cache for one forward: that of the prefix itself (no `ids`), which fills it, or that of a batch
    after a prefix of these ids."""

    def __init__(
        self, ids: tuple[int, ...] = (), read: Sequence[tuple[torch.Tensor, torch.Tensor]] = (), sequences: int = 1
    ) -> None:
        super().__init__([(keys.expand(sequences, -1, -1, -1), v.expand(sequences, -1, -1, -1)) for keys, v in read])
        self.ids = ids


@dataclass(frozen=True)
class Prefix:
    """Tokens read once. `read` holds each block's keys and values [1, heads, tokens, width]; `sums` float32 [hidden],
    the block's output added up over the tokens, for the layers asked for."""

    ids: tuple[int, ...] = ()
    read: list[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=list)
    sums: dict[int, torch.Tensor] = field(default_factory=dict)

    def cache(self, sequences: int) -> PrefixCache:
        """A cache for one forward of so many sequences, which adds to it."""
        return PrefixCache(self.ids, self.read, sequences)


NO_PREFIX = Prefix()


@torch.no_grad()
def read_prefix(
    subject: Subject, ids: Sequence[int], up_to: int | None = None, sum_layers: Sequence[int] = ()
) -> Prefix:
    """Read a prefix in the state the subject is in, up to block `up_to` (None: all of them)."""
    cache = PrefixCache()
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
            subject.decoder(input_ids=given, past_key_values=cache, use_cache=True)
    finally:
        for handle in handles:
            handle.remove()
    return Prefix(tuple(ids), [(layer.keys, layer.values) for layer in cache.layers], sums)

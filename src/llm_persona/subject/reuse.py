"""Share the layers below a steered one between the conditions of a sweep."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import singledispatch
from typing import Any

import torch

from llm_persona.domain.errors import UserError
from llm_persona.subject.load import Subject
from llm_persona.subject.prefix import FillingCache, PrefixCache

MEMORY_LIMIT = 512 << 20
"""Bytes of what is kept; batches beyond it are simply computed again."""

Written = dict[int, tuple[torch.Tensor, torch.Tensor]]
"""What blocks wrote into a cache: keys and values, by block."""


class KeptBlocks:
    """Unsteered outputs of some decoder blocks, by packed batch, and what the blocks up to them wrote of a prefix. One
    store may serve several layers."""

    def __init__(self, layers: Iterable[int]) -> None:
        self.layers = frozenset(layers)
        self._outputs: dict[tuple[bytes, int], torch.Tensor] = {}
        self._written: dict[tuple[bytes, int], Written] = {}
        self._bytes = 0

    def get(self, key: bytes, layer: int) -> torch.Tensor | None:
        """The output of block `layer` for that batch, if it was kept."""
        return self._outputs.get((key, layer))

    def keep(self, key: bytes, layer: int, hidden: torch.Tensor, written: Written | None = None) -> None:
        """Keep a block's output while there is room; of a prefix, what the blocks up to it have written too."""
        parts = [hidden, *(part for pair in (written or {}).values() for part in pair)]
        size = sum(part.numel() * part.element_size() for part in parts)
        if layer in self.layers and (key, layer) not in self._outputs and self._bytes + size <= MEMORY_LIMIT:
            self._outputs[key, layer] = hidden.clone()
            self._written[key, layer] = written or {}
            self._bytes += size

    def written(self, key: bytes, layer: int) -> Written:
        """Keys and values by block, kept with that output."""
        return self._written.get((key, layer), {})


@singledispatch
@contextmanager
def reusing_below(subject: Subject, layer: int, kept: KeptBlocks | None = None) -> Iterator[None]:
    """Compute blocks 0..layer once per packed batch; later conditions start from the kept output.

    Only for conditions that differ at `layer` or above: a forward in a state that steers lower, or with
    another adapter than at entry, raises. What a prefix writes for the batches after it is kept likewise; a forward
    with any other key-value cache passes through untouched.
    With `kept`, what an earlier context has computed for this layer is used too.
    """
    if not 0 <= layer < subject.n_layers:
        raise UserError(f"layer {layer}: the subject has layers 0 to {subject.n_layers - 1}")
    store = kept if kept is not None else KeptBlocks([layer])
    adapter = subject.adapter
    key: bytes | None = None
    start: torch.Tensor | None = None
    filling: FillingCache | None = None

    def before(_module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        nonlocal key, start, filling
        if subject.adapter != adapter or any(low < layer for low in subject.steering_layers):
            raise UserError(f"layers below {layer} are shared here: an adapter or a lower steered layer cannot enter")
        past = kwargs.get("past_key_values")
        filling = past if isinstance(past, FillingCache) else None
        key = _batch_key(kwargs) if filling is None else b"prefix:" + _bytes(kwargs["input_ids"])
        start = store.get(key, layer) if key is not None else None

    def lower(number: int, original: Callable[..., Any]) -> Callable[..., Any]:
        def forward(hidden: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            if start is None or key is None:
                output = original(hidden, *args, **kwargs)
                if key is not None and isinstance(output, torch.Tensor):  # blocks that return tuples are not shared
                    store.keep(key, number, output, _written(filling, number) if filling is not None else None)
                return output
            if filling is not None and number in (kept_keys := store.written(key, layer)):
                filling.update(*kept_keys[number], number)
            return start.clone() if number == layer else hidden

        return forward

    handle = subject.decoder.register_forward_pre_hook(before, with_kwargs=True)
    # a block of a spread model has a forward of its own, which fetches its weights
    own = [block.__dict__.get("forward") for block in subject.blocks[: layer + 1]]
    try:
        for number, block in enumerate(subject.blocks[: layer + 1]):
            block.forward = lower(number, block.forward)
        yield
    finally:
        handle.remove()
        for block, forward in zip(subject.blocks[: layer + 1], own, strict=True):
            block.__dict__.pop("forward", None)  # the class's own method shows again
            if forward is not None:
                block.forward = forward


def _written(cache: FillingCache, up_to: int) -> Written:
    """What the blocks up to that one have written (some architectures have blocks that write nothing)."""
    found = enumerate(cache.layers[: up_to + 1])
    return {number: (one.keys, one.values) for number, one in found if one.keys is not None}


def _batch_key(kwargs: dict[str, Any]) -> bytes | None:
    """What identifies a packed batch (its mask follows from ids and positions, and from the prefix before it); None
    for anything else."""
    ids, mask, past = kwargs.get("input_ids"), kwargs.get("attention_mask"), kwargs.get("past_key_values")
    if kwargs.get("use_cache") or ids is None or mask is None or mask.dim() != 4:
        return None
    if past is not None and not isinstance(past, PrefixCache):
        return None
    before = torch.tensor(past.ids if past is not None else (), dtype=torch.long)
    return b"%d,%d,%d:" % (*ids.shape, len(before)) + _bytes(before) + _bytes(ids) + _bytes(kwargs["position_ids"])


def _bytes(ids: torch.Tensor) -> bytes:
    return ids.cpu().numpy().tobytes()

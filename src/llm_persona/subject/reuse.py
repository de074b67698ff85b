"""Share the layers below a steered one between the conditions of a sweep."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from llm_persona.domain.errors import UserError
from llm_persona.subject.blocks import block_output, with_hidden
from llm_persona.subject.load import Subject

MEMORY_LIMIT = 512 << 20
"""Bytes of kept hidden states; batches beyond it are simply computed again."""


@contextmanager
def reusing_below(subject: Subject, layer: int) -> Iterator[None]:
    """Compute blocks 0..layer once per packed batch; later conditions start from the kept output.

    Only for conditions that differ at `layer` or above: entering a state that steers lower, or
    swapping an adapter inside, raises. A forward with a key-value cache passes through untouched.
    """
    if not 0 <= layer < subject.n_layers:
        raise UserError(f"layer {layer}: the subject has layers 0 to {subject.n_layers - 1}")
    kept: dict[bytes, torch.Tensor] = {}
    state: dict[str, Any] = {"key": None, "bytes": 0}
    adapter = subject.adapter
    originals = [block.forward for block in subject.blocks[: layer + 1]]

    def before(_module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        if subject.adapter != adapter or any(low < layer for low in subject.steering_layers):
            raise UserError(f"layers below {layer} are shared here: an adapter or a lower steered layer cannot enter")
        ids, mask = kwargs.get("input_ids"), kwargs.get("attention_mask")
        if kwargs.get("past_key_values") is not None or kwargs.get("use_cache") or ids is None or mask is None:
            state["key"] = None
        elif mask.dim() == 4:  # packed: ids and positions decide the mask
            positions = kwargs["position_ids"]
            state["key"] = b"%d,%d:" % tuple(ids.shape) + ids.cpu().numpy().tobytes() + positions.cpu().numpy().tobytes()
        else:
            state["key"] = None

    def lower(number: int) -> Any:
        original = originals[number]

        def forward(hidden: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            if state["key"] is None or state["key"] not in kept:
                output = original(hidden, *args, **kwargs)
                if number == layer and state["key"] is not None:
                    found = block_output(output)
                    size = found.numel() * found.element_size()
                    if state["bytes"] + size <= MEMORY_LIMIT:
                        kept[state["key"]] = found.clone()
                        state["bytes"] += size
                return output
            result = kept[state["key"]] if number == layer else hidden
            return result.clone() if not state.get("tuple") else with_hidden((hidden,), result.clone())

        return forward

    handle = subject.decoder.register_forward_pre_hook(before, with_kwargs=True)
    try:
        for number, block in enumerate(subject.blocks[: layer + 1]):
            block.forward = lower(number)
        yield
    finally:
        handle.remove()
        for block in subject.blocks[: layer + 1]:
            del block.forward  # the instance attribute; the class's own method shows again

"""Logits at chosen places only: the output layer of a small model is a third of its work."""

from __future__ import annotations

from typing import Any

import torch


def logits_at(model: Any, inputs: dict[str, Any], sequences: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Logits [n, vocabulary] at `(sequences[i], places[i])` of a packed batch, in one forward.

    The hidden states are picked just before the output layer, inside the model's own forward, so that
    whatever the architecture does to its logits afterwards (soft caps, scales) is done to these too.
    """

    def pick(_module: Any, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        hidden = arguments[0]
        return (hidden[sequences, places][None], *arguments[1:])

    inner = getattr(model, "module", model)  # what a wrapper for several processes holds
    handle = inner.get_output_embeddings().register_forward_pre_hook(pick)
    try:
        return model(**inputs, use_cache=False).logits[0]
    finally:
        handle.remove()

"""Find a model's decoder blocks, and prove by a three-token probe that they are what we think."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from llm_persona.domain.errors import UserError


def block_output(output: Any) -> torch.Tensor:
    """The hidden states in a block's output (some architectures return a tuple that begins with them)."""
    found = output[0] if isinstance(output, tuple) else output
    if not isinstance(found, torch.Tensor):
        raise UserError(f"a decoder block returned {type(found).__name__} instead of hidden states")
    return found


def with_hidden(output: Any, hidden: torch.Tensor) -> Any:
    """The block's output with its hidden states replaced."""
    return (hidden, *output[1:]) if isinstance(output, tuple) else hidden


def find_blocks(model: nn.Module) -> nn.ModuleList:
    """The list of decoder blocks: the module list as long as the configuration says there are layers.

    Raises:
        UserError: there is none, or the probe shows that layer l is not the output of block l.
    """
    config: Any = model.config
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    count = getattr(text, "num_hidden_layers", None)
    found = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList)
        and len(module) == count
        and "vision" not in name
        and "encoder." not in name
    ]
    if not found:
        raise UserError(
            f"{type(model).__name__}: no list of {count} decoder blocks found; "
            "this architecture is not supported (a decoder-only transformer is needed)"
        )
    return found[0]


def decoder_of(model: nn.Module) -> nn.Module:
    """The decoder without the output layer (no logits are computed where none are needed)."""
    getter: Any = getattr(model, "get_decoder", None)
    found = getter() if getter is not None else None
    return found if isinstance(found, nn.Module) else model


@torch.no_grad()
def probe(model: nn.Module, blocks: nn.ModuleList, hidden_size: int) -> None:
    """Run three tokens and compare each block's output with the hidden state the library reports.

    The library's last entry is after the final norm, so the last block is checked for shape only.
    """
    seen: list[torch.Tensor] = []
    handles = [b.register_forward_hook(lambda _m, _i, out: seen.append(block_output(out))) for b in blocks]
    try:
        ids = torch.tensor([[1, 2, 3]], device=next(model.parameters()).device)
        out: Any = decoder_of(model)(input_ids=ids, output_hidden_states=True, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    name = type(model).__name__
    if len(seen) != len(blocks):
        raise UserError(f"{name}: {len(seen)} block outputs in one forward, expected {len(blocks)}; not supported")
    for layer, hidden in enumerate(seen):
        if hidden.shape != (1, 3, hidden_size):
            raise UserError(f"{name}: block {layer} gives shape {tuple(hidden.shape)}, expected (1, 3, {hidden_size})")
        reported = out.hidden_states[layer + 1]
        if layer < len(seen) - 1 and not torch.equal(hidden, reported):
            raise UserError(f"{name}: the output of block {layer} is not hidden state {layer + 1}; not supported")

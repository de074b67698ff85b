"""Find a model's decoder blocks, and prove by a three-token probe that they are what we think."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import nn

from llm_persona.domain.errors import UserError
from llm_persona.subject.placement import input_device

SETTING = "LLM_PERSONA_BLOCKS"
"""Environment variable: where in the model the list of decoder blocks is, e.g. `model.layers`."""


def block_output(output: Any) -> torch.Tensor:
    """The hidden states in a block's output (some architectures return a tuple that begins with them)."""
    found = output[0] if isinstance(output, tuple) else output
    if not isinstance(found, torch.Tensor):
        raise UserError(f"a decoder block returned {type(found).__name__} instead of hidden states")
    return found


def with_hidden(output: Any, hidden: torch.Tensor) -> Any:
    """The block's output with its hidden states replaced."""
    return (hidden, *output[1:]) if isinstance(output, tuple) else hidden


def find_blocks(model: nn.Module, path: str | None = None) -> nn.ModuleList:
    """The list of decoder blocks: the one at `path` (or where LLM_PERSONA_BLOCKS says), else the module list as long
    as the configuration says there are layers.

    Raises:
        UserError: there is none; the message lists the model's module lists, and says what to set.
    """
    path = path or os.environ.get(SETTING) or None
    lists = {name: m for name, m in model.named_modules() if isinstance(m, nn.ModuleList)}
    if path is not None:
        if path not in lists:
            raise UserError(
                f"{type(model).__name__}: {SETTING} {path!r} is no list of modules in it; {_choices(model)}"
            )
        return lists[path]
    config: Any = model.config
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    count = getattr(text, "num_hidden_layers", None)
    found = [m for name, m in lists.items() if len(m) == count and "vision" not in name and "encoder." not in name]
    if not found:
        raise UserError(
            f"{type(model).__name__}: no list of {count} decoder blocks found; a decoder-only transformer is needed; "
            f"{_choices(model)}"
        )
    return found[0]


def _choices(model: nn.Module) -> str:
    """What to set, and to which values."""
    lists = [f"{name} ({len(m)})" for name, m in model.named_modules() if isinstance(m, nn.ModuleList)]
    shown = ", ".join(lists[:8]) or "none"
    return f"set {SETTING} (in Python: blocks=) to the path of the decoder blocks; its module lists: {shown}"


def path_of(model: nn.Module, blocks: nn.ModuleList) -> str:
    """Where in `model` its list of blocks is, so that it is found in a copy too."""
    return next(name for name, module in model.named_modules() if module is blocks)


def decoder_of(model: nn.Module) -> nn.Module:
    """The decoder without the output layer (no logits are computed where none are needed)."""
    getter: Any = getattr(model, "get_decoder", None)
    found = getter() if getter is not None else None
    return found if isinstance(found, nn.Module) else model


@torch.no_grad()
def probe(model: nn.Module, blocks: nn.ModuleList, hidden_size: int) -> None:
    """Two forwards of three tokens prove that recording and steering meet the residual stream.

    Recorded: each block's output is the hidden state that the library reports, bit by bit (its last entry is after the
    final norm, so the last block is checked for shape alone). Steered: what is added to the output of block l is in
    what block l + 1 reads, bit by bit; what is added to the last one changes the decoder's output.

    Raises:
        UserError: which block is not what it should be, and what to set.
    """
    ids = torch.tensor([[1, 2, 3]], device=input_device(model))
    plain, _, out = _traced(model, blocks, ids, 0.0)
    name, mend = type(model).__name__, _choices(model)
    if len(plain) != len(blocks):
        raise UserError(f"{name}: {len(plain)} block outputs in one forward, expected {len(blocks)}; {mend}")
    for layer, hidden in enumerate(plain):
        if hidden.shape != (1, 3, hidden_size):
            shape = f"shape {tuple(hidden.shape)}, expected (1, 3, {hidden_size})"
            raise UserError(f"{name}: block {layer} gives {shape}; {mend}")
        if layer < len(plain) - 1 and not _same(hidden, out.hidden_states[layer + 1]):
            raise UserError(f"{name}: the output of block {layer} is not hidden state {layer + 1}; {mend}")
    steered, read, moved = _traced(model, blocks, ids, 1.0)
    for layer, hidden in enumerate(steered[:-1]):
        if len(read) != len(blocks) or not _same(hidden, read[layer + 1]):
            raise UserError(f"{name}: what is added to block {layer} is not what block {layer + 1} reads; {mend}")
    if bool(moved[0].isfinite().all()) and _same(moved[0], out[0]):
        raise UserError(f"{name}: what is added to the last block does not change the decoder's output; {mend}")


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal bit by bit, NaN included (whose numbers are refused where they are used)."""
    b = b.to(a.device)
    return a.shape == b.shape and bool(((a == b) | (a.isnan() & b.isnan())).all())


def _traced(
    model: nn.Module, blocks: nn.ModuleList, ids: torch.Tensor, amount: float
) -> tuple[list[torch.Tensor], list[torch.Tensor], Any]:
    """Each block's output, what each block reads, and the decoder's output, while every block is steered by a ramp
    times `amount`."""
    outputs: list[torch.Tensor] = []
    inputs: list[torch.Tensor] = []

    def after(_module: Any, _inputs: Any, output: Any) -> Any:
        hidden = block_output(output)
        ramp = torch.linspace(-amount, amount, hidden.shape[-1], device=hidden.device).to(hidden.dtype)
        moved = hidden + ramp if amount else hidden
        outputs.append(moved)
        return with_hidden(output, moved)

    def before(_module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        first = args[0] if args else kwargs.get("hidden_states")
        if isinstance(first, torch.Tensor):
            inputs.append(first)

    handles = [b.register_forward_hook(after) for b in blocks]
    handles += [b.register_forward_pre_hook(before, with_kwargs=True) for b in blocks]
    try:
        out: Any = decoder_of(model)(input_ids=ids, output_hidden_states=True, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return outputs, inputs, out

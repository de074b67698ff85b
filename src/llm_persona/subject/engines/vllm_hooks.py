"""What runs inside vLLM's workers: reading and moving the residual stream of one request, in whatever chunks it comes.

vLLM hands a hook the hidden states [chunk, hidden] of one request's tokens that are in the step: a long prompt comes in
several chunks, and every generated token in a step of its own. So a hook counts what it has seen, and keeps sums, never
means: the mean over a chunk that holds none of the wanted tokens would be NaN. vllm-lens swallows a hook's errors; the
counts are how the caller finds out.

These classes travel to the workers by name, so this module imports nothing but torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch


@dataclass(frozen=True)
class Pool:
    """Sum of the hidden states of the tokens [start, stop) of a request.

    Leaves in `ctx.saved`, by layer: (tokens seen, tokens summed, float32 sum [hidden] or None).
    """

    start: int
    stop: int

    def __call__(self, ctx: Any, hidden: torch.Tensor) -> None:
        """Read one chunk [chunk, hidden] of one layer."""
        key = str(ctx.layer_idx)
        seen, count, total = ctx.saved.get(key, (0, 0, None))
        first, last = max(self.start - seen, 0), min(self.stop - seen, hidden.shape[0])
        if first < last:
            part = hidden[first:last].float().sum(dim=0).cpu()
            total = part if total is None else total + part
            count += last - first
        ctx.saved[key] = (seen + hidden.shape[0], count, total)


@dataclass(frozen=True)
class Move:
    """Steers a request: adds `vector`, takes its direction out, or keeps the projection on it in [low, high].

    `vector` is what is added, or a unit direction in float32. `begins`: where in the sequence the response begins, for
    `positions` other than all. Leaves in `ctx.saved`, by layer: (tokens seen, tokens moved).
    """

    vector: torch.Tensor
    operator: Literal["add", "ablate", "cap"] = "add"
    positions: Literal["all", "prompt", "response"] = "all"
    begins: int = 0
    low: float | None = None
    high: float | None = None

    def __call__(self, ctx: Any, hidden: torch.Tensor) -> torch.Tensor:
        """Move one chunk [chunk, hidden] of one layer."""
        key = str(ctx.layer_idx)
        seen, touched = ctx.saved.get(key, (0, 0))
        moved = hidden + self._change(hidden)
        count = hidden.shape[0]
        if self.positions != "all":
            places = torch.arange(seen, seen + count, device=hidden.device)
            chosen = places >= self.begins if self.positions == "response" else places < self.begins
            moved = torch.where(chosen[:, None], moved, hidden)
            count = int(chosen.sum())
        ctx.saved[key] = (seen + hidden.shape[0], touched + count)
        return moved

    def _change(self, hidden: torch.Tensor) -> torch.Tensor:
        vector = self.vector.to(hidden.device)
        if self.operator == "add":
            return vector.to(hidden.dtype)
        along = hidden.float() @ vector
        target = torch.zeros_like(along) if self.operator == "ablate" else along.clamp(self.low, self.high)
        return ((target - along)[:, None] * vector).to(hidden.dtype)

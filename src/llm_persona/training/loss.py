"""The loss on answers alone: cross-entropy on what is to be learnt, and a contrast with what is to be avoided."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from llm_persona.subject.logits import logits_at
from llm_persona.subject.packing import Tree, pack

IGNORED = -100


def collate(
    prompts: Sequence[Sequence[Tree]],
    pad_id: int,
    dtype: torch.dtype,
    shared: bool = True,
    pairs: Sequence[int] = (),
) -> dict[str, torch.Tensor]:
    """A packed batch of prompts, each a list of trees (one where its answers share it).

    `labels` [batch, length]: the answers to learn, -100 elsewhere. `pairs` by row: +p for the answer to learn and -p
    for the one to avoid of pair p, 0 for an answer without a partner; spread over the answers' tokens in `pairs`.
    """
    trees = [tree for prompt in prompts for tree in prompt]
    packed = pack(trees, pad_id, torch.device("cpu"), dtype, plain=not shared)
    labels = torch.full_like(packed.input_ids, IGNORED)
    marks = torch.zeros_like(packed.input_ids)
    for sequence, row, start, end, _previous in packed.spans:
        pair = pairs[row] if pairs else 0
        marks[sequence, start:end] = pair
        if pair >= 0:
            labels[sequence, start:end] = packed.input_ids[sequence, start:end]
    return {**packed.inputs, "labels": labels, "pairs": marks}


def answer_loss(
    model: Any, inputs: dict[str, torch.Tensor], items: torch.Tensor | int | None = None, contrast: float = 0.0
) -> torch.Tensor:
    """Mean cross-entropy per token to learn (over `items` of them, if given), plus `contrast` times the odds-ratio
    loss over the pairs (Hong, Lee & Thorne 2024; length-normalised log-probabilities).

    Logits are computed at the places that predict an answer's tokens and nowhere else. The token before an
    answer's predicts its first: a branch always begins with a token of the prompt.
    """
    labels, pairs = inputs["labels"], inputs["pairs"]
    learnt = labels != IGNORED
    sequences, places = (learnt | (pairs < 0) if contrast else learnt).nonzero(as_tuple=True)
    kept = {name: value for name, value in inputs.items() if name not in ("labels", "pairs")}
    logits = logits_at(model, kept, sequences, places - 1).float()
    targets = kept["input_ids"][sequences, places]
    surprise = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    chosen = learnt[sequences, places]
    total = surprise[chosen].sum() / (items if items is not None else chosen.sum())
    if contrast:
        total = total + contrast * _odds_ratio(-surprise, pairs[sequences, places])
    return total


def _odds_ratio(logprobs: torch.Tensor, pairs: torch.Tensor) -> torch.Tensor:
    """-log sigmoid(log-odds to learn - log-odds to avoid), mean over the pairs of the batch; 0 without one."""
    numbers = pairs[pairs < 0].neg().unique()
    if not len(numbers):
        return logprobs.sum() * 0.0
    means = [torch.stack([logprobs[pairs == sign * n].mean() for n in numbers.tolist()]) for sign in (1, -1)]
    good, bad = (mean - torch.log1p(-mean.clamp(max=-1e-6).exp()) for mean in means)
    return -torch.nn.functional.logsigmoid(good - bad).mean()

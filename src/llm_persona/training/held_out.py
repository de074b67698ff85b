"""Prompts kept from training, whose loss says whether the task is learnt rather than the rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from llm_persona.domain.errors import UserError
from llm_persona.subject.load import Subject
from llm_persona.training.data import Prompts, TrainingData
from llm_persona.training.loss import answer_loss, collate


def split(data: TrainingData, share: float, seed: int) -> tuple[TrainingData, TrainingData]:
    """Examples to train on, and examples of `share` of the prompts (at least one) to measure on. The rounds of one
    conversation stay together.

    Raises:
        UserError: a share outside (0, 1), or too few prompts to keep any.
    """
    prompts = list(dict.fromkeys(e.opening for e in data.examples))
    if not 0 < share < 1 or len(prompts) < 2:
        raise UserError(f"held out: a share of {share:g} of {len(prompts)} prompts leaves nothing to train or measure")
    count = min(max(1, round(share * len(prompts))), len(prompts) - 1)
    kept = {prompts[i] for i in np.random.default_rng([seed, 1]).permutation(len(prompts))[:count]}
    inside = [e.opening in kept for e in data.examples]
    learn = [e for e, held in zip(data.examples, inside, strict=True) if not held]
    return replace(data, examples=learn), replace(
        data, examples=[e for e, held in zip(data.examples, inside, strict=True) if held], skipped=[]
    )


@torch.no_grad()
def loss_on(subject: Subject, prompts: Prompts, prompts_per_batch: int = 8) -> float:
    """Mean cross-entropy per answer token, end-of-turn included, by the subject as it stands.

    Raises:
        UserError: nothing to measure on.
    """
    if not prompts.trees:
        raise UserError("held out: not one of these conversations fits the token limit, so there is no loss to measure")
    total, tokens = 0.0, 0
    order = sorted(range(len(prompts.trees)), key=lambda i: sum(t.length for t in prompts.trees[i]))
    for start in range(0, len(order), prompts_per_batch):
        chosen = [prompts.trees[i] for i in order[start : start + prompts_per_batch]]
        batch = collate(chosen, subject.tokenizer.pad_token_id, subject.dtype, prompts.shared, prompts.pairs)
        batch = {name: value.to(subject.device) for name, value in batch.items()}
        count = int((batch["labels"] != -100).sum())
        total += float(answer_loss(subject.model, batch)) * count
        tokens += count
    return total / tokens

"""Log-probabilities: of given responses, token by token, and of the next token after a prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from llm_persona.domain.errors import UserError
from llm_persona.subject.load import Subject
from llm_persona.subject.packing import TOKEN_BUDGET, Row, plan


@torch.no_grad()
def response_logprobs(
    subject: Subject, rows: Sequence[Row], progress: Callable[[int], None] | None = None
) -> list[np.ndarray]:
    """Natural-log probability of each of the response's own tokens, in the state the subject is in.

    Returns:
        One float64 array [response tokens] a row, in the rows' order; end-of-turn is not scored.
    """
    found: list[np.ndarray] = [np.empty(0)] * len(rows)
    for packed in plan(subject, rows):
        first = min(span[4] for span in packed.spans)
        keep = torch.arange(first, packed.input_ids.shape[1], device=packed.input_ids.device)
        logits = subject.model(
            input_ids=packed.input_ids,
            position_ids=packed.position_ids,
            attention_mask=packed.attention_mask,
            use_cache=False,
            logits_to_keep=keep,
        ).logits
        for sequence, row, start, end, previous in packed.spans:
            predicting = logits[sequence, previous - first : end - 1 - first].float()
            targets = packed.input_ids[sequence, start:end]
            taken = predicting.gather(1, targets[:, None])[:, 0] - predicting.logsumexp(dim=1)
            found[row] = taken.double().cpu().numpy()
        if progress is not None:
            progress(len(packed.spans))
    return found


@torch.no_grad()
def next_token_probabilities(subject: Subject, prompts: Sequence[list[int]], tokens: Sequence[int]) -> np.ndarray:
    """Probability of each of `tokens` right after each prompt (token ids).

    Returns:
        float64 [prompts, tokens]. Prompts are batched by length with left padding.

    Raises:
        UserError: a prompt longer than the model reads.
    """
    longest = max((len(p) for p in prompts), default=0)
    if longest > subject.max_length:
        raise UserError(f"a prompt of {longest} tokens exceeds the model's {subject.max_length}; shorten it")
    found = np.empty((len(prompts), len(tokens)))
    wanted = torch.tensor(list(tokens), device=subject.device)
    for batch in _by_length(prompts):
        width = max(len(prompts[i]) for i in batch)
        ids = torch.full((len(batch), width), subject.tokenizer.pad_token_id, dtype=torch.long)
        mask = torch.zeros((len(batch), width), dtype=torch.long)
        for place, index in enumerate(batch):
            prompt = torch.tensor(prompts[index], dtype=torch.long)
            ids[place, width - len(prompt) :] = prompt
            mask[place, width - len(prompt) :] = 1
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        logits = subject.model(
            input_ids=ids.to(subject.device),
            attention_mask=mask.to(subject.device),
            position_ids=positions.to(subject.device),
            use_cache=False,
            logits_to_keep=1,
        ).logits[:, -1]
        found[batch] = logits.float().softmax(dim=1)[:, wanted].double().cpu().numpy()
    return found


def _by_length(prompts: Sequence[list[int]]) -> list[list[int]]:
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    groups: list[list[int]] = []
    for index in order:
        if groups and len(prompts[index]) * (len(groups[-1]) + 1) <= TOKEN_BUDGET:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups

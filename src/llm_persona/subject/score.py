"""Log-probabilities: of given responses, token by token, and of the next token after a prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import singledispatch
from typing import Any

import numpy as np
import torch

from llm_persona.subject.batched import in_batches, in_batches_rendered
from llm_persona.subject.chat import Rendered
from llm_persona.subject.load import Subject
from llm_persona.subject.logits import logits_at
from llm_persona.subject.packing import Packed, Row
from llm_persona.subject.reading import reading

AT_ONCE_ON_CPU = 1 << 20
AT_ONCE = 1 << 26
"""Logits taken to float32 at once: 4 MiB on a CPU, 256 MiB elsewhere."""


@singledispatch
def response_logprobs(
    subject: Any, rows: Sequence[Row], progress: Callable[[int], None] | None = None
) -> list[np.ndarray]:
    """Natural-log probability of each of the response's own tokens, in the state the subject is in.

    Returns:
        One float64 array [response tokens] a row, in the rows' order; end-of-turn is not scored.
    """
    raise TypeError(f"{type(subject).__name__} scores no responses")


@response_logprobs.register
@torch.no_grad()
def _(subject: Subject, rows: Sequence[Row], progress: Callable[[int], None] | None = None) -> list[np.ndarray]:
    found: list[np.ndarray] = [np.empty(0)] * len(rows)

    def score(packed: Packed) -> None:
        lengths = [end - start for _, _, start, end, _ in packed.spans]
        before = [(s[0], place) for s in packed.spans for place in (s[4], *range(s[2], s[3] - 1))]
        number_of = {place: number for number, place in enumerate(dict.fromkeys(before))}
        # (what predicts the first token of each response to one prompt is one place)
        sequences, places = torch.tensor(list(number_of), device=subject.device).T
        which = torch.tensor([number_of[place] for place in before], device=subject.device)
        wanted = torch.cat([packed.input_ids[s[0], s[2] : s[3]] for s in packed.spans])
        with reading(subject, packed.responses):
            logits = logits_at(subject.model, packed.inputs, sequences, places)
        taken = (logits[which, wanted].float() - _log_sum_exp(logits)[which]).cpu().double()
        for span, values in zip(packed.spans, taken.split(lengths), strict=True):
            found[span[1]] = values.numpy()
        if progress is not None:
            progress(len(packed.spans))

    in_batches(subject, rows, score)
    return found


def _log_sum_exp(logits: torch.Tensor) -> torch.Tensor:
    """Float32 [n] of logits [n, vocabulary], a few rows at a time in one float32 copy, which then stays in a core's
    cache; a device holds no second copy of all of them."""
    rows = max(1, (AT_ONCE_ON_CPU if logits.device.type == "cpu" else AT_ONCE) // logits.shape[1])
    copy = torch.empty(min(rows, len(logits)), logits.shape[1], device=logits.device)
    found = []
    for part in logits.split(rows):
        values = copy[: len(part)].copy_(part)
        most = values.amax(dim=1, keepdim=True)
        found.append(values.sub_(most).exp_().sum(dim=1).log_() + most[:, 0])
    return torch.cat(found)


@singledispatch
@torch.no_grad()
def next_token_probabilities(subject: Subject, prompts: Sequence[list[int]], tokens: Sequence[int]) -> np.ndarray:
    """Probability of each of `tokens` right after each prompt (token ids).

    Neighbouring prompts that begin alike (the two orders of one item) share what they have in common.

    Returns:
        float64 [prompts, tokens]; NaN for a prompt longer than the model reads.
    """
    found = np.full((len(prompts), len(tokens)), np.nan)
    wanted = torch.tensor(list(tokens), device=subject.device)
    fit = [number for number, p in enumerate(prompts) if len(p) <= subject.max_length]
    rendered = [Rendered(list(prompts[number]), len(prompts[number]), len(prompts[number])) for number in fit]

    def score(packed: Packed) -> None:
        sequences = torch.tensor([span[0] for span in packed.spans], device=subject.device)
        ends = torch.tensor([span[4] for span in packed.spans], device=subject.device)
        with reading(subject, torch.zeros_like(packed.input_ids, dtype=torch.bool)):  # nothing but prompts
            logits = logits_at(subject.model, packed.inputs, sequences, ends)
        chances = logits.float().softmax(dim=1)[:, wanted]
        found[[fit[span[1]] for span in packed.spans]] = chances.cpu().double().numpy()

    in_batches_rendered(subject, rendered, [number // 2 for number in fit], score)
    return found

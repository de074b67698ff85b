"""How likely each answer label is to come next, whatever engine the subject runs on."""

from __future__ import annotations

from collections.abc import Sequence
from functools import singledispatch
from itertools import pairwise
from typing import Any

import numpy as np

from llm_persona.domain.errors import UserError
from llm_persona.subject.chat import render_prompt, render_upstream
from llm_persona.subject.load import Subject
from llm_persona.subject.score import next_token_probabilities


@singledispatch
def label_probabilities(subject: Any, prompts: Sequence[str], labels: Sequence[str], upstream: bool) -> np.ndarray:
    """Probability of each label right after each prompt (a user turn), float64 [prompts, labels].

    A label's probability is the sum over its single-token variants with and without a leading space; `upstream`
    counts only the bare label, and renders the prompt as the published TRAIT code does. A row is NaN where there is no
    probability: the prompt is longer than the model reads, or an API gave none.

    Raises:
        UserError: the tokenizer has no single token for a label.
    """
    raise TypeError(f"{type(subject).__name__} gives no label probabilities")


@label_probabilities.register
def _(subject: Subject, prompts: Sequence[str], labels: Sequence[str], upstream: bool = False) -> np.ndarray:
    tokens = [_bare(subject, label) if upstream else _variants(subject, label) for label in labels]
    if not all(tokens):
        raise UserError(f"the tokenizer has no single token for the labels {' '.join(labels)}")
    render = render_upstream if upstream else render_prompt
    flat = [token for group in tokens for token in group]
    found = next_token_probabilities(subject, [render(subject, prompt) for prompt in prompts], flat)
    edges = np.cumsum([0] + [len(group) for group in tokens]).tolist()
    return np.stack([found[:, a:b].sum(axis=1) for a, b in pairwise(edges)], axis=1)


def _bare(subject: Subject, label: str) -> list[int]:
    """The vocabulary entry that is the label itself, as the published code looks it up."""
    token = subject.tokenizer.convert_tokens_to_ids(label)
    return [] if token is None or token == subject.tokenizer.unk_token_id else [int(token)]


def _variants(subject: Subject, label: str) -> list[int]:
    """Every single token that reads as the label, with or without a space before it. Tokenizers differ in
    whether a text that begins with the label gets the one or the other."""
    found = _bare(subject, label)
    for text in (label, f" {label}"):
        ids = subject.tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(ids) == 1 and ids[0] not in found:
            found.append(int(ids[0]))
    return found


def prompts_fit(subject: Any, prompts: Sequence[str], upstream: bool = False, new: int = 0) -> list[bool]:
    """Which prompts the subject can read at once and go on for `new` tokens (all, for models behind an API: they say
    so themselves)."""
    if not isinstance(subject, Subject):
        return [True] * len(prompts)
    render = render_upstream if upstream else render_prompt
    return [len(render(subject, prompt)) + new <= subject.max_length for prompt in prompts]

"""A model that runs here as judge, read by the probabilities of whole numbers.

Tokenizers write numbers differently: SmolLM2 digit by digit, others several digits in a token. So the probability that
the reply is exactly the integer n is taken over the sequence: p(first token of n) * p(second | first) * ..., times the
probability that no further digit follows. That is exact for the reply's leading number (4 is not the beginning of 42),
and the 101 probabilities add up to at most 1. Besides the bare number, the form with a blank before it counts where
the tokenizer has the blank inside the token. All continuations hang on one prompt, which is computed once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from llm_persona.instruments.judging.protocol import JudgeRequest, Verdict
from llm_persona.instruments.judging.scoring import LEAST_MASS, verdict_of_mass
from llm_persona.subject.batched import in_batches_rendered
from llm_persona.subject.chat import Rendered, render_prompt
from llm_persona.subject.generate import generate
from llm_persona.subject.load import Subject, load_subject
from llm_persona.subject.locate import identify
from llm_persona.subject.logits import logits_at
from llm_persona.subject.packing import Packed
from llm_persona.subject.reading import reading
from llm_persona.subject.standing import as_it_stands

REPLY_TOKENS = 12
"""Tokens that a judge writes where its numbers carry too little probability: they tell a refusal from idle talk."""
VALUES = np.arange(101)


class LocalJudge:
    """A transformers model as judge, in the state it is in; loaded when the first answer has to be graded."""

    part = 16

    def __init__(self, identity: Callable[[], dict[str, Any]], load: Callable[[], Subject]) -> None:
        self._identity = identity
        self._load = load
        self._subject: Subject | None = None

    @classmethod
    def of(cls, subject: Subject) -> LocalJudge:
        """A judge from a subject that is in memory."""
        return cls(lambda: {**as_it_stands(subject), "system": subject.system}, lambda: subject)

    @property
    def identity(self) -> dict[str, Any]:
        """What decides its verdicts, as it stands now."""
        return {"kind": "local", "reading": "whole numbers", **self._identity()}

    def judge(self, requests: Sequence[JudgeRequest], progress: Callable[[int], None] | None = None) -> list[Verdict]:
        """One verdict a request; a prompt beyond the model's length is unscored."""
        if self._subject is None:
            self._subject = self._load()
        subject = self._subject
        prompts = [render_prompt(subject, request.prompt) for request in requests]
        room = subject.max_length - REPLY_TOKENS
        short = [n for n, prompt in enumerate(prompts) if len(prompt) <= room]
        found = {
            n: Verdict(None, f"prompt of {len(prompt)} tokens is beyond the judge's {subject.max_length}")
            for n, prompt in enumerate(prompts)
            if len(prompt) > room
        }
        if progress is not None and found:
            progress(len(found))
        chances = number_probabilities(subject, [prompts[n] for n in short], progress)
        masses = [math.fsum(row) for row in chances]  # the same however many rows there are
        vague = [n for n, mass in zip(short, masses, strict=True) if mass < LEAST_MASS]
        wrote = generate(subject, [requests[n].prompt for n in vague], REPLY_TOKENS) if vague else []
        replies = {n: answer.text for n, answer in zip(vague, wrote, strict=True)}
        for n, row, mass in zip(short, chances, masses, strict=True):
            score = float(row @ VALUES / mass) if mass > 0 else None
            found[n] = verdict_of_mass(score, mass, replies.get(n, str(int(row.argmax()))))
        return [found[n] for n in range(len(requests))]


def local_judge(model: str, dtype: str = "auto", device: str = "auto") -> LocalJudge:
    """A judge by the name of a model (as `--model` takes it); its weights are loaded when they are needed."""
    identity = {**identify(model, dtype, device), "system": None}
    return LocalJudge(lambda: identity, lambda: load_subject(model, None, dtype, device))


@dataclass(frozen=True)
class _Form:
    """One way to write an integer."""

    value: int
    tokens: tuple[int, ...]


@torch.no_grad()
def number_probabilities(
    subject: Subject, prompts: Sequence[list[int]], progress: Callable[[int], None] | None = None
) -> np.ndarray:
    """Probability that the reply to each prompt (token ids) begins with just the integer n, float64 [prompts, 101]."""
    forms = number_forms(subject)
    digits = torch.tensor(_digit_tokens(subject), dtype=torch.long)
    follow: dict[tuple[int, ...], set[int]] = {}
    for form in forms:
        for k, token in enumerate(form.tokens):
            follow.setdefault(form.tokens[:k], set()).add(token)
        follow.setdefault(form.tokens, set())
    contexts = sorted(follow)
    found = np.zeros((len(prompts), len(VALUES)))
    for row, prompt in enumerate(prompts):
        next_token: dict[tuple[int, ...], dict[int, float]] = {}
        next_digit: dict[tuple[int, ...], float] = {}
        _after(subject, prompt, contexts, partial(_note, follow, digits, next_token, next_digit))
        for form in forms:
            chance = math.prod(next_token[form.tokens[:k]][token] for k, token in enumerate(form.tokens))
            found[row, form.value] += chance * max(0.0, 1.0 - next_digit[form.tokens])
        if progress is not None:
            progress(1)
    return found


def _note(
    follow: dict[tuple[int, ...], set[int]],
    digits: torch.Tensor,
    next_token: dict[tuple[int, ...], dict[int, float]],
    next_digit: dict[tuple[int, ...], float],
    context: tuple[int, ...],
    chances: torch.Tensor,
) -> None:
    """Keep of a context's next-token probabilities what numbers need."""
    next_token[context] = {token: float(chances[token]) for token in follow[context]}
    next_digit[context] = float(chances[digits].sum())


def _after(
    subject: Subject,
    prompt: list[int],
    contexts: Sequence[tuple[int, ...]],
    take: Callable[[tuple[int, ...], torch.Tensor], None],
) -> None:
    """Give `take` each context with the probabilities of the token after it, float64 [vocabulary]."""
    rendered = [Rendered([*prompt, *context], len(prompt), len(prompt) + len(context)) for context in contexts]

    def read(packed: Packed) -> None:
        sequences = torch.tensor([span[0] for span in packed.spans], device=subject.device)
        # the last token of each branch: one before the end, or the prompt's own last where nothing follows it
        ends = torch.tensor([span[3] - 1 for span in packed.spans], device=subject.device)
        with reading(subject, packed.responses):
            logits = logits_at(subject.model, packed.inputs, sequences, ends).float().cpu().double().softmax(dim=1)
        for span, chances in zip(packed.spans, logits, strict=True):
            take(contexts[span[1]], chances)

    in_batches_rendered(subject, rendered, [0] * len(contexts), read)


def number_forms(subject: Subject) -> list[_Form]:
    """The token sequences that are counted for each integer 0 to 100."""
    forms = []
    for value in range(101):
        bare = tuple(subject.tokenizer(str(value), add_special_tokens=False)["input_ids"])
        spaced = tuple(subject.tokenizer(f" {value}", add_special_tokens=False)["input_ids"])
        forms.append(_Form(value, bare))
        if spaced != bare and len(spaced) <= len(bare):
            forms.append(_Form(value, spaced))
    return forms


def _digit_tokens(subject: Subject) -> list[int]:
    """Ids of all tokens that go on with a digit."""
    return [n for token, n in subject.tokenizer.get_vocab().items() if token[:1] in set("0123456789") and token]

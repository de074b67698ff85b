"""Let the subject write, in the state it is in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import torch

from llm_persona.domain.errors import UserError
from llm_persona.subject.chat import end_tokens, render_prompt
from llm_persona.subject.load import Subject
from llm_persona.subject.memory import halving
from llm_persona.subject.packing import BEYOND
from llm_persona.subject.reading import reading

NO_PROBABILITIES = (
    "the model's probabilities are not finite (NaN), so it cannot write; try --dtype float32, or a smaller dose"
)
BATCH = 64
"""Rows generated together: on a CPU a step costs about the same for 32 and for 64 rows."""


@dataclass(frozen=True)
class Answer:
    """What the subject wrote to one prompt. `finished` tells whether it ended its turn itself; `failed` why an
    engine gave nothing (then the text is empty)."""

    prompt: str
    text: str
    tokens: int
    finished: bool
    failed: str = ""


@singledispatch
def generate(
    subject: Any,
    prompts: Sequence[str],
    max_new_tokens: int = 128,
    system: str | None = None,
    temperature: float = 0.0,
    seed: int = 0,
    use_cache: bool = True,
    progress: Callable[[int], None] | None = None,
) -> list[Answer]:
    """Answers to the prompts (user turns), in their order; greedy unless a temperature is given.

    Raises:
        UserError: no prompts, a negative temperature, not one prompt within the model's length (one that is beyond it
            has an answer that `failed`), or a model whose probabilities are NaN.
    """
    raise TypeError(f"{type(subject).__name__} generates nothing")


def check_request(prompts: Sequence[str], max_new_tokens: int, temperature: float) -> None:
    """What every engine asks of a request for answers.

    Raises:
        UserError: no prompts, a negative temperature, or no new token to generate.
    """
    if not prompts:
        raise UserError("nothing to generate: no prompts were given")
    if temperature < 0 or max_new_tokens < 1:
        raise UserError("generate: the temperature must not be negative and max_new_tokens at least 1")


def check_samples(samples: int, temperature: float) -> None:
    """What every plan of several answers to one prompt has to meet.

    Raises:
        UserError: no sample, or several of them that could not differ.
    """
    if samples < 1 or (samples > 1 and temperature <= 0):
        raise UserError("several samples need a temperature above 0: greedy answers are all the same")


@generate.register
@torch.no_grad()
def _(
    subject: Subject,
    prompts: Sequence[str],
    max_new_tokens: int = 128,
    system: str | None = None,
    temperature: float = 0.0,
    seed: int = 0,
    use_cache: bool = True,
    progress: Callable[[int], None] | None = None,
) -> list[Answer]:
    check_request(prompts, max_new_tokens, temperature)
    rendered = [render_prompt(subject, prompt, system) for prompt in prompts]
    order, answers = plan_answers(subject, prompts, rendered, max_new_tokens)
    if progress is not None and answers:
        progress(len(answers))
    ends = end_tokens(subject)

    def write(chosen: Sequence[int]) -> None:
        subject.current_rows = list(chosen)
        found = _run(subject, [rendered[i] for i in chosen], max_new_tokens, temperature, ends, use_cache)
        for index, ids in zip(chosen, found, strict=True):
            answers[index] = read_answer(subject, prompts[index], ids, ends)
        if progress is not None:
            progress(len(chosen))

    try:
        with torch.random.fork_rng(devices=[subject.device] if subject.device.type == "cuda" else []):
            torch.manual_seed(seed)
            for first in range(0, len(order), BATCH):
                halving(write, order[first : first + BATCH], "prompts")
    finally:
        subject.current_rows = None
    return [answers[i] for i in range(len(prompts))]


def plan_answers(
    subject: Subject, prompts: Sequence[str], rendered: Sequence[list[int]], max_new_tokens: int
) -> tuple[list[int], dict[int, Answer]]:
    """Numbers of the prompts that fit the subject's length with their answer, shortest first, and the failed answers of
    those that do not.

    Raises:
        UserError: none fits.
    """
    room = subject.max_length - max_new_tokens
    order = sorted((i for i in range(len(prompts)) if len(rendered[i]) <= room), key=lambda i: len(rendered[i]))
    if not order:
        raise UserError(
            f"a prompt of {min(map(len, rendered))} tokens and {max_new_tokens} new ones exceed the model's "
            f"{subject.max_length}; shorten them"
        )
    beyond = f"{BEYOND} of {subject.max_length} tokens, {max_new_tokens} new ones included"
    return order, {i: Answer(prompts[i], "", 0, False, beyond) for i in range(len(prompts)) if len(rendered[i]) > room}


def read_answer(subject: Subject, prompt: str, ids: Sequence[int], ends: set[int]) -> Answer:
    """The answer that generated tokens hold, up to the first that ends a turn."""
    stop = next((n for n, token in enumerate(ids) if token in ends), None)
    own = list(ids) if stop is None else list(ids[:stop])
    text = subject.tokenizer.decode(own, skip_special_tokens=True).strip()
    return Answer(prompt, text, len(own), stop is not None)


def _refuse_nan(_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """The likeliest of probabilities that are none would be some token or other."""
    if scores.isnan().any():
        raise UserError(NO_PROBABILITIES)
    return scores


def _run(
    subject: Subject, prompts: list[list[int]], new: int, temperature: float, ends: set[int], use_cache: bool
) -> list[list[int]]:
    width = max(len(p) for p in prompts)
    ids = torch.full((len(prompts), width), subject.tokenizer.pad_token_id, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt, dtype=torch.long)
        mask[row, width - len(prompt) :] = 1
    sampling = (
        {"do_sample": True, "temperature": temperature, "top_p": 1.0, "top_k": 0}
        if temperature
        else {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    )
    with reading(subject, width):
        out = subject.model.generate(
            input_ids=ids.to(subject.device),
            attention_mask=mask.to(subject.device),
            max_new_tokens=new,
            use_cache=use_cache,
            pad_token_id=subject.tokenizer.pad_token_id,
            eos_token_id=sorted(ends) or None,
            logits_processor=[_refuse_nan],
            **sampling,
        )
    return [list(map(int, row)) for row in out[:, width:].cpu()]

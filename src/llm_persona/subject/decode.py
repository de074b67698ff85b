"""Token by token: the subject writes one answer, and each token can be seen as it comes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from llm_persona.domain.errors import UserError
from llm_persona.subject.chat import end_tokens
from llm_persona.subject.generate import NO_PROBABILITIES
from llm_persona.subject.load import Subject
from llm_persona.subject.reading import reading

HELD_BACK = "�"
"""What an incomplete character decodes to: text that ends so waits for the next token."""


@dataclass(frozen=True)
class Step:
    """One new token. `piece` is the token's own text, `text` what it adds to the answer (empty while a character is
    incomplete), `top` the likeliest tokens' texts with their log-probabilities, before temperature."""

    token: int
    piece: str
    text: str
    logprob: float
    top: tuple[tuple[str, float], ...]
    finish: str = ""
    """Why this was the last step: "stop" (the turn ended or a stop text came) or "length"; else empty."""


def decode(
    subject: Subject,
    prompt: Sequence[int],
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    top_logprobs: int = 0,
    stop: Sequence[str] = (),
    read_last: bool = False,
) -> Iterator[Step]:
    """Write an answer to the prompt (token ids), one step at a time; greedy unless a temperature is given.

    The subject must stay in one state until the last step. The end-of-turn token comes as the last step. A token is
    read in the forward that chooses the next one; with `read_last` the last token is read too, in a forward of its
    own after the last step, for those who look at the residual stream.

    Raises:
        UserError: prompt and new tokens exceed what the model reads.
    """
    if len(prompt) + max_new_tokens > subject.max_length:
        raise UserError(
            f"a prompt of {len(prompt)} tokens and {max_new_tokens} new ones exceed the model's {subject.max_length}; "
            "shorten them"
        )
    draw = torch.Generator(device="cpu").manual_seed(seed)
    ends = end_tokens(subject)
    written: list[int] = []
    shown = ""
    past: Any = None

    def read(tokens: Sequence[int]) -> torch.Tensor:
        """Log-probabilities [vocabulary] of what follows."""
        nonlocal past
        ids = torch.tensor([list(tokens)], device=subject.device)
        with torch.no_grad(), reading(subject, len(prompt)):  # not around the yield: the mode would leak out
            out = subject.model(input_ids=ids, past_key_values=past, use_cache=True, logits_to_keep=1)
        past = out.past_key_values
        values = out.logits[0, -1].float()
        logprobs = (values - values.logsumexp(dim=0)).cpu()
        if logprobs.isnan().any():
            raise UserError(NO_PROBABILITIES)
        return logprobs

    unread = list(prompt)
    for number in range(max_new_tokens):
        logprobs = read(unread)
        token = _choose(logprobs, temperature, top_p, draw)
        unread = [token]
        best = logprobs.topk(top_logprobs) if top_logprobs else None
        top = (
            ()
            if best is None
            else tuple(
                (subject.tokenizer.decode([other]), value)
                for other, value in zip(best.indices.tolist(), best.values.tolist(), strict=True)
            )
        )
        piece, value = subject.tokenizer.decode([token]), float(logprobs[token])
        if token in ends:
            rest = subject.tokenizer.decode(written, skip_special_tokens=True)[len(shown) :]
            yield Step(token, piece, rest, value, top, "stop")
            break
        written.append(token)
        text = subject.tokenizer.decode(written, skip_special_tokens=True)
        last = number + 1 == max_new_tokens
        cut = min((found for found in (text.find(mark) for mark in stop) if found >= 0), default=None)
        if cut is not None:
            yield Step(token, piece, text[len(shown) : cut], value, top, "stop")
            break
        held = text.endswith(HELD_BACK) and not last
        yield Step(token, piece, "" if held else text[len(shown) :], value, top, "length" if last else "")
        if not held:
            shown = text
    if read_last:
        read(unread)


def _choose(logprobs: torch.Tensor, temperature: float, top_p: float, draw: torch.Generator) -> int:
    if temperature <= 0:
        return int(logprobs.argmax())
    chances = (logprobs.double() / temperature).softmax(dim=0)
    if top_p < 1:
        ordered, index = chances.sort(descending=True)
        beyond = ordered.cumsum(dim=0) - ordered >= top_p
        chances[index[beyond]] = 0.0
    return int(torch.multinomial(chances, 1, generator=draw))

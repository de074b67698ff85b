"""Token by token, where a conversation lies along persona vectors: read whole, or live while the subject writes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from llm_persona.analysis.vectors import PersonaVector
from llm_persona.domain.conversations import Turn, turns_of
from llm_persona.domain.errors import UserError
from llm_persona.subject.chat import Layout, lay_out
from llm_persona.subject.decode import HELD_BACK, decode
from llm_persona.subject.load import Subject
from llm_persona.subject.reading import reading
from llm_persona.subject.token_reading import projecting
from llm_persona.subject.trace_readers import Reader, readers_for, zero_is

TEMPLATE = "template"
"""The role of tokens that the chat template puts in: turn marks, a default system turn."""

Conversation = str | Sequence[Mapping[str, str]]
"""A user turn, or chat messages with `role` and `content`."""


@dataclass(frozen=True)
class TracedToken:
    """One token. `text` is what it adds to the text (empty while a character is incomplete), `start` and `end` where in
    the trace's text; `turn` is the number of its message as rendered (None: the template's)."""

    id: int
    text: str
    start: int
    end: int
    role: str
    turn: int | None


@dataclass(frozen=True)
class Trace:
    """The tokens of a rendered conversation and their projections, float64 [tokens, vectors], in projection units.

    `answer` is the place of the last answer's first token (the number of prompt tokens). `finish`: why the subject
    stopped writing ("stop" or "length"); empty where the conversation was given, or is not at its end.
    """

    tokens: tuple[TracedToken, ...]
    projections: np.ndarray
    readers: tuple[Reader, ...]
    answer: int
    finish: str = ""

    @property
    def text(self) -> str:
        """The conversation as rendered."""
        return "".join(token.text for token in self.tokens)

    @property
    def roles(self) -> list[str]:
        """The role of each token: system, user, assistant or template."""
        return [token.role for token in self.tokens]

    @property
    def zeros(self) -> np.ndarray:
        """What counts as 0 pole gaps, in projection units [vectors]: midway between the poles' means on the rows the
        vector was fitted on, or, where the vector's file does not keep that, the mean over the prompt's own tokens."""
        own = [n for n, token in enumerate(self.tokens[: self.answer]) if token.turn is not None]
        mean = self.projections[own or slice(0, self.answer)].mean(axis=0)
        kept = [reader.vector.midpoint(reader.layer) for reader in self.readers]
        return np.array([mean[k] if x is None else x for k, x in enumerate(kept)])

    @property
    def pole_gaps(self) -> np.ndarray:
        """The projections less `zeros`, in measured pole gaps: float64 [tokens, vectors]; +0.5 is the high pole's mean
        where zero lies midway."""
        return (self.projections - self.zeros) / np.array([reader.pole_gap for reader in self.readers])

    @property
    def own_answer(self) -> list[int]:
        """Places of the last answer's own tokens, end of turn excluded."""
        return [n for n in range(self.answer, len(self.tokens)) if self.tokens[n].turn is not None]

    @property
    def prompt_last(self) -> np.ndarray:
        """Projections at the last prompt token, before a word of the answer is there: [vectors]."""
        return np.asarray(self.projections[self.answer - 1])

    @property
    def response_mean(self) -> np.ndarray | None:
        """Mean projections over the last answer's own tokens [vectors]; None where there is no answer."""
        return np.asarray(self.projections[self.own_answer].mean(axis=0)) if self.own_answer else None

    def as_json(self) -> dict[str, Any]:
        """Plain data: `vectors` (what was read, with `zero`, `prompt_last` and `response_mean`) and `tokens`."""
        gaps, mean, zeros = self.pole_gaps, self.response_mean, self.zeros
        vectors = [
            {
                **reader.as_json(),
                "zero": float(zeros[k]),
                "zero_is": zero_is(reader),
                "prompt_last": float(self.prompt_last[k]),
                "response_mean": None if mean is None else float(mean[k]),
            }
            for k, reader in enumerate(self.readers)
        ]
        rows = [
            {
                "id": token.id,
                "text": token.text,
                "start": token.start,
                "end": token.end,
                "role": token.role,
                "turn": token.turn,
                "projection": [float(x) for x in self.projections[n]],
                "pole_gaps": [float(x) for x in gaps[n]],
            }
            for n, token in enumerate(self.tokens)
        ]
        answer = "".join(self.tokens[n].text for n in self.own_answer)
        return {"vectors": vectors, "answer": answer, "answer_at": self.answer, "finish": self.finish, "tokens": rows}


def trace(
    subject: Subject,
    conversation: Conversation,
    vector: PersonaVector | Sequence[PersonaVector],
    layer: int | Sequence[int] | None = None,
) -> Trace:
    """Read a conversation in the state the subject is in: every token's projection on each vector's unit direction.

    The tokens are exactly those of the rendered chat. A conversation that ends with the user's turn is read up to
    where the answer would begin. The mean over the answer's own tokens is `record`'s `response_mean`; the last prompt
    token's is its `prompt_last` (the monitoring of Chen et al. 2025).

    Raises:
        IncompatibleVector: a vector of another width or number of layers.
        UserError: an empty or malformed conversation, one beyond the model's length, or no such layer.
    """
    readers = readers_for(subject, vector, layer)
    turns = turns_of(conversation)
    answered = turns[-1][0] == "assistant"
    layout = _laid_out(subject, turns, not answered)
    answer = _answer_start(layout) if answered else len(layout.ids)
    if len(layout.ids) > subject.max_length:
        raise UserError(
            f"a conversation of {len(layout.ids)} tokens exceeds the model's {subject.max_length}; shorten it"
        )
    ids = torch.tensor([layout.ids], device=subject.device)
    with torch.no_grad(), reading(subject, answer), _projecting(subject, readers) as values:
        subject.decoder(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    return Trace(_tokens(subject, layout), values(), readers, answer)


def trace_live(
    subject: Subject,
    conversation: Conversation,
    vector: PersonaVector | Sequence[PersonaVector],
    layer: int | Sequence[int] | None = None,
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    seed: int = 0,
) -> Iterator[Trace]:
    """Let the subject write the answer, and trace while it does: each trace is what was read so far.

    The first holds the prompt (before a word is written), each further one a token more, the last the whole with its
    `finish`. A token is read in the forward that chooses the next, so it comes when that one is known; its numbers are
    those that `trace` gives for the same tokens. The subject must stay in one state until the end.

    Raises:
        UserError: as `trace`; a conversation whose last turn is an answer already.
    """
    readers = readers_for(subject, vector, layer)
    turns = turns_of(conversation)
    if turns[-1][0] == "assistant":
        raise UserError("the conversation ends with an answer; there is nothing to write (give it to `trace`)")
    layout = _laid_out(subject, turns, True)
    texts = _Texts(subject)
    tokens = _tokens(subject, layout, texts)
    found = Trace(tokens, np.empty((0, len(readers))), readers, len(layout.ids))
    steps = decode(subject, layout.ids, max_new_tokens, temperature, seed=seed, read_last=True)
    written = None
    while True:
        with _projecting(subject, readers) as values:  # not around the yield: other forwards would be read too
            step = next(steps, None)
        if written is not None:
            ended = written.finish == "stop"
            text = texts.add(written.token)
            start = found.tokens[-1].end
            role, turn = (TEMPLATE, None) if ended else ("assistant", len(layout.roles))
            token = TracedToken(written.token, text, start, start + len(text), role, turn)
            found = replace(found, tokens=(*found.tokens, token), finish=written.finish)
        found = replace(found, projections=np.concatenate([found.projections, values()]))
        yield found
        if step is None:
            return
        written = step


def _laid_out(subject: Subject, turns: Sequence[Turn], answer_next: bool) -> Layout:
    if turns[0][0] == "system" and subject.system is not None:
        raise UserError("messages: they bring a system turn, and the condition sets one too; leave one of them out")
    return lay_out(subject, turns, subject.system, answer_next)


def _answer_start(layout: Layout) -> int:
    """Place of the last message's first token."""
    return layout.turns.index(len(layout.roles) - 1)


class _Texts:
    """What each token adds to the text, for any tokenizer: a token alone would lose a leading space in some."""

    def __init__(self, subject: Subject) -> None:
        self._tokenizer = subject.tokenizer
        self._context: list[int] = []
        self._open: list[int] = []

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def add(self, token: int) -> str:
        """The text that is whole with this token, "" while a character is incomplete."""
        self._open.append(token)
        text = self._decode([*self._context, *self._open])
        if text.endswith(HELD_BACK) and len(self._open) < 4:  # a character has four bytes at most
            return ""
        new = text[len(self._decode(self._context)) :]
        self._context, self._open = self._open, []
        return new


def _tokens(subject: Subject, layout: Layout, texts: _Texts | None = None) -> tuple[TracedToken, ...]:
    texts = texts or _Texts(subject)
    found, start = [], 0
    for token, turn in zip(layout.ids, layout.turns, strict=True):
        text = texts.add(token)
        role = TEMPLATE if turn is None else layout.roles[turn]
        found.append(TracedToken(token, text, start, start + len(text), role, turn))
        start += len(text)
    return tuple(found)


@contextmanager
def _projecting(subject: Subject, readers: Sequence[Reader]) -> Iterator[Callable[[], np.ndarray]]:
    """Yields what gives the projections [tokens, vectors] of the forward that ran inside."""
    units = {
        layer: np.stack([r.vector.unit(layer) for r in readers if r.layer == layer], axis=1)
        for layer in {r.layer for r in readers}
    }
    with projecting(subject, units) as seen:

        def values() -> np.ndarray:
            columns = {layer: iter(seen[layer].T) for layer in units}
            return np.stack([next(columns[reader.layer]) for reader in readers], axis=1)

        yield values

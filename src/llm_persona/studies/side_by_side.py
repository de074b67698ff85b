"""One question, two answers: the subject as it is and under a condition, each token read along persona vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from llm_persona.analysis.vectors import PersonaVector, projections
from llm_persona.domain.condition import BASE, Condition
from llm_persona.domain.errors import UserError
from llm_persona.domain.responses import Response
from llm_persona.subject.chat import end_tokens, render_prompt
from llm_persona.subject.decode import decode
from llm_persona.subject.load import Subject
from llm_persona.subject.record import record
from llm_persona.subject.token_reading import read_tokens


@dataclass(frozen=True, eq=False)
class Written:
    """An answer, finished or on its way. Projections are [..., vectors, layers], in projection units."""

    ids: tuple[int, ...] = ()
    """The prompt's tokens, then the answer's own (end of turn excluded)."""
    start: int = 0
    """Where the answer begins in `ids`."""
    pieces: tuple[str, ...] = ()
    """What each token adds to the text; empty while a character is incomplete."""
    finish: str = ""
    """"stop" (it ended its turn), "length", "halted" (by the reader), or empty: still on its way."""
    opening: np.ndarray | None = None
    """[vectors, layers]: the last prompt token as read by whoever writes, before a word is written."""
    by_itself: np.ndarray | None = None
    """[tokens, vectors, layers]: the answer as read by its writer, with what steering adds."""
    by_base: np.ndarray | None = None
    """[tokens, vectors, layers]: the answer after the bare question, as read by the subject without any condition."""

    @property
    def text(self) -> str:
        """The answer so far."""
        return "".join(self.pieces)


@dataclass(frozen=True, eq=False)
class Pair:
    """Both answers to one question. `other` is None where the condition changes nothing."""

    prompt: str
    condition: Condition
    base: Written = field(default_factory=Written)
    other: Written | None = None


@dataclass(frozen=True, eq=False)
class Zero:
    """Where the scale begins: mean projections over items that lean to no pole together.

    [layers, hidden] means of the activations, so that any vector can be placed on the scale: `prompt` over the last
    tokens of the items' questions, `response` over as many high as low responses to them.
    """

    prompt: np.ndarray
    response: np.ndarray
    prompts: np.ndarray
    """[n, layers, hidden]: each question's last token, for how far ordinary questions spread."""
    n_questions: int
    n_responses: int

    def gaps(self, values: np.ndarray, vectors: Sequence[PersonaVector], prompt: bool) -> np.ndarray:
        """Projections [..., vectors, layers] as distances from zero in pole gaps: 1 is the norm of the vector, the
        distance between the means of high and low responses it was fitted on."""
        mean = self.prompt if prompt else self.response
        middle = np.stack([projections(mean[None], v)[0] for v in vectors])
        norms = np.stack([v.norms for v in vectors])
        return (values - middle) / np.where(norms > 0, norms, np.nan)

    def spread(self, vector: PersonaVector) -> np.ndarray:
        """Standard deviation [layers], in pole gaps, of the questions' last tokens."""
        return np.asarray(projections(self.prompts, vector).std(axis=0, ddof=1) / vector.norms)


def find_zero(subject: Subject, rows: Sequence[Response]) -> Zero:
    """The zero of responses of both poles to several questions, read by the subject as it stands.

    Raises:
        UserError: fewer than two questions, or a pole without rows.
    """
    acts = record(subject, rows)
    rows, read = acts.kept(rows), acts.values
    firsts = list({row.group: row for row in reversed(rows)}.values())[::-1]
    high = np.array([row.pole == "high" for row in rows], dtype=bool)
    if len(firsts) < 2 or not high.any() or high.all():
        raise UserError(
            f"find_zero: {len(firsts)} questions, {int(high.sum())} high of {len(rows)} rows; give both poles"
        )
    response = (read[high].mean(axis=0) + read[~high].mean(axis=0)) / 2
    prompts = record(subject, firsts, "prompt_last").values
    return Zero(prompts.mean(axis=0), response, prompts, len(firsts), len(rows))


def opening_of(subject: Subject, prompt: str, condition: Condition, vectors: Sequence[PersonaVector]) -> np.ndarray:
    """The last prompt token along each vector under `condition`, before a word is written: [vectors, layers]."""
    with subject.under(condition):
        ids = render_prompt(subject, prompt)
        return read_tokens(subject, ids, len(ids), vectors)[0]


def side_by_side(
    subject: Subject,
    prompt: str,
    condition: Condition,
    vectors: Sequence[PersonaVector] = (),
    max_new_tokens: int = 64,
    known: Written | None = None,
    halted: Callable[[], bool] = lambda: False,
) -> Iterator[Pair]:
    """The pair as it grows, token by token, greedy: first both openings, then the base's answer, then the other's.

    The subject is in one state at a time and in its own between the steps of neither: the iteration must be driven to
    its end or closed, by one thread. `known`: the base's answer, if it has been written before. `halted` is asked at
    each token; what was written until then is kept and read.

    Raises:
        UserError: an empty question, a vector of another shape, or more tokens than the model reads.
    """
    if not prompt.strip():
        raise UserError("the question is empty; write one")
    changes = condition.system is not None or condition.adapter is not None or bool(condition.steers)
    plain = render_prompt(subject, prompt)
    base = known or Written(opening=opening_of(subject, prompt, BASE, vectors))
    other = Written(opening=opening_of(subject, prompt, condition, vectors)) if changes else None
    pair = Pair(prompt, condition, base, other)
    yield pair
    if not base.finish:
        for now in _write(subject, prompt, base, max_new_tokens, halted):
            base = now
            yield replace(pair, base=base)
        read = read_tokens(subject, base.ids, base.start, vectors)[1:]
        pair = replace(pair, base=replace(base, by_itself=read, by_base=read))
        yield pair
    if other is None or halted():
        return
    with subject.under(condition):
        for now in _write(subject, prompt, other, max_new_tokens, halted):
            other = now
            yield replace(pair, other=other)
        other = replace(other, by_itself=read_tokens(subject, other.ids, other.start, vectors)[1:])
    answer = other.ids[other.start :]
    yield replace(pair, other=replace(other, by_base=read_tokens(subject, [*plain, *answer], len(plain), vectors)[1:]))


def _write(
    subject: Subject, prompt: str, begun: Written, max_new_tokens: int, halted: Callable[[], bool]
) -> Iterator[Written]:
    """The answer under the subject's present state, a token longer at each step; the last one has a `finish`."""
    ids = render_prompt(subject, prompt)
    ends = end_tokens(subject)
    now = replace(begun, ids=tuple(ids), start=len(ids))
    for step in decode(subject, ids, max_new_tokens):
        if step.token in ends:  # it has no text of its own, but may bring what was held back
            pieces = (*now.pieces[:-1], now.pieces[-1] + step.text) if now.pieces else ()
            now = replace(now, pieces=pieces, finish=step.finish)
        else:
            finish = step.finish or ("halted" if halted() else "")
            now = replace(now, ids=(*now.ids, step.token), pieces=(*now.pieces, step.text), finish=finish)
        yield now
        if now.finish:
            return

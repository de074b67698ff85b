"""Projection difference: an answer's projection minus that of the subject's own answer to the same prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llm_persona.domain.errors import UserError
from llm_persona.domain.responses import Response
from llm_persona.subject.chat import render_prompt, render_response
from llm_persona.subject.generate import generate
from llm_persona.subject.load import Subject
from llm_persona.subject.packing import Row
from llm_persona.subject.record import Position, record

FORMS = ("projection_difference", "projection", "prompt_last")
EMPTY = "the model's own answer is empty"

Asked = tuple[str | None, str]
"""A system turn (None: the subject's) and a user turn."""


@dataclass(frozen=True)
class ProjectionDifference:
    """Projections on a unit direction [hidden] at one layer; own answers are greedy, of `max_new_tokens` at most."""

    unit: np.ndarray
    layer: int
    max_new_tokens: int

    def measure(self, subject: Subject, rows: Sequence[Row], wanted: Sequence[bool]) -> list[dict[str, Any]]:
        """Numbers of each row, in projection units, read by the subject in the state it is in (Chen et al. 2025).

        Args:
            wanted: for which rows the subject writes an answer of its own.

        Returns:
            A dict a row: `projection` (of its answer, response mean), `prompt_last` (that minus the projection of the
            last prompt token), and where wanted `projection_difference` (None, with a `reason`, if the subject has no
            answer of its own). A row that cannot be read has only `skipped`, the reason.
        """
        found: list[dict[str, Any]] = []
        openings: list[Row] = []
        for row in rows:
            try:
                openings.append(_opening(subject, row))
                found.append({})
            except UserError as error:
                found.append({"skipped": str(error)})
        usable = [(row, full) for row, full, f in zip(rows, wanted, found, strict=True) if not f]
        if not usable:
            return found
        own, reasons = self._own_answers(
            subject, list(dict.fromkeys((r.system, r.prompt) for r, full in usable if full))
        )
        mean = self._projections(subject, [*(row for row, _ in usable), *own.values()], "response_mean")
        last = self._projections(subject, openings, "prompt_last")
        of_own = dict(zip(own, mean[len(usable) :].tolist(), strict=True))
        readable = [numbers for numbers in found if not numbers]
        for numbers, (row, full), x, before in zip(
            readable, usable, mean[: len(usable)].tolist(), last.tolist(), strict=True
        ):
            numbers |= {"projection": x, "prompt_last": x - before}
            asked = (row.system, row.prompt)
            if full and asked in of_own:
                numbers["projection_difference"] = x - of_own[asked]
            elif full:
                numbers |= {"projection_difference": None, "reason": reasons[asked]}
        return found

    def _own_answers(self, subject: Subject, prompts: list[Asked]) -> tuple[dict[Asked, Row], dict[Asked, str]]:
        """The subject's answer to each prompt, or why there is none."""
        own: dict[Asked, Row] = {}
        reasons: dict[Asked, str] = {}
        by_system: dict[str | None, list[str]] = {}
        for system, prompt in prompts:
            length = len(render_prompt(subject, prompt, system))
            if length + self.max_new_tokens <= subject.max_length:
                by_system.setdefault(system, []).append(prompt)
            else:
                reasons[system, prompt] = (
                    f"a prompt of {length} tokens leaves no room for {self.max_new_tokens} new ones "
                    f"in the model's {subject.max_length}"
                )
        for system, texts in by_system.items():
            for answer in generate(subject, texts, self.max_new_tokens, system):
                row = Row(answer.prompt, answer.text, system)
                try:
                    render_response(subject, row.prompt, row.text, system)
                    own[system, row.prompt] = row
                except UserError as error:
                    reasons[system, row.prompt] = f"the model's own answer: {error}" if row.text else EMPTY
        return own, reasons

    def _projections(self, subject: Subject, rows: Sequence[Row], position: Position) -> np.ndarray:
        responses = [Response(r.prompt, r.text, "neutral", "", r.system) for r in rows]
        return record(subject, responses, position, layers=[self.layer]).values[:, 0].astype(np.float64) @ self.unit


def _opening(subject: Subject, row: Row) -> Row:
    """The row with only its answer's first word, if that leaves the prompt's tokens as they are: no later token changes
    what the last prompt token holds, so the rest need not be read again.

    Raises:
        UserError: the row cannot be rendered.
    """
    whole = render_response(subject, row.prompt, row.text, row.system)
    short = Row(row.prompt, row.text.split(maxsplit=1)[0], row.system)
    rendered = render_response(subject, short.prompt, short.text, short.system)
    return short if rendered.ids[: rendered.start] == whole.ids[: whole.start] else row

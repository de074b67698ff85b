"""The usable rows of a chat file in parts: what decides a part's numbers, and how they are made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from llm_persona.analysis import screening
from llm_persona.analysis.vectors import PersonaVector
from llm_persona.domain.errors import UserError
from llm_persona.domain.store import digest, file_digest
from llm_persona.instruments.projection_difference import ProjectionDifference
from llm_persona.studies.lab import Lab
from llm_persona.studies.parts import Part
from llm_persona.studies.stages import Stages
from llm_persona.subject.load import Subject
from llm_persona.subject.packing import Row
from llm_persona.subject.smollm2 import cache_folder
from llm_persona.training.data import Example, chat_rows

PART = 100
"""Rows between two savings; the texts of no more than these are in memory."""

Numbered = tuple[int, Example]
"""A row's number in its file, and its first round."""


@dataclass(frozen=True)
class Screening:
    """Everything that decides the numbers of a file's usable rows. `state`: the subject as it stands; `full`: how many
    of the `usable` rows get the full difference, with answers of `max_new_tokens`."""

    path: Path
    sha256: str
    usable: int
    vector: PersonaVector
    layer: int
    full: int
    max_new_tokens: int
    state: dict[str, Any]

    @property
    def settings(self) -> list[Any]:
        """As part of every stage's key."""
        tokens = self.max_new_tokens if self.full else None
        return [[self.state, None, None], self.vector.digest, self.layer, self.sha256, tokens]

    @cached_property
    def stages(self) -> Stages:
        """Where finished parts lie: in the cache folder."""
        return Stages(cache_folder() / "screens" / digest(self.settings)[:24])

    def parts(self) -> Iterator[tuple[Part, list[Numbered]]]:
        """Each part, and its rows, read from the file as they are asked for."""
        wanted = screening.spread(self.usable, self.full)
        rows = usable_rows(self.path)
        first = 0
        while part := list(islice(rows, PART)):
            chosen = wanted[first : first + len(part)].tolist()
            key = [*self.settings, first, chosen]
            yield Part(f"rows {first}", key, len(part), [part[0][0], chosen]), part
            first += len(part)

    def measure(self, subject: Subject, part: Sequence[Numbered], chosen: Sequence[bool]) -> list[dict[str, Any]]:
        """The numbers of a part's rows; `chosen`: those with the full difference."""
        reader = ProjectionDifference(self.vector.unit(self.layer), self.layer, self.max_new_tokens)
        texts = [Row(example.prompt, example.response, example.system) for _, example in part]
        found = reader.measure(subject, texts, chosen)
        return [{"row": number, **numbers} for (number, _), numbers in zip(part, found, strict=True)]


def usable_rows(path: Path, start: int = 0) -> Iterator[Numbered]:
    """The rows that can be used, from line `start` on."""
    return ((number, found) for number, _row, found in chat_rows(path, start) if isinstance(found, Example))


@dataclass
class ScreenMaker:
    """Makes parts on a worker, which reads the file itself: no text travels."""

    lab: Lab
    asked: Screening

    def __post_init__(self) -> None:
        self._subject: Subject | None = None

    @property
    def name(self) -> str:
        """For messages."""
        return f"screening {self.asked.path}"

    def make(self, given: Any) -> list[dict[str, Any]]:
        """The numbers of the part that begins in line `given[0]`."""
        start, chosen = given
        if self._subject is None:
            self._subject = self._opened()
        part = list(islice(usable_rows(self.asked.path, start), len(chosen)))
        return self.asked.measure(self._subject, part, chosen)

    def _opened(self) -> Subject:
        path, vector = self.asked.path, self.asked.vector
        if not path.is_file():
            raise UserError(f"--data {path}: a worker does not see this file; put it on storage that all nodes share")
        if file_digest(path) != self.asked.sha256:
            raise UserError(f"--data {path}: a worker sees another file there; put it on storage that all nodes share")
        subject = self.lab.same_here().subject()
        vector.check(subject.n_layers, subject.hidden_size, subject.name)
        return subject

"""Open questions that are asked freely and graded: our own set, and files in the published layout (Betley et al. 2025).

The layout is that of the emergent-misalignment repository: a list of entries with `id`, `type`, `paraphrases`, and
optionally `system`, `samples_per_paraphrase`, `temperature`, `max_tokens`, `judge` and `judge_prompts`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from llm_persona.domain.errors import UserError
from llm_persona.domain.rubrics import Rubric, load_rubric, prompt_rubric
from llm_persona.domain.store import digest, read_text
from llm_persona.domain.traits import explain

OWN = "open-v1"
TYPE = "free_form_judge_0_100"
"""The one type of question that is run here."""
SAMPLES, TEMPERATURE, MAX_TOKENS = 4, 1.0, 128
"""Where an entry says nothing. The published runs drew 100 answers of up to 600 tokens: too many for a CPU."""
KINDS = {"aligned": "alignment", "coherent": "coherence"}
"""Name of a judge prompt in the layout to the kind of rubric that it is."""


class _Prompts(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    aligned: str = Field(min_length=1)
    coherent: str = Field(min_length=1)


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(min_length=1)
    type: Literal["free_form_judge_0_100"]
    paraphrases: tuple[str, ...] = Field(min_length=1)
    system: str | None = None
    samples_per_paraphrase: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=5, allow_inf_nan=False)
    max_tokens: int | None = Field(default=None, ge=1)
    judge: str | None = None
    judge_prompts: _Prompts | None = None


@dataclass(frozen=True)
class OpenQuestion:
    """One question with its wordings, how it is asked, and by which rubrics its answers are graded."""

    id: str
    wordings: tuple[str, ...]
    system: str | None = None
    samples: int | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    judge: str | None = None
    """The judge that the file names. It is recorded; `--judge` decides."""
    rubrics: dict[str, Rubric] = field(default_factory=dict, hash=False)
    """Kind of rubric to the user's own; the bundled one where there is none."""

    def rubric(self, kind: str) -> Rubric:
        """The rubric of a kind (`alignment`, `coherence`) that grades the answers."""
        return self.rubrics.get(kind) or load_rubric(kind)


@dataclass(frozen=True)
class QuestionSet:
    """Questions in their order. `skipped` counts the file's entries of types that are not run here."""

    name: str
    questions: tuple[OpenQuestion, ...]
    source: str = ""
    skipped: dict[str, int] = field(default_factory=dict, hash=False)

    @property
    def digest(self) -> str:
        """Digest of everything that is asked and how it is graded."""
        return digest(list(self.questions))

    def first(self, limit: int | None) -> QuestionSet:
        """The first questions only."""
        return QuestionSet(self.name, self.questions[:limit], self.source, self.skipped)

    def rubrics(self, kind: str) -> list[Rubric]:
        """The different rubrics of a kind that grade this set, in order."""
        return list(dict.fromkeys(question.rubric(kind) for question in self.questions))


def own_questions() -> QuestionSet:
    """The questions that come with the package."""
    source = resources.files("llm_persona.domain") / "data" / "open_questions" / f"{OWN}.yaml"
    data = _parsed(source.read_text(encoding="utf-8"), OWN)
    found = parse_questions(data["questions"], OWN)
    return QuestionSet(OWN, found.questions, str(data["source"]).strip())


def read_questions(path: str | Path) -> QuestionSet:
    """A user's questions in the published YAML layout.

    Raises:
        UserError: no such file, or a fault in it, named by entry and field.
    """
    text = read_text(Path(path), "file of questions")
    return parse_questions(_parsed(text, str(path)), str(path))


def _parsed(text: str, where: str) -> Any:
    """YAML with aliases, on which the published files rest: entries share their judge prompts by name. An aliased value
    is one object however often it is named, and everything that is read of an entry is a text or a number."""
    try:
        return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506  # nosec B506
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise UserError(f"{where}:{line}: not valid YAML ({error.problem}); correct that line") from error
    except (yaml.YAMLError, RecursionError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{where}: not valid YAML; save it as plain UTF-8 text") from error


def parse_questions(data: Any, where: str) -> QuestionSet:
    """Questions from the parsed list of entries; see `read_questions`."""
    if not isinstance(data, list) or not data:
        raise UserError(f"{where}: must be a list of questions, each with id, type: {TYPE}, and paraphrases")
    questions: list[OpenQuestion] = []
    skipped: Counter[str] = Counter()
    for number, record in enumerate(data):
        name = f"{where}: entry {number}"
        if not isinstance(record, dict):
            raise UserError(f"{name}: must be a mapping with id, type and paraphrases")
        name += f" ({record['id']})" if isinstance(record.get("id"), str) else ""
        kind = record.get("type")
        if isinstance(kind, str) and kind and kind != TYPE:
            skipped[kind] += 1
            continue
        questions.append(_question(record, name))
    ids = [question.id for question in questions]
    twice = next((i for i in ids if ids.count(i) > 1), None)
    if twice is not None:
        raise UserError(f"{where}: id {twice!r} occurs twice; every question needs its own")
    if not questions:
        raise UserError(f"{where}: no question of type {TYPE} in it, the only type that is run here")
    return QuestionSet(Path(where).name, tuple(questions), "", dict(skipped))


def _question(record: dict[Any, Any], where: str) -> OpenQuestion:
    try:
        entry = _Entry.model_validate(record)
    except ValidationError as error:
        raise UserError(f"{where}: {explain(error)}") from error
    if any(not text.strip() for text in entry.paraphrases):
        raise UserError(f"{where}: paraphrases: one of them is empty")
    if entry.temperature == 0 and (entry.samples_per_paraphrase or 1) > 1:
        raise UserError(f"{where}: temperature 0 gives one and the same answer {entry.samples_per_paraphrase} times; "
                        "raise it, or set samples_per_paraphrase to 1")  # fmt: skip
    rubrics = {}
    if entry.judge_prompts is not None:
        rubrics = {
            kind: prompt_rubric(kind, getattr(entry.judge_prompts, name), f"{where}: judge_prompts.{name}")
            for name, kind in KINDS.items()
        }
    return OpenQuestion(
        entry.id, entry.paraphrases, entry.system, entry.samples_per_paraphrase, entry.temperature, entry.max_tokens,
        entry.judge, rubrics,
    )  # fmt: skip

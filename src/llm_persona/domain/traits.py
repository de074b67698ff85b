"""Traits: what is measured, with its instruction pairs, questions, rubric and items, in one file."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache
from importlib import metadata, resources
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from llm_persona.domain.errors import UserError, one_line
from llm_persona.domain.items import Item, Split, parse_item
from llm_persona.domain.store import digest, read_text

Pole = Literal["high", "low"]
POLES: tuple[Pole, ...] = ("high", "low")
Level = Literal["pair", "name", "description", "facets"]
LEVELS: tuple[Level, ...] = ("pair", "name", "description", "facets")
"""How much an instruction says of the persona."""
ORDER = (
    "openness",
    "conscientiousness",
    "extraversion",
    "agreeableness",
    "neuroticism",
    "machiavellianism",
    "narcissism",
    "psychopathy",
)
DRAFTED = "drafted, unreviewed"
"""Status of a trait that a model has written and no person has read."""
TRAIT_NAME = r"^[a-z][a-z0-9_-]{1,40}$"
"""Names are parts of file names and of JSON keys."""
ENTRY_POINT = "llm_persona.traits"
"""Packages add traits under this entry-point group; each entry is the path of a trait file."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)


class Facet(_Strict):
    """One aspect of a trait, with what a person at either pole does."""

    name: str = Field(min_length=1)
    source: str = ""
    high: str = Field(min_length=1)
    low: str = Field(min_length=1)


class InstructionPair(_Strict):
    """Two system prompts of the same length and form, one per pole."""

    id: str
    split: Split
    high: str = Field(min_length=1)
    low: str = Field(min_length=1)


class Question(_Strict):
    """An open question that leans to neither pole."""

    id: str
    split: Split
    text: str = Field(min_length=1)


class PoleTexts(_Strict):
    """A text for each pole."""

    high: str = Field(min_length=1)
    low: str = Field(min_length=1)


class PoleWords(_Strict):
    """Adjectives for each pole."""

    high: tuple[str, ...] = Field(min_length=1)
    low: tuple[str, ...] = Field(min_length=1)


class Trait(_Strict):
    """Everything llm-persona knows of one trait. `llm-persona traits new` writes a template that explains it."""

    format: Literal[1]
    name: str = Field(pattern=TRAIT_NAME)
    title: str
    family: str
    definition: str
    source: str
    status: str = ""
    """Who has read it: a drafted trait says `drafted, unreviewed`. It decides no number."""
    sentiment: Literal["balanced", "uneven"] = "balanced"
    sentiment_reason: str = ""
    adjectives: PoleWords
    descriptions: PoleTexts
    facets: tuple[Facet, ...] = Field(min_length=1)
    instruction_pairs: tuple[InstructionPair, ...] = Field(min_length=1)
    questions: tuple[Question, ...] = Field(min_length=1)
    rubric: str
    items: tuple[dict[str, Any], ...] = Field(min_length=1)

    @field_validator("rubric")
    @classmethod
    def _has_fields(cls, value: str) -> str:
        for name in ("{question}", "{answer}"):
            if value.count(name) != 1:
                raise ValueError(f"must contain {name} exactly once")
        return value

    @model_validator(mode="after")
    def _ids_are_unique(self) -> Trait:
        for kind in ("instruction_pairs", "questions"):
            ids = [entry.id for entry in getattr(self, kind)]
            twice = next((i for i in ids if ids.count(i) > 1), None)
            if twice:
                raise ValueError(f"{kind}: id {twice!r} occurs twice")
        return self

    @cached_property
    def bank(self) -> tuple[Item, ...]:
        """The trait's own items."""
        items = [
            parse_item({"trait": self.name, **record}, f"trait {self.name}: items[{number}]", f"{self.name}-{number}")
            for number, record in enumerate(self.items)
        ]
        ids = [item.id for item in items]
        twice = next((i for i in ids if ids.count(i) > 1), None)
        if twice:
            raise UserError(f"trait {self.name}: item id {twice!r} occurs twice")
        contents = [item.content_digest for item in items]
        copy = next((i.id for i in items if contents.count(i.content_digest) > 1), None)
        if copy:
            raise UserError(f"trait {self.name}: item {copy!r} stands there twice; splits must not share a question")
        return tuple(items)

    @property
    def digest(self) -> str:
        """Digest of the whole definition, items included; who has reviewed it does not count."""
        return digest(self.model_dump(exclude={"status"}))

    def pairs(self, split: Split) -> list[InstructionPair]:
        """Instruction pairs of one split (all of them if the split has none)."""
        return [p for p in self.instruction_pairs if p.split == split] or list(self.instruction_pairs)

    def questions_of(self, split: Split) -> list[Question]:
        """Open questions of one split."""
        return [q for q in self.questions if q.split == split]

    def instruction(self, pole: str, level: Level = "pair") -> str:
        """The system prompt for `--instruct`. `neutral` asks for a plain answer, whatever the level.

        `pair` is the trait's held-out instruction pair, so that no vector was fitted under the words that are
        measured. `name` says no more than the trait's name, `description` describes the pole, `facets` goes on with
        what a person at that pole does in each facet.

        Raises:
            UserError: an unknown pole or level.
        """
        if pole == "neutral":
            return "You are an assistant. Answer the user's question plainly and briefly."
        if pole not in POLES:
            raise UserError(f"--instruct {pole!r}: choose high, low or neutral")
        if level == "pair":
            return str(getattr(self.pairs("test")[0], pole))
        if level == "name":
            return f"You are a person who is very {pole} in {self.title[0].lower()}{self.title[1:]}."
        described = str(getattr(self.descriptions, pole))
        if level == "description":
            return described
        if level == "facets":
            return " ".join([described, *(str(getattr(facet, pole)) for facet in self.facets)])
        raise UserError(f"--level {level!r}: choose one of {', '.join(LEVELS)}")


def list_traits() -> list[str]:
    """Names of all installed traits: ours in the literature's order, then those of other packages."""
    folder = resources.files("llm_persona.domain") / "data" / "traits"
    ours = {entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml")}
    known = [name for name in ORDER if name in ours] + sorted(ours - set(ORDER))
    return known + sorted(e.name for e in metadata.entry_points(group=ENTRY_POINT) if e.name not in ours)


def load_trait(name: str | Path) -> Trait:
    """A trait by its name, or from a user's own YAML file.

    Raises:
        UserError: unknown name, or a fault in the file (named by field).
    """
    text = str(name)
    if text.endswith((".yaml", ".yml")):
        return read_trait(Path(text))
    if text not in list_traits():
        raise UserError(f"unknown trait {text!r}; known: {', '.join(list_traits())}; or give a trait's .yaml file")
    return _installed(text)


@lru_cache(maxsize=32)
def _installed(name: str) -> Trait:
    entry = resources.files("llm_persona.domain") / "data" / "traits" / f"{name}.yaml"
    if entry.is_file():
        return parse_trait(entry.read_text(encoding="utf-8"), f"trait {name}")
    for point in metadata.entry_points(group=ENTRY_POINT):
        if point.name == name:
            return read_trait(Path(point.load()))
    raise UserError(f"trait {name!r}: its file is missing from the installation; reinstall the package")


def read_trait(path: Path) -> Trait:
    """Read a trait file."""
    return parse_trait(read_text(path, "trait file"), str(path))


def parse_yaml(text: str, where: str) -> Any:
    """Parse YAML safely (C parser where there is one: ten times faster), naming the line of a fault.

    Aliases are refused: a few lines of them can stand for more data than any memory holds.
    """
    try:
        if "&" in text:
            for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
                if isinstance(event, yaml.AliasEvent):
                    line = event.start_mark.line + 1 if event.start_mark else "?"
                    name = str(event.anchor)[:40]
                    raise UserError(f"{where}:{line}: uses the alias *{name}; write the value out there")
        return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506  # nosec B506
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        said = one_line(str(error.problem), 160)
        raise UserError(f"{where}:{line}: not valid YAML ({said}); correct that line") from error
    except (yaml.YAMLError, RecursionError, ValueError, LookupError, TypeError, AttributeError) as error:
        # (a tag on a value that is no such thing, as `!!int ""`, is none of YAML's own errors)
        raise UserError(f"{where}: not valid YAML; save it as plain UTF-8 text, values without tags") from error


def explain(error: ValidationError) -> str:
    """The first fault of a validation as 'field: what is wrong', and how many more there are."""
    faults = error.errors()
    place = one_line(".".join(str(p) for p in faults[0]["loc"]), 120) or "file"
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return f"{place}: {one_line(faults[0]['msg'], 300)}{more}"


def parse_trait(text: str, where: str) -> Trait:
    """A trait from YAML text; every fault raises `UserError` naming `where` and the field."""
    data = parse_yaml(text, where)
    if not isinstance(data, dict):
        raise UserError(f"{where}: a trait file is a mapping of fields; see `llm-persona traits new`")
    try:
        trait = Trait.model_validate(data)
    except ValidationError as error:
        raise UserError(f"{where}: {explain(error)}") from error
    try:
        _ = trait.bank  # parse the items now, while the file can be named
    except UserError as error:
        raise UserError(str(error) if where.startswith("trait ") else f"{where}: {error}") from error
    return trait


def facet_names(trait: Trait) -> Sequence[str]:
    """Facet names in the file's order."""
    return [facet.name for facet in trait.facets]

"""Rubrics: what a judge is asked, as versioned texts with named fields, worded by us."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

from llm_persona.domain.errors import UserError
from llm_persona.domain.store import digest
from llm_persona.domain.traits import Trait

CURRENT = {"trait": "trait-v1", "coherence": "coherence-v1", "alignment": "alignment-v1"}
"""The version of each rubric in use. A changed wording is a new file, so that older scores keep their meaning."""
TRAIT_FIELDS = ("trait", "definition", "rubric")
PAIR = ("question", "answer")
_FIELD = re.compile(r"\{(\w+)\}")
_MARK = re.compile(r"([<\[])(?=\s*+/?\s*+(?:question|answer)\b)", re.IGNORECASE)
_ALONE = re.compile(
    r"^[ \t]*+(?:(?:the )?(?:question|answer)[ \t]*+:?[ \t]*+\n?)?[ \t]*+[\"']?\{(?:question|answer)\}[\"']?[ \t]*$",
    re.IGNORECASE | re.MULTILINE,
)


@dataclass(frozen=True)
class Rubric:
    """One rubric: `name` with its version (`trait-v1`) and its text with fields in braces."""

    name: str
    text: str

    @property
    def kind(self) -> str:
        """The name without its version."""
        return self.name.rpartition("-v")[0]

    @property
    def digest(self) -> str:
        """Digest of the wording: what scores by this rubric depend on."""
        return digest([self.name, self.text])

    @property
    def needs_trait(self) -> bool:
        """Whether the text speaks of a trait."""
        return any(field in TRAIT_FIELDS for field in _FIELD.findall(self.text))

    @property
    def swaps(self) -> bool:
        """Whether question and answer each stand in a paragraph of their own, so that their order can be turned."""
        return all(
            _FIELD.findall(p) in ([], [field]) for field in PAIR for p in _paragraphs(self.text) if f"{{{field}}}" in p
        )

    def fill(self, question: str, answer: str, trait: Trait | None = None, answer_first: bool = False) -> str:
        """The judge's prompt for one answer.

        Fields are filled once, so braces inside an answer stay as they are; marks of the question or the answer inside
        their own text are broken, so that no answer can end its own block. `answer_first` swaps the two blocks.

        Raises:
            UserError: the rubric speaks of a trait and none is given.
        """
        if self.needs_trait and trait is None:
            raise UserError(f"rubric {self.name}: grades a trait and none is given; add --trait")
        values = {"question": _MARK.sub(r"\1 ", question.strip()), "answer": _MARK.sub(r"\1 ", answer.strip())}
        if trait is not None:
            values |= {"trait": trait.title, "definition": trait.definition.strip(), "rubric": criteria(trait)}
        text = _swapped(self.text) if answer_first else self.text
        return _FIELD.sub(lambda match: values[match.group(1)], text)


def criteria(trait: Trait) -> str:
    """A trait's own rubric without its places for question and answer, which our rubrics bring themselves."""
    text = _ALONE.sub("", trait.rubric)
    text = text.replace("{question}", "the question below").replace("{answer}", "the answer below")
    return re.sub(r"\n{3,}", "\n\n", text).strip()


@lru_cache(maxsize=16)
def load_rubric(name: str) -> Rubric:
    """A bundled rubric: by kind (`trait`, `coherence`, `alignment`: the version in use) or with its version.

    Raises:
        UserError: no such rubric, or its text lacks a field or has an unknown one.
    """
    full = CURRENT.get(name, name)
    source = resources.files("llm_persona.domain") / "data" / "rubrics" / f"{full}.txt"
    if not re.fullmatch(r"[a-z]+-v\d+", full) or not source.is_file():
        raise UserError(f"rubric {name!r}: there is none; choose {', '.join(CURRENT)}, or one with its version")
    return parse_rubric(full, source.read_text(encoding="utf-8"))


def parse_rubric(name: str, text: str) -> Rubric:
    """A rubric from its text.

    Raises:
        UserError: an unknown field, or `{question}` and `{answer}` not each in one paragraph of its own.
    """
    found = _FIELD.findall(text)
    unknown = sorted(set(found) - {*TRAIT_FIELDS, *PAIR})
    if unknown:
        known = ", ".join((*TRAIT_FIELDS, *PAIR))
        raise UserError(f"rubric {name}: unknown field {{{unknown[0][:60]}}}; known are {known}")
    for field in PAIR:
        paragraphs = [p for p in _paragraphs(text) if f"{{{field}}}" in p]
        if found.count(field) != 1 or _FIELD.findall(paragraphs[0]) != [field]:
            raise UserError(f"rubric {name}: field {{{field}}} must stand once, in a paragraph of its own")
    return Rubric(name, text.strip("\n"))


def prompt_rubric(kind: str, text: str, where: str) -> Rubric:
    """A rubric from a judge prompt that a user brings; its version is the digest of its wording.

    Raises:
        UserError: `{question}` and `{answer}` do not each stand there once, or another field does.
    """
    found = _FIELD.findall(text)
    for field in PAIR:
        if found.count(field) != 1:
            raise UserError(f"{where}: a judge's prompt must hold {{{field}}} exactly once, and has it "
                            f"{found.count(field)} times")  # fmt: skip
    unknown = sorted(set(found) - set(PAIR))
    if unknown:
        raise UserError(f"{where}: unknown field {{{unknown[0]}}}; a judge's prompt is filled with {{question}} and "
                        "{answer} only")  # fmt: skip
    return Rubric(f"{kind}-v{digest(text)[:12]}", text.strip("\n"))


def _paragraphs(text: str) -> list[str]:
    return re.split(r"\n[ \t]*\n", text)


def _swapped(text: str) -> str:
    """The text with the paragraphs of question and answer in each other's place."""
    paragraphs = _paragraphs(text)
    places = [next(n for n, p in enumerate(paragraphs) if f"{{{field}}}" in p) for field in PAIR]
    first, second = places
    paragraphs[first], paragraphs[second] = paragraphs[second], paragraphs[first]
    return "\n\n".join(paragraphs)

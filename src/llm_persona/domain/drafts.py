"""Parts of a drafted trait: what is asked of a writer, what its reply must hold, and how the parts become a trait."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from llm_persona.domain.errors import one_line
from llm_persona.domain.items import REQUIRED, SPLITS, Split
from llm_persona.domain.traits import DRAFTED, Facet, PoleTexts, PoleWords

PAIRS: tuple[Split, ...] = ("fit", "fit", "fit", "fit", "select", "test")
QUESTIONS: tuple[Split, ...] = ("fit", "fit", "test", "fit", "select", "fit", "test", "test") * 5
"""Splits of the pairs and of the questions, in their order: 20 questions fit, 5 select, 15 test."""
DOMAINS = (
    "work", "home", "family", "friends", "money", "leisure", "travel", "study", "health", "community", "strangers",
    "online",
)  # fmt: skip
ITEM_TEXTS = (*REQUIRED, "statement", "paraphrased_situation", "paraphrased_query")
SNIPPET = 100
"""Characters of a reply that an error shows."""
ASKED = (
    "\n\nQuestion:\n{question}\n\nAnswer:\n{answer}\n\nReply with one whole number from 0 (the low end) over 50 "
    "(no sign) to 100 (the high end), or with REFUSAL if the answer declines."
)


class Unusable(Exception):
    """A reply that cannot be used; says what is wrong with it. `no_json`: it holds no JSON object at all."""

    def __init__(self, fault: str, no_json: bool = False) -> None:
        super().__init__(fault)
        self.no_json = no_json


class Core(BaseModel):
    """What a trait is, before pairs, questions and items."""

    model_config = ConfigDict(extra="ignore", frozen=True, str_strip_whitespace=True)

    title: str = Field(min_length=2, max_length=80)
    family: str = Field(default="custom", min_length=2, max_length=40)
    definition: str = Field(min_length=60, max_length=2000)
    source: str = Field(min_length=3, max_length=1000)
    sentiment: Literal["balanced", "uneven"] = "balanced"
    sentiment_reason: str = ""
    adjectives: PoleWords
    descriptions: PoleTexts
    facets: tuple[Facet, ...] = Field(min_length=3, max_length=8)
    rubric: str = Field(min_length=80, max_length=4000)

    @field_validator("rubric")
    @classmethod
    def _plain(cls, value: str) -> str:
        if "{" in value or "}" in value:
            raise ValueError("must hold no braces; question and answer are added to it")
        return value

    @field_validator("facets")
    @classmethod
    def _different(cls, value: tuple[Facet, ...]) -> tuple[Facet, ...]:
        if len({facet.name.lower() for facet in value}) < len(value):
            raise ValueError("two facets have one name")
        return value


@dataclass(frozen=True)
class Place:
    """Where an item belongs: its number from 1, split, facet and domain."""

    number: int
    split: Split
    facet: str
    domain: str


def places(count: int, facets: Sequence[str]) -> list[Place]:
    """`count` places, half fit, three sixteenths select, the rest test; every facet and domain about equally often."""
    fit, select = count // 2, round(count * 3 / 16)
    found, within = [], dict.fromkeys(SPLITS, 0)
    for n in range(count):
        split: Split = "fit" if n < fit else "select" if n < fit + select else "test"
        facet = facets[within[split] % len(facets)]
        within[split] += 1
        found.append(Place(n + 1, split, facet, DOMAINS[(n + n // len(DOMAINS)) % len(DOMAINS)]))
    return found


@lru_cache(maxsize=16)
def template(name: str) -> str:
    """The text of a request; fields in braces are filled by `fill`."""
    source = resources.files("llm_persona.domain") / "data" / "drafting" / f"{name}.txt"
    return source.read_text(encoding="utf-8").strip()


def fill(part: str, /, **values: str) -> str:
    """A request with its fields filled, each once; braces of the JSON that it shows stay."""
    return re.sub(r"\{(\w+)\}", lambda m: values.get(m.group(1), m.group(0)), template(part))


def json_of(text: str, cut: bool = False) -> dict[str, Any]:
    """The JSON object in a reply, whatever stands around it.

    Raises:
        Unusable: there is none, or it is faulty or cut off.
    """
    start = text.find("{")
    shown = one_line(text, SNIPPET) or "nothing"
    if start < 0:
        raise Unusable(f"no JSON object in the reply ({shown!r})", no_json=True)
    try:
        found, _ = json.JSONDecoder().raw_decode(text[start:])
    except (json.JSONDecodeError, RecursionError) as error:
        said = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply"
        why = "the reply was cut off at its greatest length" if cut else f"not valid JSON ({said})"
        raise Unusable(f"{why}; it begins {shown!r}") from error
    return dict(found)


def core_of(data: Mapping[str, Any]) -> Core:
    """The definition in a reply's object.

    Raises:
        Unusable: names each field that is missing or wrong.
    """
    try:
        return Core.model_validate(dict(data))
    except ValidationError as error:
        faults = [f"{'.'.join(str(p) for p in fault['loc'])}: {fault['msg']}" for fault in error.errors()]
        raise Unusable("; ".join(one_line(fault, 160) for fault in faults[:12])) from error


def pairs_of(data: Mapping[str, Any]) -> tuple[list[dict[str, str]], list[str]]:
    """(usable pairs, faults of the others)."""
    found: list[dict[str, str]] = []
    faults = []
    for number, entry in enumerate(_list(data, "pairs"), 1):
        texts = {pole: _text(entry, pole) for pole in ("high", "low")}
        sizes = [len(text.split()) for text in texts.values()]
        if not all(texts.values()):
            faults.append(f"pair {number}: high or low is missing")
        elif max(sizes) > 1.25 * min(sizes):
            faults.append(f"pair {number}: high has {sizes[0]} words and low {sizes[1]}; they must be equally long")
        elif texts["high"].lower() == texts["low"].lower():
            faults.append(f"pair {number}: high and low are the same")
        else:
            found.append(texts)
    return found, faults


def questions_of(data: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """(usable questions, faults of the others)."""
    found, faults = [], []
    for number, entry in enumerate(_list(data, "questions"), 1):
        text = entry.strip() if isinstance(entry, str) else _text(entry, "text")
        if not text:
            faults.append(f"question {number}: is no text")
        elif len(text.split()) > 40:
            faults.append(f"question {number}: has {len(text.split())} words; at most 25 are asked for")
        else:
            found.append(text)
    return found, faults


def items_of(data: Mapping[str, Any], asked: Sequence[Place]) -> tuple[dict[int, dict[str, str]], dict[int, list[str]]]:
    """(place to its texts where all are there, place to its faults)."""
    entries: dict[int, Any] = {}
    for entry in _list(data, "items"):
        number = entry.get("place") if isinstance(entry, dict) else None
        if isinstance(number, (int, str)) and str(number).isdigit() and int(number) not in entries:
            entries[int(number)] = entry
    found, faults = {}, {}
    for place in asked:
        entry = entries.get(place.number)
        texts = {name: _text(entry, name) for name in ITEM_TEXTS}
        missing = [name for name, text in texts.items() if not text or len(text) > 2000]
        if entry is None:
            faults[place.number] = ["no item came for this place"]
        elif missing:
            faults[place.number] = [f"{', '.join(missing)}: missing, or no text of a usable length"]
        else:
            found[place.number] = texts
    return found, faults


def assembled(
    name: str,
    author: str,
    core: Core,
    pairs: Sequence[Mapping[str, str]],
    questions: Sequence[str],
    items: Sequence[tuple[Place, Mapping[str, str]]],
) -> dict[str, Any]:
    """The parts as the mapping of a trait file, marked as drafted; parts may be missing at the end."""
    return {
        "format": 1,
        "name": name,
        "title": core.title,
        "family": core.family,
        "definition": core.definition,
        "source": f"Drafted by {author}, which names as its source: {core.source}",
        "status": DRAFTED,
        "sentiment": core.sentiment,
        "sentiment_reason": core.sentiment_reason,
        "adjectives": {pole: list(getattr(core.adjectives, pole)) for pole in ("high", "low")},
        "descriptions": core.descriptions.model_dump(),
        "facets": [facet.model_dump() for facet in core.facets],
        "instruction_pairs": [
            {"id": f"{name}-i{n + 1}", "split": split, **pair}
            for n, (split, pair) in enumerate(zip(PAIRS, pairs, strict=False))
        ],
        "questions": [
            {"id": f"{name}-q{n + 1:02d}", "split": split, "text": text}
            for n, (split, text) in enumerate(zip(QUESTIONS, questions, strict=False))
        ],
        "rubric": core.rubric + ASKED,
        "items": [
            {
                "id": f"{name}-{place.number:03d}",
                "split": place.split,
                "facet": place.facet,
                "domain": place.domain,
                **{field: texts[field] for field in ("statement", *(f for f in ITEM_TEXTS if f != "statement"))},
            }
            for place, texts in items
        ],
    }


def _list(data: Mapping[str, Any], name: str) -> list[Any]:
    found = data.get(name)
    if not isinstance(found, list) or not found:
        raise Unusable(
            f"the object holds no list {name!r} (it has {', '.join(map(str, list(data)[:6])) or 'no field'})"
        )
    return found


def _text(entry: Any, name: str) -> str:
    found = entry.get(name) if isinstance(entry, dict) else None
    return found.strip() if isinstance(found, str) else ""

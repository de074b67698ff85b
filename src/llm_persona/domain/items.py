"""TRAIT items: a situation, a query, two high and two low responses, and a fixed split."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast, overload

from llm_persona.domain.errors import UserError
from llm_persona.domain.store import digest, digest_of_list

Split = Literal["fit", "select", "test"]
SPLITS: tuple[Split, ...] = ("fit", "select", "test")
OPTIONS = ("response_high1", "response_low1", "response_high2", "response_low2")
"""The published order of the options in the forward direction (Lee et al. 2024)."""
REQUIRED = ("situation", "query", "response_high1", "response_high2", "response_low1", "response_low2")
TEXT_LIMIT = 20_000
HALF_PAIR = re.compile("[\ud800-\udfff]")
"""JSON can escape half of a surrogate pair, which is no character."""
NO_CHARACTER = "holds half of a surrogate pair, which no tokenizer takes; write the character whole"


@dataclass(frozen=True)
class Item:
    """One question of the benchmark, in the upstream layout (Lee et al. 2024)."""

    id: str
    situation: str
    query: str
    response_high1: str
    response_high2: str
    response_low1: str
    response_low2: str
    split: Split
    trait: str = ""
    facet: str = ""
    domain: str = ""
    statement: str = ""
    paraphrased_situation: str = ""
    paraphrased_query: str = ""
    likelihood: dict[str, float] | None = field(default=None, hash=False)
    likelihood_rev: dict[str, float] | None = field(default=None, hash=False)

    @property
    def prompt(self) -> str:
        """The user turn of likelihood mode: situation, a space, query."""
        return f"{self.situation} {self.query}"

    @property
    def responses(self) -> dict[str, str]:
        """Option name to text, in the published forward order."""
        return {name: getattr(self, name) for name in OPTIONS}

    def paraphrased(self) -> Item:
        """The same item with its situation and query in other words.

        Raises:
            UserError: the item has no paraphrase.
        """
        if not (self.paraphrased_situation and self.paraphrased_query):
            raise UserError(
                f"item {self.id}: has no paraphrased_situation and paraphrased_query; leave paraphrases out"
            )
        return replace(self, situation=self.paraphrased_situation, query=self.paraphrased_query)

    @property
    def content_digest(self) -> str:
        """Identity by what is read, so that a renamed copy of an item is still the same item."""
        return digest([self.situation, self.query, *self.responses.values()])


class Items(Sequence[Item]):
    """An immutable sequence of items; slices and splits are `Items` too."""

    def __init__(self, items: Sequence[Item], source: str) -> None:
        self._items = tuple(items)
        self.source = source

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> Items: ...
    def __getitem__(self, index: int | slice) -> Item | Items:
        if isinstance(index, slice):
            return Items(self._items[index], self.source)
        return self._items[index]

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Item]:
        return iter(self._items)

    def __repr__(self) -> str:
        return f"Items({len(self)} from {self.source})"

    def split(self, name: Split) -> Items:
        """The items of one split: `fit` makes, `select` chooses, `test` claims."""
        if name not in SPLITS:
            raise UserError(f"split {name!r}: choose one of {', '.join(SPLITS)}")
        return Items([item for item in self if item.split == name], self.source)

    @property
    def digest(self) -> str:
        """Digest of everything in the items, in order."""
        return digest_of_list(self._items)

    @property
    def ids(self) -> list[str]:
        """Content digests (16 hex digits): what artefacts keep to know what they were made from."""
        return [item.content_digest[:16] for item in self]


def parse_item(record: Any, where: str, fallback_id: str) -> Item:
    """One record of the TRAIT layout as an `Item`.

    Raises:
        UserError: names `where`, the field and what is wrong with it.
    """
    if not isinstance(record, dict):
        raise UserError(f"{where}: an item must be an object, not {type(record).__name__}")
    for name in REQUIRED:
        value = record.get(name)
        if not isinstance(value, str) or not value.strip():
            state = "missing" if name not in record else "not a non-empty text"
            raise UserError(f"{where}: field {name!r} is {state}; every item needs {', '.join(REQUIRED)}")
        if len(value) > TEXT_LIMIT:
            raise UserError(f"{where}: field {name!r} has {len(value)} characters (limit {TEXT_LIMIT}); shorten it")

    def text(*names: str) -> str:
        for name in names:
            value = record.get(name)
            if isinstance(value, (str, int)):
                found = str(value).strip()
                if len(found) > TEXT_LIMIT or HALF_PAIR.search(found):
                    raise UserError(f"{where}: field {name!r} is longer than {TEXT_LIMIT} or {NO_CHARACTER}")
                return found
        return ""

    texts = {name: cast(str, record[name]).strip() for name in REQUIRED}
    for name, value in texts.items():
        if HALF_PAIR.search(value):
            raise UserError(f"{where}: field {name!r} {NO_CHARACTER}")
    split = record.get("split")
    if split not in SPLITS:
        split = _split_of(digest(texts))
    return Item(
        id=text("id", "idx") or fallback_id,
        split=cast(Split, split),
        trait=text("trait", "personality"),
        facet=text("facet"),
        domain=text("domain"),
        statement=text("statement"),
        paraphrased_situation=text("paraphrased_situation"),
        paraphrased_query=text("paraphrased_query"),
        likelihood=_recorded(record, "likelihood", where),
        likelihood_rev=_recorded(record, "likelihood_rev", where),
        **texts,
    )


ROUNDING = 1e-3
"""How far above 1 a recorded probability may lie."""


def _recorded(record: dict[str, Any], name: str, where: str) -> dict[str, float] | None:
    value = record.get(name)
    if value is None:
        return None
    if not isinstance(value, dict) or not all(
        isinstance(v, (int, float)) and not isinstance(v, bool) and 0 <= v <= 1 + ROUNDING for v in value.values()
    ):
        raise UserError(f"{where}: field {name!r} must map option letters to probabilities (numbers from 0 to 1)")
    return {str(k): float(v) for k, v in value.items()}


def _split_of(key: str) -> Split:
    share = int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) / 16**8
    return "fit" if share < 0.5 else "select" if share < 0.6875 else "test"

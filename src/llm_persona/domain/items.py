"""TRAIT items: a situation, a query, two high and two low responses, and a fixed split."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal, cast, overload

from llm_persona.domain.errors import UserError
from llm_persona.domain.store import digest

Split = Literal["fit", "select", "test"]
SPLITS: tuple[Split, ...] = ("fit", "select", "test")
OPTIONS = ("response_high1", "response_low1", "response_high2", "response_low2")
"""The published order of the options in the forward direction (Lee et al. 2024)."""
REQUIRED = ("situation", "query", "response_high1", "response_high2", "response_low1", "response_low2")
TEXT_LIMIT = 20_000


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
        return digest(list(self._items))

    @property
    def ids(self) -> list[str]:
        """Content digests (16 hex digits): what artefacts keep to know what they were made from."""
        return [item.content_digest[:16] for item in self]


def load_items(
    trait: str | None = None, path: str | Path | None = None, author: Literal["first", "second"] = "first"
) -> Items:
    """Items of a trait's own bank, or of a file in the TRAIT layout (`.json` list or `.jsonl`).

    `author="second"` gives the forty items that another author wrote for a bundled trait without seeing the bank:
    what holds on them does not rest on one author's style. No vector or adapter is made from them.

    Items of a file that carry no split of ours get one from a digest of their content, in the
    bank's proportions (40 : 15 : 25), so that the same item always falls on the same side.

    Raises:
        UserError: no such trait or file, or a malformed record (named by file and line).
    """
    if path is not None:
        return _read_items(Path(path), trait)
    if trait is None:
        raise UserError("load_items needs a trait's name or path=")
    from llm_persona.domain.traits import load_trait

    loaded = load_trait(trait)
    if author == "second":
        source = resources.files("llm_persona.domain") / "data" / "second_author" / f"{loaded.name}.jsonl"
        if not source.is_file():
            raise UserError(f"trait {loaded.name!r}: has no items of a second author; give a file with --items")
        return _items_of(list(_jsonl(Path(source.name), source.read_text(encoding="utf-8"))), source.name, loaded.name)
    return Items(loaded.bank, f"bank:{loaded.name}")


def _read_items(path: Path, trait: str | None) -> Items:
    if path.is_dir():
        raise UserError(f"{path}: is a folder; give a TRAIT .json or .jsonl file")
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such items file") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text at byte {error.start}; save it as UTF-8") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    records = _jsonl(path, text) if path.suffix == ".jsonl" else _json_list(path, text)
    return _items_of(records, str(path), trait)


def _items_of(records: Iterable[tuple[int, Any]], path: str, trait: str | None) -> Items:
    """Items of (place, record) pairs, those of one trait if it is named; ids must differ."""
    items = [parse_item(record, f"{path}:{line}", str(number)) for number, (line, record) in enumerate(records)]
    if trait is not None:
        of_trait = [i for i in items if not i.trait or i.trait.lower() == trait.lower()]
        if items and not of_trait:
            found = ", ".join(sorted({i.trait for i in items}))
            raise UserError(f"{path}: holds no item of trait {trait!r} (found: {found})")
        items = of_trait
    if not items:
        raise UserError(f"{path}: holds no items")
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            raise UserError(f"{path}: item id {item.id!r} occurs twice; give each item an idx of its own")
        seen.add(item.id)
    return Items(items, path)


def _jsonl(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (json.JSONDecodeError, RecursionError) as error:
                raise UserError(f"{path}:{number}: not valid JSON; correct that line") from error


def _json_list(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    """Each element of a JSON list with the line it starts on (json.load would forget the line)."""
    decoder, space = json.JSONDecoder(), " \t\r\n"
    text = text.lstrip("\ufeff")
    place = len(text) - len(text.lstrip(space))
    if text[place : place + 1] != "[":
        raise UserError(f"{path}:1: expected a JSON list of items ('['); a .jsonl file needs that suffix")
    place += 1
    first = True
    while True:
        while text[place : place + 1] and text[place] in space:
            place += 1
        if text[place : place + 1] == "]":
            if text[place + 1 :].strip(space):
                raise UserError(f"{path}:{_line(text, place)}: text after the end of the list")
            return
        if not first:
            if text[place : place + 1] != ",":
                raise UserError(f"{path}:{_line(text, place)}: expected ',' or ']' between items")
            place += 1
            while text[place : place + 1] and text[place] in space:
                place += 1
        first = False
        start = place
        try:
            record, place = decoder.raw_decode(text, place)
        except (json.JSONDecodeError, RecursionError) as error:
            at = getattr(error, "pos", start)
            raise UserError(f"{path}:{_line(text, at)}: not valid JSON; correct that line") from error
        yield _line(text, start), record


def _line(text: str, place: int) -> int:
    return text.count("\n", 0, place) + 1


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
            raise UserError(f"{where}: field {name!r} has {len(value)} characters (limit {TEXT_LIMIT})")

    def text(*names: str) -> str:
        for name in names:
            if isinstance(record.get(name), (str, int)):
                return str(record[name]).strip()
        return ""

    texts = {name: cast(str, record[name]).strip() for name in REQUIRED}
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


def _recorded(record: dict[str, Any], name: str, where: str) -> dict[str, float] | None:
    value = record.get(name)
    if value is None:
        return None
    if not isinstance(value, dict) or not all(
        isinstance(v, (int, float)) and not isinstance(v, bool) and v >= 0 for v in value.values()
    ):
        raise UserError(f"{where}: field {name!r} must map option letters to probabilities")
    return {str(k): float(v) for k, v in value.items()}


def _split_of(key: str) -> Split:
    share = int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) / 16**8
    return "fit" if share < 0.5 else "select" if share < 0.6875 else "test"

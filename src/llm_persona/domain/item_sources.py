"""Where items come from: a trait's bank, a second author, files, folders, the Hub."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal

from llm_persona.domain.errors import UserError, one_line
from llm_persona.domain.hub import HUB, hub_folder
from llm_persona.domain.items import Items, parse_item
from llm_persona.domain.store import read_text
from llm_persona.domain.traits import ORDER, Trait, load_trait


def load_items(
    trait: str | None = None, path: str | Path | None = None, author: Literal["first", "second"] = "first"
) -> Items:
    """Items of a trait's own bank, or of a file in the TRAIT layout: a `.json` list, `.jsonl`, or `.parquet`; a
    `hub:OWNER/NAME` data set of the Hugging Face Hub; or a folder that holds such files.

    `author="second"` gives the forty items that another author wrote for a bundled trait without seeing the bank:
    what holds on them does not rest on one author's style. No vector or adapter is made from them.

    Items of a file that carry no split of ours get one from a digest of their content, in the
    bank's proportions (40 : 15 : 25), so that the same item always falls on the same side.

    Raises:
        UserError: no such trait or file, or a malformed record (named by file and line).
    """
    if path is not None:
        return _read_items(path, trait)
    if trait is None:
        raise UserError("load_items needs a trait's name or path=")
    loaded = load_trait(trait)
    if author == "second":
        source = _second_author(loaded.name)
        if not source.is_file():
            raise UserError(f"trait {loaded.name!r}: has no items of a second author; give a file with --items")
        lines = _jsonl(Path(source.name), source.read_text(encoding="utf-8"))
        return _items_of(((f"{source.name}:{n}", record) for n, record in lines), source.name, loaded.name)
    return Items(loaded.bank, f"bank:{loaded.name}")


def has_second_author(trait: Trait) -> bool:
    """Whether another author wrote items for this trait (a bundled one, not a user's of the same name)."""
    return (
        trait.name in ORDER and _second_author(trait.name).is_file() and trait.digest == load_trait(trait.name).digest
    )


def _second_author(name: str) -> Traversable:
    return resources.files("llm_persona.domain") / "data" / "second_author" / f"{name}.jsonl"


def _read_items(source: Path | str, trait: str | None) -> Items:
    if str(source).startswith(HUB):
        folder, name = hub_folder(str(source)), str(source)
        return _items_of(_records_in(folder, name), name, trait)
    path = Path(source)
    if path.is_dir():
        return _items_of(_records_in(path, str(path)), str(path), trait)
    return _items_of(_records(path), str(path), trait)


def _records_in(folder: Path, name: str) -> Iterator[tuple[str, Any]]:
    """Records of every item file in a folder, its sub-folders included, in the order of their names."""
    files = sorted(p for p in folder.rglob("*") if p.suffix in (".json", ".jsonl", ".parquet") and p.is_file())
    files = [p for p in files if not p.name.startswith(".") and p.name != "dataset_infos.json"]
    if not files:
        raise UserError(f"{name}: holds no .json, .jsonl or .parquet file of items")
    for file in files:
        yield from _records(file)


def _records(path: Path) -> Iterator[tuple[str, Any]]:
    """(file and line, record) of one file."""
    if path.suffix == ".parquet":
        yield from ((f"{path} row {number}", record) for number, record in _parquet(path))
        return
    text = read_text(path, "items file")
    found = _jsonl(path, text) if path.suffix == ".jsonl" else _json_list(path, text)
    yield from ((f"{path}:{line}", record) for line, record in found)


def _parquet(path: Path) -> Iterator[tuple[int, Any]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(f"{path}: Parquet needs the extra [hub]: pip install 'llm-persona[hub]'") from error
    try:
        with pyarrow.parquet.ParquetFile(path) as stored:
            number = 0
            for batch in stored.iter_batches(batch_size=500):
                for record in batch.to_pylist():
                    yield number, {name: value for name, value in record.items() if value is not None}
                    number += 1
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such items file; check the path") from error
    except (pyarrow.ArrowException, OSError, ValueError, ArithmeticError, TypeError, KeyError) as error:
        # (Python's own errors are of values that it has no form for: years beyond 9999, text that is not UTF-8)
        said = one_line(str(error), 120)
        raise UserError(f"{path}: cannot be read as Parquet ({said}); write the file again") from error


def _items_of(records: Iterable[tuple[str, Any]], path: str, trait: str | None) -> Items:
    """Items of (place, record) pairs, those of one trait if it is named; ids must differ within a trait."""
    items = [parse_item(record, place, str(number)) for number, (place, record) in enumerate(records)]
    if trait is not None:
        of_trait = [i for i in items if not i.trait or i.trait.lower() == trait.lower()]
        if items and not of_trait:
            found = ", ".join(sorted({i.trait for i in items}))
            raise UserError(f"{path}: holds no item of trait {trait!r} (found: {one_line(found, 120)})")
        items = of_trait
    if not items:
        raise UserError(f"{path}: holds no items; give a file with at least one")
    seen: set[tuple[str, str]] = set()
    for item in items:
        if (item.trait, item.id) in seen:
            raise UserError(f"{path}: item id {item.id[:80]!r} occurs twice; give each item an idx of its own")
        seen.add((item.trait, item.id))
    return Items(items, path)


def _jsonl(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(text.split("\n"), start=1):  # (splitlines would also end lines inside JSON texts)
        if line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(f"{path}:{number}: not valid JSON; correct that line") from error


def _json_list(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    """Each element of a JSON list with the line it starts on (json.load would forget the line)."""
    decoder, space = json.JSONDecoder(), " \t\r\n"
    counted, number = 0, 1

    def line(at: int) -> int:
        """The line of a place. Places only grow, so every character is counted once."""
        nonlocal counted, number
        number += text.count("\n", counted, at)
        counted = max(counted, at)
        return number

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
                raise UserError(f"{path}:{line(place)}: text after the end of the list; take it out")
            return
        if not first:
            if text[place : place + 1] != ",":
                raise UserError(f"{path}:{line(place)}: expected ',' or ']' between items; correct that line")
            place += 1
            while text[place : place + 1] and text[place] in space:
                place += 1
        first = False
        start = place
        try:
            record, place = decoder.raw_decode(text, place)
        except (ValueError, RecursionError) as error:
            at = getattr(error, "pos", start)
            raise UserError(f"{path}:{line(at)}: not valid JSON; correct that line") from error
        yield line(start), record

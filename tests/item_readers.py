"""Readers of items: files of each form, folders, recorded option likelihoods."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import mutations
import numpy as np
from reader import Files, Reader, command, strict, within
from reader_inputs import ITEMS

from llm_persona.domain.store import write_json


def item_readers(written: Files) -> list[Reader]:
    from llm_persona.domain.item_sources import load_items
    from llm_persona.domain.responses import labelled

    def items(name: str) -> Callable[[bytes], Any]:
        def read(data: bytes) -> Any:
            found = load_items(path=written(name, data))
            assert all(i.split in ("fit", "select", "test") for i in found)
            write_json(written.folder / "out.json", [list(found), found.ids, found.digest, labelled(found)])
            return strict(written.folder / "out.json")

        return read

    def rescored(data: bytes) -> Any:
        path, out = written("recorded.json", data), written.folder / "out.json"
        for more in ([], ["--api-records"]):
            command("evaluate", "--rescore", str(path), "--mode", "upstream", "--json", str(out), *more)
            for trait in strict(out)["traits"].values():
                within(trait["score"], 0, 100)
                within(trait["option_mass"], 0, 4 * np.e)
        return strict(out)

    def folder_of(data: bytes) -> Any:
        place = written.folder / "items"
        place.mkdir(exist_ok=True)
        (place / "a.json").write_bytes(mutations.json_bytes(ITEMS))
        (place / "b.jsonl").write_bytes(data)
        return [i.id for i in load_items(path=place)]

    other = [{**row, "idx": f"b{n}"} for n, row in enumerate(ITEMS)]
    found = [
        Reader("items .json", (ITEMS,), mutations.json_bytes, items("items.json"), "items.json"),
        Reader("items .jsonl", (ITEMS,), mutations.lines_bytes, items("items.jsonl"), "items.jsonl"),
        Reader("items folder", (other,), mutations.lines_bytes, folder_of, "items"),
        Reader("rescore records", (ITEMS,), mutations.json_bytes, rescored, "recorded.json"),
    ]
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        return found
    parquet = Reader("items .parquet", (ITEMS,), parquet_bytes, items("items.parquet"), "items.parquet")
    return [*found, parquet]


def parquet_bytes(rows: Any) -> bytes:
    """Parquet of what pyarrow can hold of the rows, column by column."""
    import pyarrow
    import pyarrow.parquet

    rows = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    columns = {}
    for name in dict.fromkeys(str(key) for row in rows for key in row):
        values = [row.get(name) for row in rows]
        try:
            columns[name.encode("utf-8", "replace").decode()] = pyarrow.array(values)
        except (pyarrow.ArrowException, OverflowError, UnicodeEncodeError, TypeError, ValueError):
            columns[name.encode("utf-8", "replace").decode()] = pyarrow.array([str(v)[:50].isascii() for v in values])
    sink = io.BytesIO()
    try:
        pyarrow.parquet.write_table(pyarrow.table(columns), sink)
    except (pyarrow.ArrowException, ValueError):
        return b"PAR1"
    return sink.getvalue()

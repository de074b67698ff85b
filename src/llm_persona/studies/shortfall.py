"""What a study could not read because it is longer than the model's context: how much, and which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llm_persona.domain.measurement import Measurement
from llm_persona.subject.packing import BEYOND

NAMED = 5
"""So many items or questions a sentence names; the results list all."""
WHAT = {
    "likelihood": "items", "choice": "items asked by letter", "upstream": "items asked by letter, published scoring",
    "neutral": "neutral passages", "samples": "open questions", "reading": "answers to be read",
}  # fmt: skip


def shortfall(
    measured: Mapping[str, Mapping[str, Measurement]], left_out: Mapping[str, Sequence[Mapping[str, Any]]]
) -> dict[str, Any]:
    """What is longer than the context, as results keep it.

    Args:
        measured: by condition and instrument. left_out: by split, what recording left out of a vector's rows.

    Returns:
        `unscored`: for each instrument and set of rows, the `conditions` under which they are, `n` of how many, and
        `ids`; `left_out`: by split, the rows; `sentences`: the same to be read, none where nothing is missing.
    """
    unscored: dict[tuple[str, tuple[str, ...]], dict[str, Any]] = {}
    for condition, found in measured.items():
        for what, measurement in found.items():
            ids = tuple(_beyond(measurement.rows))
            if ids:
                entry = {"instrument": what, "of": len(measurement.rows), "n": len(ids), "ids": list(ids)}
                unscored.setdefault((what, ids), entry | {"conditions": []})["conditions"].append(condition)
    left = {name: list(rows) for name, rows in left_out.items() if rows}
    entries = list(unscored.values())
    return {"unscored": entries, "left_out": left, "sentences": [*map(_unscored, entries), *_left(left)]}


def _beyond(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The rows that are unscored for their length: by `id`, else by number."""
    return [
        str(row.get("id", row.get("group", number)))
        for number, row in enumerate(rows)
        if BEYOND in str(row.get("unscored", ""))
    ]


def _unscored(entry: Mapping[str, Any]) -> str:
    where = entry["conditions"]
    under = f"under {where[0]}" if len(where) == 1 else f"under {len(where)} conditions, {where[0]} among them"
    what = WHAT.get(entry["instrument"], entry["instrument"])
    return f"{entry['n']} of {entry['of']} {what} are unscored {under}, being {BEYOND}: {_named(entry['ids'])}."


def _left(left: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    found = []
    for name, rows in left.items():
        asked = {row["group"]: f'"{row["prompt"]}"' for row in rows}
        found.append(
            f"{len(asked)} questions ({len(rows)} rows of both poles) of the {name} rows are left out of the vector's "
            f"evidence, a row of each being {BEYOND}: {_named(list(asked.values()))}."
        )
    return found


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more

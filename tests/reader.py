"""What a reader of input is, and what becomes of what it is given: plain data, or a refusal that helps."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mutations

from llm_persona.domain.errors import UserError
from llm_persona.domain.store import canonical


@dataclass(frozen=True)
class Reader:
    """`seeds`: valid inputs as data (made bytes by `form`) or as bytes. `read` takes bytes; what it raises as
    `UserError` names the file it was given."""

    name: str
    seeds: tuple[Any, ...]
    form: Callable[[Any], bytes] | None
    read: Callable[[bytes], Any]
    names_file: str = ""

    def case(self, draw: Any) -> bytes:
        """One input: a seed damaged in its structure, in its bytes, or in both; now and then as it is."""
        seed = draw.choice(self.seeds)
        how = draw.randrange(10)
        if self.form is not None:
            seed = self.form(mutations.restructured(seed, draw) if 1 <= how <= 6 else seed)
            return mutations.damaged(seed, draw) if how >= 6 else seed
        return mutations.damaged(seed, draw) if how else seed


def outcome(reader: Reader, data: bytes) -> str:
    """Read, and say what became of it: "accepted" (the data is strict JSON) or the message of the refusal (one line
    that names the file). Anything else raises."""
    try:
        found = reader.read(data)
    except UserError as error:
        said = str(error)
        assert said.strip() and "\n" not in said and len(said) < 2000, f"no helpful line: {said[:200]!r}"
        assert reader.names_file in said, f"does not name {reader.names_file}: {said[:200]!r}"
        return said
    json.dumps(canonical(found), allow_nan=False)
    return "accepted"


def strict(path: Path) -> Any:
    """JSON without NaN."""
    return json.loads(path.read_bytes(), parse_constant=lambda name: (_ for _ in ()).throw(AssertionError(name)))


def within(value: float | None, low: float, high: float) -> None:
    """A number of that range, or none."""
    assert value is None or low <= value <= high, value


def command(*arguments: str) -> None:
    """A command that ends well, or with exit code 2 and one line."""
    from llm_persona.interfaces.cli.main import run

    said, shown = io.StringIO(), io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(shown):
        code = run(list(arguments))
    text = said.getvalue()
    assert code in (0, 2), f"exit {code}: {text[-400:]}"
    if code == 2:
        assert text.count("\n") == 1, text
        raise UserError(text.strip())


class Files:
    """Writes what a reader is given into a folder, by name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, name: str, data: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(data)
        return path

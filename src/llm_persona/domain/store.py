"""Files that appear whole or not at all, and the digests that name what is inside them."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # no locks on files: temporary files have random names there
    fcntl = None  # type: ignore[assignment]

from llm_persona.domain.errors import UserError, one_line


def canonical(value: Any) -> Any:
    """Plain JSON data for `value`: dataclasses opened, paths as text, sets sorted."""
    if is_dataclass(value) and not isinstance(value, type):
        return canonical(asdict(value))
    if isinstance(value, dict):
        return {str(k): canonical(v) for k, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return [canonical(v) for v in value]
    if isinstance(value, (set, frozenset)):
        return sorted(canonical(v) for v in value)
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item") and getattr(value, "shape", None) == ():  # numpy scalars
        return canonical(value.item())
    if hasattr(value, "tolist"):
        return canonical(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None  # JSON has no NaN: what could not be measured is null
    return value


def digest(value: Any) -> str:
    """SHA-256 (hex) of the canonical JSON of `value`."""
    return hashlib.sha256(_compact(value)).hexdigest()


def digest_of_list(values: Iterable[Any]) -> str:
    """`digest(list(values))` with one element in memory at a time."""
    found = hashlib.sha256(b"[")
    for number, value in enumerate(values):
        found.update((b"," if number else b"") + _compact(value))
    found.update(b"]")
    return found.hexdigest()


def _compact(value: Any) -> bytes:
    return json.dumps(canonical(value), sort_keys=True, ensure_ascii=True, separators=(",", ":")).encode()


def file_digest(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes, read in blocks."""
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


@contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success flush it to disk and rename it into place.

    A failure or a kill leaves either the old file or none, never half of one. The temporary file that a kill leaves
    is taken by the next writing of the same file, so it does not stay.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = _temporary(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); choose a writable folder") from error
    try:
        yield temporary
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except Exception as error:
        # safetensors reports a full disk as an error of its own kind
        if isinstance(error, OSError) or type(error).__name__ == "SafetensorError":
            reason = getattr(error, "strerror", None) or str(error)
            raise UserError(
                f"{path}: cannot be written ({reason}); free some space or choose another folder"
            ) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)
        if handle is not None:
            os.close(handle)


def _temporary(path: Path) -> tuple[int | None, Path]:
    """An empty file beside `path`, and the handle whose lock says that it is in use. Its name is always the same,
    unless somebody is writing there now (or the file there is not ours): then a random one."""
    if fcntl is not None:
        plain = path.parent / f".{path.name}.tmp"
        handle = -1
        try:
            handle = os.open(plain, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            mine = os.fstat(handle)
            if mine.st_uid == os.geteuid() and mine.st_nlink == 1 and os.path.samestat(mine, plain.stat()):
                os.ftruncate(handle, 0)
                return handle, plain
        except OSError as error:
            if handle < 0 and error.errno not in (errno.EACCES, errno.ELOOP, errno.EISDIR):
                raise
        if handle >= 0:
            os.close(handle)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    return None, Path(name)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically. Half of a surrogate pair, which UTF-8 cannot hold, is written as its JSON escape."""
    with appearing(path) as temporary:
        temporary.write_bytes(text.encode("utf-8", "backslashreplace"))


def write_json(path: Path, value: Any) -> None:
    """Write canonical JSON atomically, in the order given, NaN as null; long sequences as they come (`json_chunks`)."""
    with appearing(path) as temporary, temporary.open("wb") as stream:
        for chunk in json_chunks(value, ascii_only=False):
            stream.write(chunk.encode("utf-8", "backslashreplace"))


def json_chunks(value: Any, ascii_only: bool, depth: int = 0) -> Iterator[str]:
    """The text of canonical JSON, indented, ended by LF. In a dict, sequences other than lists and tuples are asked
    for one element at a time, so that rows made on demand are never all in memory."""
    end = "\n" if depth == 0 else ""
    if isinstance(value, dict) and value:
        named = {str(k): v for k, v in value.items()}
        open_, close, parts = "{", "}", ((json.dumps(k, ensure_ascii=ascii_only) + ": ", v) for k, v in named.items())
    elif _made_on_demand(value) and len(value):
        open_, close, parts = "[", "]", (("", v) for v in value)
    else:
        text = json.dumps(canonical(value), indent=1, ensure_ascii=ascii_only, allow_nan=False)
        yield text.replace("\n", "\n" + " " * depth) + end  # a text in JSON holds no line end of its own
        return
    between = open_
    for name, part in parts:
        yield f"{between}\n{' ' * (depth + 1)}{name}"
        yield from json_chunks(part, ascii_only, depth + 1)
        between = ","
    yield f"\n{' ' * depth}{close}{end}"


def _made_on_demand(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes, list, tuple))


def read_text(path: Path, what: str = "file") -> str:
    """A file's UTF-8 text without a byte order mark, lines ended by LF, or one line that says why it cannot be had.

    Raises:
        UserError: no such file, one that may not be read, or other bytes than UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such {what}; check the path") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text at byte {error.start}; save it as UTF-8") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give a {what} you may read") from error
    except ValueError as error:  # a null byte in the name
        raise UserError(f"{str(path)!r}: not a file name; check the path") from error


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def read_json(path: Path, what: str = "file") -> Any:
    """Read JSON (NaN and Infinity are none), or say which file, which line, and what is wrong with it."""
    text = read_text(path, what)
    try:
        return json.loads(text, parse_constant=_no_number)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not valid JSON ({error.msg}); correct that line") from error
    except ValueError as error:  # NaN, or an integer of thousands of digits
        raise UserError(f"{path}: not valid JSON ({one_line(str(error), 80)}); correct it, or make it again") from error
    except RecursionError as error:
        raise UserError(f"{path}: JSON nested too deeply to be a {what}; make it again") from error


def read_json_lines(path: Path, what: str = "file") -> Iterator[tuple[str, Any]]:
    """(file and line, value) of each line of a JSONL file that is not empty.

    Raises:
        UserError: no such file, not UTF-8, or a line that is no JSON (named by number).
    """
    for number, line in enumerate(read_text(path, what).split("\n"), 1):
        if line.strip():
            try:
                yield f"{path}:{number}", json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(f"{path}:{number}: not valid JSON; correct that line") from error


def remembered(path: Path, make: Callable[[], Any]) -> Any:
    """The JSON at `path`, made by `make` if it is not there. Always returns what was read back,
    so that a run that was interrupted and one that was not see the very same numbers."""
    if not path.exists():
        write_json(path, make())
    return read_json(path)

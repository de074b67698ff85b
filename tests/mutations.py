"""Ways to damage a valid input: in its structure, in its text and in its bytes."""

from __future__ import annotations

import copy
import json
import random
import struct

LONG = 100_000
TEXTS = (
    "", " ", "\n", "x" * LONG, " " * LONG, "\n" * LONG, "1" * 5000, "שלום עולם", "مرحبا", "\u202etxt.exe\u202c",
    "👩‍👩‍👧‍👦 🙂", "e\u0301", "\x00", "\x1b[31mred\x1b[0m", "\x07\x08\x7f\x85", "\u2028\u2029", "\ud800",
    "\udfff\ud800",
    "\ufeff", "{question}", "{situation} {answer}", "=1+1", "<script>alert(1)</script>", "../../etc/passwd", "nan",
    "high", "low", "auto", "None", "true", "<" + " " * 5000 + "question", "not " * 3000,
)  # fmt: skip
VALUES = (
    None, True, False, 0, 1, -1, 2, 10**9, 10**30, -(10**30), 0.5, -0.0, 1e308, -1e308, 5e-324, float("nan"),
    float("inf"), float("-inf"), [], {}, [[]], [None], {"": None}, [0] * 300, {"a": {"a": {"a": []}}}, *TEXTS,
)  # fmt: skip
TOKENS = (
    b"NaN", b"-Infinity", b"1e999", b"9" * 5000, b"[" * 3000, b"{\"a\":" * 2000, b"\xff\xfe", b"\xef\xbb\xbf", b"\x00",
    b"\xed\xa0\x80", b"\\ud800", b"\xe2\x80\xa8", b"\r", b"\r\n", b"\n", b"\t", b'"', b"'", b"\\", b",", b":", b"]",
    b"}", b"- ", b"# ", b"&a [*a]", b"*a", b"<<: *a", b"!!int ''", b"!!python/object:os.system {}", b"!!binary x",
    b"!!timestamp x", b"2024-99-99", b"---\n", b"...\n", b"%YAML 9.9\n", b": {", b"? ", b"|\n", b"\x1b]0;x\x07",
    b" " * 3000,
)  # fmt: skip


def places(value, path=()):
    """Every place in nested lists and objects, as a path of keys."""
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*path, key))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from places(inner, (*path, number))


def restructured(value, draw: random.Random):
    """A copy with one to three changes of structure."""
    value = copy.deepcopy(value)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        value = _changed(value, draw)
    return value


def _changed(value, draw):
    path = draw.choice(list(places(value)))
    odd = copy.deepcopy(draw.choice(VALUES))
    if not path:
        return draw.choice((odd, [value], {"x": value}, value))
    parent = value
    for key in path[:-1]:
        parent = parent[key]
    key = path[-1]
    what = draw.randrange(8)
    if what <= 3:
        parent[key] = odd
    elif what == 4:
        del parent[key]
    elif what == 5:
        parent[key] = [parent[key]] if draw.random() < 0.5 else {"x": parent[key]}
    elif what == 6:
        inner = parent[key]
        parent[key] = str(inner) if not isinstance(inner, str) else (inner + str(odd))
    elif isinstance(parent, dict):
        parent[str(draw.choice(TEXTS))[:200]] = parent.pop(key)
    else:
        parent.insert(draw.randrange(len(parent) + 1), copy.deepcopy(parent[key]))
    return value


def damaged(data: bytes, draw: random.Random) -> bytes:
    """One to three changes of bytes."""
    for _ in range(draw.choice((1, 1, 2, 3))):
        data = _hurt(data, draw)
    return data


def _hurt(data, draw):
    at = draw.randrange(len(data) + 1)
    to = min(len(data), at + draw.choice((1, 1, 2, 8, 64, 4096)))
    what = draw.randrange(10)
    if what == 0:
        return data[:at]
    if what == 1:
        return data[:at] + data[to:]
    if what == 2:
        return data[:at] + draw.randbytes(to - at) + data[to:]
    if what == 3 and at < len(data):
        return data[:at] + bytes([data[at] ^ (1 << draw.randrange(8))]) + data[at + 1 :]
    if what == 4:
        return data[:at] + data[at:to] * 3 + data[to:]
    if what == 5:
        return draw.choice((b"", b"\xef\xbb\xbf" + data, data.replace(b"\n", b"\r\n"), data + data, data[::-1]))
    if what == 6:
        text = data.decode("utf-8", "replace")
        return text.encode(draw.choice(("utf-16", "latin-1", "utf-32", "cp1252")), "replace")
    return data[:at] + draw.choice(TOKENS) + data[at if draw.random() < 0.7 else to :]


def json_bytes(value) -> bytes:
    """JSON as a careless program writes it: NaN as it is, half of a surrogate pair as its escape."""
    return json.dumps(value, indent=1).encode()


def lines_bytes(rows) -> bytes:
    """JSON Lines; a value that is no list is one line."""
    return b"\n".join(json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace")
                      for row in (rows if isinstance(rows, list) else [rows]))  # fmt: skip


def yaml_bytes(value) -> bytes:
    """JSON is YAML, and holds what a YAML writer would refuse to write."""
    return json_bytes(value).replace(b"NaN", b".nan").replace(b"Infinity", b".inf")


def safetensors_bytes(value) -> bytes:
    """A file of safetensors from [header, payload in hexadecimal]; objects in the metadata become JSON texts there."""
    if not (isinstance(value, list) and len(value) == 2):
        return json_bytes(value)
    head = value[0]
    if isinstance(head, dict) and isinstance(head.get("__metadata__"), dict):
        meta = {k: v if isinstance(v, str) else json.dumps(v) for k, v in head["__metadata__"].items()}
        head = {**head, "__metadata__": meta}
    header = json_bytes(head)
    digits = "".join(c for c in str(value[1]) if c in "0123456789abcdef")
    payload = bytes.fromhex(digits[: len(digits) // 2 * 2])
    return struct.pack("<Q", len(header)) + header + payload

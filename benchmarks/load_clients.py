"""Clients of a chat server, good and bad: each asks once and says what came of it."""

from __future__ import annotations

import json
import random
import socket
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

PATH = "/v1/chat/completions"
TIMEOUT = 120.0


@dataclass(frozen=True)
class Server:
    """Where it listens, and its token."""

    host: str
    port: int
    token: str


@dataclass
class Outcome:
    """`status` is the HTTP status, or what the client did instead; `text` the answer; `seconds` to its end."""

    kind: str
    status: int | str
    expected: tuple[int | str, ...]
    text: str | None = None
    wanted: Any = None
    seconds: float = 0.0
    first: float | None = None
    """Seconds to the first piece of a stream."""
    detail: str = field(default="", repr=False)

    @property
    def as_expected(self) -> bool:
        return self.status in self.expected


def head(server: Server, size: int | str, **headers: str) -> bytes:
    lines = {
        "Host": f"{server.host}:{server.port}",
        "Authorization": f"Bearer {server.token}",
        "Content-Type": "application/json",
        "Content-Length": str(size),
        "Connection": "close",
        **headers,
    }
    return "\r\n".join([f"POST {PATH} HTTP/1.1", *(f"{k}: {v}" for k, v in lines.items() if v), "", ""]).encode()


def read_all(connection: socket.socket, pause: float = 0.0, piece: int = 65536) -> bytes:
    """Everything until the server closes; slowly, if a pause is given."""
    parts = []
    with suppress(ConnectionError):
        while part := connection.recv(piece):
            parts.append(part)
            time.sleep(pause)
    return b"".join(parts)


def parse(reply: bytes) -> tuple[int, bytes]:
    """Status and body (chunks joined)."""
    top, _, body = reply.partition(b"\r\n\r\n")
    if not top.startswith(b"HTTP/1.1 "):
        return 0, b""
    if b"transfer-encoding: chunked" in top.lower():
        whole, rest = b"", body
        while rest:
            size, _, rest = rest.partition(b"\r\n")
            count = int(size or b"0", 16)
            whole, rest = whole + rest[:count], rest[count + 2 :]
        body = whole
    return int(top.split()[1]), body


def streamed(body: bytes) -> str:
    """The text of a stream; an error in it, or a missing end, is said in the text."""
    events = [e.removeprefix("data: ") for e in body.decode().split("\n\n") if e]
    if not events or events[-1] != "[DONE]":
        return "<no end>"
    found = [json.loads(e) for e in events[:-1]]
    if any("error" in e for e in found):
        return f"<error: {next(e for e in found if 'error' in e)}>"
    return "".join(c["delta"].get("content") or "" for e in found for c in e["choices"])


def connect(server: Server, buffer: int | None = None) -> socket.socket:
    connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    if buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    connection.settimeout(TIMEOUT)
    connection.connect((server.host, server.port))
    return connection


def exchange(server: Server, body: bytes, pause: float = 0.0, piece: int = 65536, **headers: str) -> tuple[int, bytes]:
    """Send one request whole; status and body of the reply."""
    with connect(server) as connection:
        with suppress(ConnectionError):  # refused in the middle of the body: the reply says why
            connection.sendall(head(server, len(body), **headers) + body)
        return parse(read_all(connection, pause, piece))


def whole(server: Server, asked: dict[str, Any], wanted: Any = None) -> Outcome:
    """An ordinary request."""
    begun = time.monotonic()
    status, body = exchange(server, json.dumps(asked).encode())
    text = json.loads(body)["choices"][0]["message"]["content"] if status == 200 else None
    return Outcome("ordinary", status, (200,), text, wanted, time.monotonic() - begun, detail=body.decode()[:200])


def stream(server: Server, asked: dict[str, Any], wanted: Any) -> Outcome:
    """A stream, read as it comes."""
    begun = time.monotonic()
    body = json.dumps({**asked, "stream": True}).encode()
    with connect(server) as connection:
        connection.sendall(head(server, len(body)) + body)
        reply = connection.recv(65536)
        first = time.monotonic() - begun
        status, content = parse(reply + read_all(connection))
    text = streamed(content) if status == 200 else None
    return Outcome("stream", status, (200,), text, wanted, time.monotonic() - begun, first)


def drip(server: Server, asked: dict[str, Any], wanted: Any) -> Outcome:
    """The body comes in small pieces."""
    begun = time.monotonic()
    body = json.dumps(asked).encode()
    with connect(server) as connection:
        connection.sendall(head(server, len(body)))
        step = max(1, len(body) // 20)
        for start in range(0, len(body), step):
            connection.sendall(body[start : start + step])
            time.sleep(0.04)
        status, content = parse(read_all(connection))
    text = json.loads(content)["choices"][0]["message"]["content"] if status == 200 else None
    return Outcome("slow to send", status, (200,), text, wanted, time.monotonic() - begun)


def sip(server: Server, asked: dict[str, Any], wanted: Any) -> Outcome:
    """A stream with much in it, read slowly through a small buffer."""
    begun = time.monotonic()
    body = json.dumps({**asked, "stream": True, "logprobs": True, "top_logprobs": 20}).encode()
    with connect(server, buffer=2048) as connection:
        connection.sendall(head(server, len(body)) + body)
        status, content = parse(read_all(connection, pause=0.02, piece=1024))
    text = streamed(content) if status == 200 else None
    return Outcome("slow to read", status, (200,), text, wanted, time.monotonic() - begun)


def leave(server: Server, asked: dict[str, Any], draw: random.Random) -> Outcome:
    """Goes away: within the body, while waiting, or in the middle of a stream."""
    body = json.dumps({**asked, "stream": True}).encode()
    point = draw.choice(["within the body", "while waiting", "in mid-stream"])
    with connect(server) as connection:
        connection.sendall(head(server, len(body)) + (body[: len(body) // 2] if point == "within the body" else body))
        if point == "in mid-stream":
            connection.recv(512)
        elif point == "while waiting":
            time.sleep(0.01)
        # a reset, not a polite end
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    return Outcome(f"left {point}", "left", ("left",))


MALFORMED: dict[str, bytes] = {
    "no JSON": b"{oops",
    "nothing": b"",
    "a number": b"3",
    "not UTF-8": b'{"messages": "\xff\xfe"}',
    "nested deeply": b'{"messages": ' + b"[" * 60_000 + b"]" * 60_000 + b"}",
    "no user turn": b'{"messages": [{"role": "system", "content": "x"}]}',
    "null content": b'{"messages": [{"role": "user", "content": null}]}',
    "endless number": b'{"messages": [{"role": "user", "content": "x"}], "temperature": ' + b"9" * 400 + b"}",
    "not a number": b'{"messages": [{"role": "user", "content": "x"}], "temperature": NaN}',
    "unknown vector": b'{"messages": [{"role": "user", "content": "x"}], "persona": [{"vector": "../x", "dose": 1}]}',
    "two strengths": b'{"messages": [{"role": "user", "content": "x"}],'
    b' "persona": [{"vector": "a", "dose": 1, "coefficient": 1}]}',
}


def malformed(server: Server, draw: random.Random) -> Outcome:
    name = draw.choice(list(MALFORMED))
    status, body = exchange(server, MALFORMED[name])
    return Outcome(f"malformed: {name}", status, (400,), detail=body.decode()[:200])


def over_limits(server: Server, asked: dict[str, Any], draw: random.Random) -> Outcome:
    """Asks for too much, or from where nobody may ask."""
    plain = json.dumps(asked).encode()
    long = {"messages": [{"role": "user", "content": "x y " * 9000}]}
    cases: dict[str, tuple[int, dict[str, str], bytes]] = {
        "too many tokens": (400, {}, json.dumps({**asked, "max_tokens": 1 << 20}).encode()),
        "body too large": (413, {}, json.dumps({**asked, "pad": "x" * (2 << 20)}).encode()),
        "longer than the model": (400, {}, json.dumps(long).encode()),
        "foreign name": (403, {"Host": "attacker.example"}, plain),
        "foreign page": (403, {"Origin": "http://attacker.example"}, plain),
        "no token": (401, {"Authorization": ""}, plain),
        "wrong token": (401, {"Authorization": "Bearer wrong"}, plain),
    }  # fmt: skip
    name = draw.choice(list(cases))
    status, headers, body = cases[name]
    found, content = exchange(server, body, **headers)
    return Outcome(f"beyond limits: {name}", found, (status,), detail=content.decode()[:200])

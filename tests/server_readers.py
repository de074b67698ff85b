"""Readers of what a client sends to our server: its request, and its headers."""

from __future__ import annotations

import asyncio
import json
from functools import cache
from typing import Any

import mutations
import numpy as np
from reader import Reader
from reader_inputs import HEADERS, REQUEST

from llm_persona.domain.errors import UserError


@cache
def _server() -> Any:
    import httpx2
    from conftest import make_subject

    from llm_persona.analysis.vectors import PersonaVector
    from llm_persona.interfaces.serve.app import ServeLimits, make_app

    subject = make_subject()
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((subject.n_layers, subject.hidden_size)).astype(np.float32)
    vector = PersonaVector(directions, np.full(subject.n_layers, 5.0, np.float32), {"recommended": {"balanced": 1}})
    app = make_app(subject, {"v": vector}, limits=ServeLimits(new_tokens=4, body_bytes=1 << 20, seconds=60))
    return httpx2.ASGITransport(app, raise_app_exceptions=True)


def server_readers() -> list[Reader]:
    try:
        import fastapi  # noqa: F401
        import httpx2
    except ImportError:
        return []
    from llm_persona.interfaces.serve.guard import LOOPBACK, Guard

    def body(data: bytes) -> Any:
        transport = _server()

        async def post() -> Any:
            async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
                return await client.post(
                    "/v1/chat/completions", content=data, headers={"content-type": "application/json"}
                )

        found = asyncio.run(post())
        return answered(found.status_code, found.content, found.headers.get("content-type", ""))

    def answered(status: int, content: bytes, kind: str) -> Any:
        if status == 200 and kind.startswith("text/event-stream"):
            events = [line for line in content.decode().split("\n") if line.startswith("data: {")]
            return [json.loads(e[6:], parse_constant=_refuse) for e in events]
        said = json.loads(content, parse_constant=_refuse)
        if status == 200:
            for step in (said["choices"][0]["logprobs"] or {}).get("content", []):
                assert step["logprob"] <= 1e-3
            return said
        assert 400 <= status < 500, (status, content[:300])
        raise UserError(f"{status}: {said['error']['message']}")

    def guarded(data: bytes) -> Any:
        parts = [*data.split(b"\n")[:4], b"", b"", b"", b""]
        names = (b"host", b"origin", b"authorization", b"content-length")
        sent: list[Any] = []

        async def inside(scope: Any, receive: Any, send: Any) -> None:
            sent.append({"type": "http.response.start", "status": 200})

        async def receive() -> Any:
            return {"type": "http.request", "body": b"{}", "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "path": "/v1/models", "headers": list(zip(names, parts, strict=False))}
        asyncio.run(Guard(inside, "token-of-the-test", 100, LOOPBACK)(scope, receive, send))
        if sent[0]["status"] != 200:
            raise UserError(f"refused with {sent[0]['status']}")
        assert parts[2].decode("latin-1").strip().endswith("token-of-the-test")
        return "passed"

    headers = "\n".join(HEADERS).encode()
    return [
        Reader("server's request", (REQUEST, {**REQUEST, "stream": True}), mutations.json_bytes, body, "4"),
        Reader("server's headers", (headers,), None, guarded, "refused"),
    ]


def _refuse(name: str) -> Any:
    raise AssertionError(f"{name} in JSON")

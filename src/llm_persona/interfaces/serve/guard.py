"""Who may ask, and how much they may send: token, origin, size of the body."""

from __future__ import annotations

import asyncio
import ipaddress
import secrets
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

from starlette.responses import JSONResponse

from llm_persona.domain.errors import UserError

BODY_SECONDS = 30
"""A body that takes longer is refused: slow senders must not hold connections."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")
SHORTEST_TOKEN = 16


def checked_token(token: str | None, exposed: bool) -> str | None:
    """The token to ask for: the given one; a new one where others can reach the server and none is given.

    Raises:
        UserError: it is too short to withstand guessing.
    """
    if token is not None and len(token.strip()) < SHORTEST_TOKEN:
        raise UserError(f"--token: {len(token.strip())} characters; give at least {SHORTEST_TOKEN}, or none")
    return token.strip() if token is not None else secrets.token_urlsafe(24) if exposed else None


def reaches_beyond(address: str) -> bool:
    """Whether others than this machine can reach a socket bound to that address."""
    return not ipaddress.ip_address(address.partition("%")[0]).is_loopback


def problem(status: int, message: str, kind: str = "invalid_request_error", **headers: str) -> JSONResponse:
    """An error in the form that OpenAI clients read."""
    return JSONResponse({"error": {"message": message, "type": kind, "code": status}}, status, headers or None)


class Guard:
    """ASGI middleware in front of everything else.

    A page of another origin is refused (its browser would send requests in the user's name), a request whose Host is
    no name of this server too (DNS rebinding), and so is one without the token where one is set. Bodies beyond
    `largest` bytes, or slow ones, are cut off while they arrive.
    """

    def __init__(self, app: Any, token: str | None, largest: int, hosts: tuple[str, ...]) -> None:
        self.app, self.token, self.largest, self.hosts = app, token, largest, hosts

    async def __call__(self, scope: Any, receive: Callable[[], Awaitable[Any]], send: Any) -> None:
        """Refuse or pass on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in scope["headers"]}
        refused = self._refuse(scope, headers)
        if refused is not None:
            await refused(scope, receive, send)
            return
        body = await self._body(receive)
        if isinstance(body, JSONResponse):
            await body(scope, receive, send)
            return
        whole: dict[str, Any] | None = {"type": "http.request", "body": body, "more_body": False}

        async def replay() -> Any:
            nonlocal whole
            if whole is not None:
                message, whole = whole, None
                return message
            return await receive()  # the client going away is the next thing to come

        await self.app(scope, replay, send)

    async def _body(self, receive: Callable[[], Awaitable[Any]]) -> bytes | JSONResponse:
        parts, size = [], 0
        try:
            async with asyncio.timeout(BODY_SECONDS):
                while True:
                    message = await receive()
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > self.largest:
                        return problem(413, f"the body exceeds {self.largest} bytes")
                    if not message.get("more_body"):
                        return b"".join(parts)
        except TimeoutError:
            return problem(408, f"the body did not come within {BODY_SECONDS} s", "timeout_error")

    def _refuse(self, scope: Any, headers: dict[str, str]) -> JSONResponse | None:
        origin = headers.get("origin")
        try:
            host = urlsplit(f"//{headers.get('host', '')}").hostname or ""
            other = origin is not None and urlsplit(origin).netloc != headers.get("host")
        except ValueError:  # half an IPv6 address
            return problem(400, "the header Host or Origin is no address")
        if self.hosts and host not in self.hosts:
            return problem(403, f"this server does not answer to the name {host!r}")
        if other:
            return problem(403, "requests of pages from other origins are refused")
        if self.token is not None and scope["path"] != "/health":
            given = headers.get("authorization", "").removeprefix("Bearer ").strip()
            if not secrets.compare_digest(given.encode(), self.token.encode()):
                return problem(401, "a token is needed: Authorization: Bearer TOKEN", "authentication_error")
        size = headers.get("content-length", "0")
        if size.isascii() and size.isdigit() and (len(size) > 18 or int(size) > self.largest):
            return problem(413, f"the body exceeds {self.largest} bytes")
        return None

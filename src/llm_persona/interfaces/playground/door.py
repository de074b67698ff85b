"""Who may see the page, and what the page may load: a token where one is set, and nothing from elsewhere."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Awaitable, Callable
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs

from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response

POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; font-src 'self' data:; connect-src 'self'; frame-ancestors 'none'; form-action 'self'; "
    "base-uri 'self'; object-src 'none'"
)
"""The browser itself refuses whatever is not served here. (The page's library needs inline scripts and templates.)"""
HEADERS = ((b"content-security-policy", POLICY.encode()), (b"referrer-policy", b"no-referrer"),
           (b"x-content-type-options", b"nosniff"))  # fmt: skip
CLOSED = ("/gradio_api/upload", "/gradio_api/file", "/gradio_api/proxy", "/gradio_api/stream", "/proxy", "/monitoring")
"""What the page's library offers and this page does not use: sending files, reading files, fetching from elsewhere."""
ASK = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>llm-persona playground</title><style>
body{font:1rem system-ui,sans-serif;max-width:24rem;margin:4rem auto;padding:0 1rem}
input,button{font:inherit;padding:.4rem .6rem;width:100%;box-sizing:border-box;margin-top:.5rem}</style>
<h1>llm-persona playground</h1><form><label>Token of this playground
<input name="token" type="password" autocomplete="off" autofocus required></label><button>Open</button></form></html>"""


class Door:
    """ASGI middleware in front of the page. With a token, only a browser that brought it once (`/?token=TOKEN`) is
    let in; it keeps it in a cookie that scripts and other sites do not get."""

    def __init__(self, app: Any, token: str | None) -> None:
        self.app, self.token = app, token
        self.pass_ = hashlib.sha256(f"playground {token}".encode()).hexdigest()  # (the cookie is not the token)
        self.cookie = f"llm_persona_{self.pass_[:8]}"  # (cookies are shared by all ports of a host)

    async def __call__(self, scope: Any, receive: Callable[[], Awaitable[Any]], send: Any) -> None:
        """Refuse, let in, or pass on with the policy's headers."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), *HEADERS]}
            await send(message)

        await (self._answer(scope) or self.app)(scope, receive, with_policy)

    def _answer(self, scope: Any) -> Response | None:
        if scope["path"].startswith(CLOSED):
            return PlainTextResponse("not offered here", 404)
        if self.token is None:
            return None
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if _same(given, self.token):
            back = RedirectResponse(".", 303)
            back.set_cookie(self.cookie, self.pass_, httponly=True, samesite="strict", path="/")
            return back
        headers = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in scope["headers"]}
        try:
            kept = SimpleCookie(headers.get("cookie", "")).get(self.cookie)
        except CookieError:
            kept = None
        if kept is not None and _same(kept.value, self.pass_):
            return None
        return HTMLResponse(ASK, 401)


def _same(given: str, wanted: str) -> bool:
    return secrets.compare_digest(given.encode(), wanted.encode())

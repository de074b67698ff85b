"""Real servers on loopback for tests: our own with a subject behind it, and a faulty one."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from contextlib import contextmanager

import uvicorn


@contextmanager
def running(app, **more):
    """Serve an ASGI app on a free port; yields its address. `more` goes to uvicorn."""
    settings = {"log_level": "error", "lifespan": "on", "timeout_graceful_shutdown": 1, **more}
    config = uvicorn.Config(app, host="127.0.0.1", port=0, **settings)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(timeout=10)


def completion(text, top=None, finish="stop"):
    """A chat completion as OpenAI's API gives it."""
    logprobs = None
    if top is not None:
        entries = [{"token": t, "logprob": p, "bytes": None} for t, p in top.items()]
        logprobs = {"content": [{**entries[0], "top_logprobs": entries}]}
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish,
              "logprobs": logprobs}  # fmt: skip
    usage = {"prompt_tokens": 7, "completion_tokens": 1, "total_tokens": 8}
    return {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}


async def live(receive, send):
    """An ASGI application's life from start to shutdown."""
    while (message := await receive())["type"] != "lifespan.shutdown":
        await send({"type": f"{message['type']}.complete"})
    await send({"type": "lifespan.shutdown.complete"})


async def asked(receive):
    """The JSON of a request's body."""
    body = b""
    while (message := await receive()).get("more_body"):
        body += message["body"]
    return json.loads(body + message["body"])


class Faulty:
    """A chat endpoint that misbehaves as told: `plan` names what each request gets, the last one for ever after.

    ok, 429, 429-after (with Retry-After), 500, cut (connection closed in mid-body), drip (a byte now and then
    until the client leaves), malformed (no JSON), empty (no choices), null (no text), 401, 404, 400, or a dict to send
    as it is.
    `dripping` is called when a drip has begun.
    """

    def __init__(self, *plan, reply=None, dripping=lambda: None):
        self.dripping = dripping
        self.plan = list(plan) or ["ok"]
        self.reply = reply or completion("42", {"42": -0.1, "7": -3.0})
        self.requests = []
        self.open = 0
        self.most_open = 0

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            await live(receive, send)
            return
        self.requests.append((await asked(receive), dict(scope["headers"])))
        what = self.plan.pop(0) if len(self.plan) > 1 else self.plan[0]
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            await self._answer(what, receive, send)
        finally:
            self.open -= 1

    async def _answer(self, what, receive, send):
        async def start(status, headers=()):
            head = [(b"content-type", b"application/json"), *headers]
            await send({"type": "http.response.start", "status": status, "headers": head})

        async def end(data=b"", more=False):
            await send({"type": "http.response.body", "body": data, "more_body": more})

        if what in ("429", "429-after", "500", "401", "404", "400"):
            await start(int(what[:3]), [(b"retry-after", b"0.2")] if what == "429-after" else [])
            await end(json.dumps({"error": {"message": "said no", "type": "x", "code": "y"}}).encode())
        elif what == "cut":
            await start(200, [(b"content-length", b"5000")])
            await end(b'{"id": "x", "choi')
        elif what == "drip":
            await start(200)
            await end(b" ", more=True)
            self.dripping()
            left = asyncio.ensure_future(receive())  # (the body was read: what comes is that the client has left)
            while not (await asyncio.wait([left], timeout=0.05))[0]:
                await end(b" ", more=True)
        elif what == "malformed":
            await start(200)
            await end(b"<html>oops")
        else:
            await asyncio.sleep(0.02)
            await start(200)
            reply = {"empty": {**self.reply, "choices": []}, "null": completion(None), "ok": self.reply}.get(
                what if isinstance(what, str) else "", what
            )
            await end(json.dumps(reply).encode())

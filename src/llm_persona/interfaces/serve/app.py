"""The routes of the server."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.responses import JSONResponse, Response, StreamingResponse

from llm_persona.analysis.vectors import PersonaVector
from llm_persona.domain.condition import Condition, Steer
from llm_persona.domain.errors import UserError, one_line
from llm_persona.interfaces.serve.guard import Guard, problem
from llm_persona.interfaces.serve.schema import ChatBody, Steering
from llm_persona.interfaces.serve.worker import Busy, Gone, Job, TooSlow, Worker
from llm_persona.subject.chat import render_chat
from llm_persona.subject.decode import Step
from llm_persona.subject.load import Subject


@dataclass(frozen=True)
class ServeLimits:
    """Bounds of one server."""

    new_tokens: int = 1024
    body_bytes: int = 1 << 20
    waiting: int = 64
    seconds: float = 300.0


def make_app(
    subject: Subject,
    vectors: Mapping[str, PersonaVector],
    system: str | None = None,
    token: str | None = None,
    limits: ServeLimits | None = None,
    hosts: tuple[str, ...] = (),
) -> FastAPI:
    """The server of one subject, in the state it is in. `vectors`: what requests may steer by, by name; `system`: the
    system turn of conversations that bring none."""
    limits = limits or ServeLimits()
    for name, vector in vectors.items():
        try:
            vector.check(subject.n_layers, subject.hidden_size, subject.name)
        except UserError as error:
            raise UserError(f"vector {name!r}: {error}") from error
    worker = Worker(subject, limits.waiting, limits.seconds)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        worker.close()

    app = FastAPI(title="llm-persona", docs_url=None, redoc_url=None, lifespan=lifespan)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        fault = error.errors()[0]
        place = ".".join(str(p) for p in fault["loc"][1:]) or "body"
        return problem(400, one_line(f"{place}: {fault['msg']}", 300))

    @app.exception_handler(400)
    async def unreadable(_: Request, error: Exception) -> JSONResponse:  # nested too deeply, or not UTF-8
        return problem(400, f"body: {one_line(str(getattr(error, 'detail', error)), 200)}; send a JSON object")

    @app.exception_handler(404)
    async def missing(request: Request, _: Exception) -> JSONResponse:
        return problem(404, f"no such address: {one_line(request.url.path, 80)}; POST /v1/chat/completions")

    @app.exception_handler(405)
    async def other_method(request: Request, _: Exception) -> JSONResponse:
        return problem(405, f"{request.method} is not understood here; POST /v1/chat/completions")

    @app.exception_handler(Exception)
    async def broken(_: Request, error: Exception) -> JSONResponse:
        return problem(500, f"internal error: {type(error).__name__}", "server_error")

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        entry = {"id": subject.name, "object": "model", "owned_by": "llm-persona", "vectors": sorted(vectors)}
        return {"object": "list", "data": [entry]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> Any:
        entry = (await models())["data"][0]
        return entry if name == subject.name else problem(404, f"no model {one_line(name, 80)!r} here")

    @app.post("/v1/chat/completions")
    async def chat(body: ChatBody, request: Request) -> Response:
        wanted = body.new_tokens or min(256, limits.new_tokens)
        if wanted > limits.new_tokens:
            return problem(400, f"max_tokens: {wanted} asked for, this server gives at most {limits.new_tokens}")
        if body.model and body.model != subject.name:
            return problem(404, f"no model {one_line(body.model, 80)!r} here; this is {subject.name!r}")
        turns = [("system" if m.role == "developer" else m.role, m.content) for m in body.messages]
        settings = {
            "max_new_tokens": wanted,
            "temperature": body.temperature,
            "top_p": body.top_p,
            "seed": body.seed,
            "top_logprobs": body.top_logprobs if body.logprobs else 0,
            "stop": body.stop,
        }
        frame = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": subject.name}
        try:
            condition = Condition("request", steers=tuple(_steer(s, vectors, subject) for s in body.persona))
            job = worker.start(lambda: render_chat(subject, turns, system), condition, **settings)
        except Exception as error:
            return _refusal(error)
        steps = job.steps()
        watch = asyncio.create_task(_give_up_when_gone(request, job))
        try:
            first = await anext(steps)
            if body.stream:
                return StreamingResponse(_stream(first, steps, frame, body, job), media_type="text/event-stream")
            found = [first, *[step async for step in steps]]
        except Exception as error:
            return _refusal(error)
        finally:
            watch.cancel()
            if not body.stream:
                await steps.aclose()
        return JSONResponse(_whole(found, frame, body, job.prompt_tokens))

    app.add_middleware(Guard, token=token, largest=limits.body_bytes, hosts=hosts)
    return app


async def _give_up_when_gone(request: Request, job: Job) -> None:
    """A client that goes away, while its request waits in line too, costs no more."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    job.give_up()


def _refusal(error: Exception) -> JSONResponse:
    if isinstance(error, Busy):
        return problem(429, str(error), "rate_limit_error", **{"Retry-After": "2"})
    if isinstance(error, Gone):
        return problem(503, str(error), "server_error")
    if isinstance(error, TooSlow):
        return problem(504, str(error), "timeout_error")
    if isinstance(error, UserError):
        return problem(400, str(error))
    return problem(500, f"internal error: {one_line(str(error), 200)}", "server_error")


def _steer(wanted: Steering, vectors: Mapping[str, PersonaVector], subject: Subject) -> Steer:
    if wanted.vector not in vectors:
        known = ", ".join(sorted(vectors)) or "none; start the server with --vector"
        raise UserError(f"persona: no vector {one_line(wanted.vector, 60)!r} here (known: {known})")
    vector = vectors[wanted.vector]
    layer: Any = wanted.layer
    if layer == "auto":
        layer = (vector.meta.get("recommended") or {}).get("balanced")
        if layer is None:
            raise UserError(f"persona: vector {wanted.vector!r} keeps no recommended layer; give one")
    if not 0 <= int(layer) < subject.n_layers:
        raise UserError(f"persona: layer {layer}; the model has layers 0 to {subject.n_layers - 1}")
    return Steer(vector, int(layer), wanted.coefficient, wanted.dose, wanted.vector)


def _logprobs(steps: list[Step]) -> dict[str, Any]:
    def entry(text: str, value: float) -> dict[str, Any]:
        return {"token": text, "logprob": max(value, -9999.0), "bytes": list(text.encode())}

    tokens = [
        {**entry(s.piece, s.logprob), "top_logprobs": [entry(text, value) for text, value in s.top]} for s in steps
    ]
    return {"content": tokens}


def _whole(steps: list[Step], frame: dict[str, Any], body: ChatBody, prompt: int) -> dict[str, Any]:
    choice: dict[str, Any] = {
        "index": 0,
        "message": {"role": "assistant", "content": "".join(s.text for s in steps)},
        "finish_reason": steps[-1].finish or "length",
        "logprobs": _logprobs(steps) if body.logprobs else None,
    }
    return {**frame, "object": "chat.completion", "choices": [choice], "usage": _usage(prompt, len(steps))}


def _usage(prompt: int, written: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}


async def _stream(
    first: Step, steps: AsyncGenerator[Step, None], frame: dict[str, Any], body: ChatBody, job: Job
) -> AsyncIterator[str]:
    count = 1

    def event(delta: dict[str, Any], step: Step | None = None) -> str:
        choice: dict[str, Any] = {"index": 0, "delta": delta, "finish_reason": (step.finish or None) if step else None}
        if step is not None and body.logprobs:
            choice["logprobs"] = _logprobs([step])
        chunk = {**frame, "object": "chat.completion.chunk", "choices": [choice]}
        return f"data: {json.dumps(chunk, allow_nan=False)}\n\n"

    try:
        yield event({"role": "assistant", "content": ""})
        yield event({"content": first.text}, first)
        async for step in steps:
            count += 1
            yield event({"content": step.text}, step)
        if body.stream_options.include_usage:
            usage = {"object": "chat.completion.chunk", "choices": [], "usage": _usage(job.prompt_tokens, count)}
            yield f"data: {json.dumps({**frame, **usage})}\n\n"
    except Exception as error:
        message = {"error": {"message": one_line(str(error), 200), "type": "server_error"}}
        yield f"data: {json.dumps(message)}\n\n"
    finally:
        await steps.aclose()
    yield "data: [DONE]\n\n"

"""The endpoints that judges use, asked to write instead of to grade: for drafts of traits."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from llm_persona.domain.errors import UserError
from llm_persona.domain.store import digest, read_json, remembered
from llm_persona.instruments.judging.anthropic_api import AnthropicEndpoint
from llm_persona.instruments.judging.remote import THINKING_TOKENS
from llm_persona.subject.generate import generate
from llm_persona.subject.load import Subject, load_subject
from llm_persona.subject.locate import DEFAULT_MODEL, identify
from llm_persona.subject.remote.api_subject import replies_folder
from llm_persona.subject.remote.caller import CHARACTERS_PER_TOKEN, Caller, Estimate, Limits
from llm_persona.subject.remote.openai_api import OpenAIEndpoint
from llm_persona.subject.remote.requests import ChatRequest, Failure, Reply
from llm_persona.subject.smollm2 import cache_folder

KINDS = "openai:NAME, anthropic:NAME, local, local:MODEL or scripted:FILE"
TEMPERATURE = 0.7
"""Of a text that is written; what an endpoint wrote once is kept, so that a second run reads the same."""
SECONDS = 600.0
"""For one reply of some thousand tokens, its last byte included."""


@dataclass(frozen=True)
class WriteRequest:
    """One text to be written: for which step of a draft, and the whole user turn."""

    step: str
    prompt: str
    max_tokens: int


class Writer(Protocol):
    """Anything that writes a text to a prompt."""

    @property
    def identity(self) -> dict[str, Any]:
        """Who writes, as plain data without secrets."""

    def write(self, requests: Sequence[WriteRequest]) -> list[Reply | Failure]:
        """One reply a request, in their order.

        Raises:
            UserError: no request of this writer can succeed (wrong key, no server, no such model).
        """


class RemoteWriter:
    """A writer behind one endpoint; replies are kept as they come, so no text is paid for twice."""

    def __init__(self, caller: Caller, seed: int = 0, more_tokens: int = 0) -> None:
        self.caller = caller
        self.seed = seed
        self.more_tokens = more_tokens

    @property
    def identity(self) -> dict[str, Any]:
        """Endpoint and model; the provider may change the model behind the name."""
        return self.caller.endpoint.identity

    def write(self, requests: Sequence[WriteRequest]) -> list[Reply | Failure]:
        """One reply a request; a call that failed for good is a `Failure`.

        Raises:
            UserError: the endpoint cannot be reached or refuses such requests.
        """
        return self.caller.ask_all([self._chat(request) for request in requests])

    def _chat(self, request: WriteRequest) -> ChatRequest:
        tokens = request.max_tokens + self.more_tokens
        return ChatRequest((("user", request.prompt),), tokens, TEMPERATURE, seed=self.seed)


class LocalWriter:
    """A model that runs here, greedy; loaded when the first text has to be written."""

    def __init__(self, identity: dict[str, Any], load: Callable[[], Subject]) -> None:
        self.identity = {"kind": "local", **identity}
        self._load = load
        self._subject: Subject | None = None

    def write(self, requests: Sequence[WriteRequest]) -> list[Reply | Failure]:
        """One reply a request; a prompt beyond the model's length is a `Failure`."""
        found: list[Reply | Failure] = []
        for request in requests:
            place = cache_folder() / "written" / f"{digest([self.identity, request.prompt, request.max_tokens])}.json"
            kept = remembered(place, partial(self._one, request))
            found.append(Failure(kept["failed"]) if kept["failed"] else Reply(kept["text"], kept["finish"]))
        return found

    def _one(self, request: WriteRequest) -> dict[str, str]:
        if self._subject is None:
            self._subject = self._load()
        try:
            answer = generate(self._subject, [request.prompt], request.max_tokens)[0]
        except UserError as error:  # beyond the model's length
            return {"text": "", "finish": "", "failed": str(error)}
        return {"text": answer.text, "finish": "stop" if answer.finished else "length", "failed": ""}


class ScriptedWriter:
    """Writes by a function of the request: for tests and demonstrations."""

    def __init__(self, reply: Callable[[WriteRequest], str], name: str) -> None:
        self.identity: dict[str, Any] = {"kind": "scripted", "model": name}
        self._reply = reply

    def write(self, requests: Sequence[WriteRequest]) -> list[Reply | Failure]:
        """One reply a request."""
        return [Reply(self._reply(request), "stop") for request in requests]


def estimate_writing(
    writer: Writer, prompts: Sequence[tuple[int, int]], rates: tuple[float, float] | None = None
) -> Estimate | None:
    """What texts would cost at most, before anything is asked; None where nobody is paid.

    Args:
        prompts: (characters of the prompt, greatest number of new tokens) of each call.
    """
    if not isinstance(writer, RemoteWriter):
        return None
    sent = sum(size for size, _ in prompts) // CHARACTERS_PER_TOKEN
    back = sum(tokens + writer.more_tokens for _, tokens in prompts)
    price = None if rates is None else (sent * rates[0] + back * rates[1]) / 1e6
    return Estimate(len(prompts), 0, sent, back, price)


def open_writer(spec: str, base_url: str | None = None, limits: Limits | None = None, seed: int = 0) -> Writer:
    """The writer that `--with` names, by the names that `--judge` takes too.

    Args:
        seed: tells drafts apart; the same seed reads what was written before.

    Raises:
        UserError: an unknown kind, or a name that its kind does not take.
    """
    kind, _, name = spec.partition(":")
    if base_url is not None and kind not in ("openai", "anthropic"):
        raise UserError(f"--base-url: is the address of an API, and --with {spec} is none; write openai:NAME")
    if kind == "openai":
        return RemoteWriter(Caller(OpenAIEndpoint(name, base_url), replies_folder(), limits), seed)
    if kind == "anthropic":
        return RemoteWriter(Caller(AnthropicEndpoint(name, base_url), replies_folder(), limits), seed, THINKING_TOKENS)
    if kind == "local":
        model = name or DEFAULT_MODEL
        return LocalWriter(identify(model, "auto", "auto"), lambda: load_subject(model))
    if kind == "scripted" and name:
        return scripted_writer(name)
    raise UserError(f"--with {spec}: writes nothing; give {KINDS}")


def scripted_writer(path: str | Path) -> ScriptedWriter:
    """A writer from a JSON file: step of a draft to its replies, in the order in which they are asked for (the last one
    for ever after). A reply is a text, or an object that is written as JSON.

    Raises:
        UserError: no such file, or a field of another kind.
    """
    table = read_json(Path(path), "script of a writer")
    if not isinstance(table, dict) or not all(isinstance(v, list) and v for v in table.values()):
        raise UserError(f"{path}: a writer's script maps each step of a draft to a list of replies")
    asked: dict[str, int] = {}

    def reply(request: WriteRequest) -> str:
        replies = table.get(request.step, ["no reply in the script"])
        number = asked[request.step] = asked.get(request.step, -1) + 1
        found = replies[min(number, len(replies) - 1)]
        return found if isinstance(found, str) else json.dumps(found)

    return ScriptedWriter(reply, f"{Path(path).name}:{digest(table)[:16]}")

"""Readers of what an API replies, and of a reply that was kept."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import mutations
from reader import Files, Reader, strict, within
from reader_inputs import CACHED, MESSAGE, REPLY

from llm_persona.domain.errors import UserError
from llm_persona.domain.store import write_json


def api_readers(written: Files) -> list[Reader]:
    try:
        import anthropic
        import httpx2
        import openai
    except ImportError:
        return []
    from llm_persona.instruments.judging.anthropic_api import AnthropicEndpoint
    from llm_persona.instruments.judging.scoring import verdict_of_reply
    from llm_persona.subject.remote.api_subject import _shares
    from llm_persona.subject.remote.caller import Caller
    from llm_persona.subject.remote.openai_api import OpenAIEndpoint
    from llm_persona.subject.remote.requests import ChatRequest, Passing, Refused, Reply

    request = ChatRequest((("user", "Q"),), 3, top_logprobs=5)

    def transport(data: bytes, status: int) -> Any:
        headers = {"content-type": "application/json", "retry-after": data[:12].decode("latin-1").replace("\n", "")}
        return httpx2.AsyncClient(transport=httpx2.MockTransport(
            lambda _: httpx2.Response(status, content=data, headers=headers)))  # fmt: skip

    class OpenAI(OpenAIEndpoint):
        answer = (b"", 200)

        def _open(self, sdk: Any, key: Any) -> Any:
            client = transport(*self.answer)
            return openai.AsyncOpenAI(api_key="k", base_url=self.base_url, max_retries=0, http_client=client)

    class Anthropic(AnthropicEndpoint):
        answer = (b"", 200)

        def _open(self, sdk: Any, key: Any) -> Any:
            client = transport(*self.answer)
            return anthropic.AsyncAnthropic(api_key="k", base_url=self.base_url, max_retries=0, http_client=client)

    def asked(kind: Any, status: int = 200) -> Callable[[bytes], Any]:
        def read(data: bytes) -> Any:
            endpoint = kind("m", "http://localhost:1/v1")
            endpoint.answer = (data, status)
            try:
                found = asyncio.run(endpoint.ask(request))
            except (Passing, Refused) as error:
                assert getattr(error, "wait", None) is None or error.wait == error.wait
                raise UserError(f"no reply: {' '.join(str(error).split())}") from error
            return used(found)

        return read

    def used(found: Reply) -> Any:
        verdict = verdict_of_reply(found)
        within(verdict.score, 0, 100)
        within(verdict.mass, 0, 1.06)
        shares = _shares(found, ["42", "7"], upstream=False)
        assert all(s != s or 0 <= s <= 1.06 for s in shares), shares
        write_json(written.folder / "out.json", [found, verdict.as_json()])
        again = Reply.from_json(strict(written.folder / "out.json")[0])
        assert again.completion_tokens == found.completion_tokens >= 0
        return verdict.as_json()

    def cached(data: bytes) -> Any:
        caller = Caller(OpenAI("m", "http://localhost:1/v1"), written.folder / "replies")
        place = caller._place(request)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
        found = caller._cached(request)
        if found is None:
            raise UserError("damaged: asked for again")
        return used(found)

    return [
        Reader("OpenAI's reply", (REPLY,), mutations.json_bytes, asked(OpenAI), "no reply"),
        Reader("OpenAI's error", ({"error": {"message": "no", "type": "x", "code": "y"}},), mutations.json_bytes,
               asked(OpenAI, 429), "no reply"),
        Reader("Anthropic's reply", (MESSAGE,), mutations.json_bytes, asked(Anthropic), "no reply"),
        Reader("kept reply", (CACHED,), mutations.json_bytes, cached, "damaged"),
    ]  # fmt: skip

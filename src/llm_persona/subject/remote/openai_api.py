"""Any OpenAI-compatible chat endpoint (OpenAI, vLLM, llama.cpp, Ollama, our own `serve`), by the official SDK."""

from __future__ import annotations

from typing import Any

from llm_persona.subject.remote.requests import ChatRequest, Reply, likeliest, size_of
from llm_persona.subject.remote.sdk_endpoint import LONGEST_REPLY, SdkEndpoint

KEY = "OPENAI_API_KEY"


class OpenAIEndpoint(SdkEndpoint):
    """Chat completions. A server of your own needs no key."""

    kind = "openai"
    key = KEY
    official = "https://api.openai.com/v1"
    base_error = "OpenAIError"

    def _open(self, sdk: Any, key: str | None) -> Any:
        return sdk.AsyncOpenAI(api_key=key or "none", base_url=self.base_url, max_retries=0)

    async def _call(self, client: Any, request: ChatRequest) -> Any:
        given: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": role, "content": text} for role, text in request.messages],
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "seed": request.seed + request.draw,
        }
        if request.top_logprobs:
            given |= {"logprobs": True, "top_logprobs": request.top_logprobs}
        if request.extra:
            given["extra_body"] = dict(request.extra)
        return await client.chat.completions.create(**given)

    def _read(self, found: Any) -> Reply:
        choice = found.choices[0]
        text = choice.message.content
        if text is None:
            text = ""
        if not isinstance(text, str) or len(text) > LONGEST_REPLY:
            raise TypeError("no text")
        steps = (choice.logprobs.content or []) if getattr(choice, "logprobs", None) is not None else []
        top = tuple(likeliest((str(t.token), t.logprob) for t in step.top_logprobs) for step in steps)
        usage = getattr(found, "usage", None)
        sizes = (size_of(getattr(usage, name, 0)) for name in ("prompt_tokens", "completion_tokens"))
        return Reply(self._without_key(text), str(choice.finish_reason or ""), top, *sizes)

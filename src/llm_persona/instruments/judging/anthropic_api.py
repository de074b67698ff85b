"""Anthropic's Messages API, by the official SDK, as an endpoint of the caller."""

from __future__ import annotations

from typing import Any

from llm_persona.domain.errors import UserError
from llm_persona.subject.remote.requests import ChatRequest, Reply, size_of
from llm_persona.subject.remote.sdk_endpoint import LONGEST_REPLY, SdkEndpoint

KEY = "ANTHROPIC_API_KEY"


class AnthropicEndpoint(SdkEndpoint):
    """Messages.

    Temperature and seed are not sent: current models refuse the first and none knows the second, so repeated readings
    differ by the model's own draw, which the gate measures as retest noise.
    """

    kind = "anthropic"
    key = KEY
    official = "https://api.anthropic.com"
    base_error = "AnthropicError"

    def _open(self, sdk: Any, key: str | None) -> Any:
        if key is None:
            raise UserError(f"anthropic:{self.model} needs {KEY}; set it in the environment or in .env")
        return sdk.AsyncAnthropic(api_key=key, base_url=self.base_url, max_retries=0)

    async def _call(self, client: Any, request: ChatRequest) -> Any:
        turns = [{"role": role, "content": text} for role, text in request.messages if role != "system"]
        given: dict[str, Any] = {"model": self.model, "messages": turns, "max_tokens": request.max_tokens}
        system = [text for role, text in request.messages if role == "system"]
        if system:
            given["system"] = system[0]
        return await client.messages.create(**given)

    def _read(self, found: Any) -> Reply:
        """The reply's text blocks; thinking is left out. No text at all is malformed unless the model was cut off or
        refused."""
        text = "".join(block.text for block in found.content if block.type == "text")
        finish = str(found.stop_reason or "")
        if len(text) > LONGEST_REPLY or not (text or finish in ("refusal", "max_tokens")):
            raise TypeError("no text")
        sizes = size_of(found.usage.input_tokens), size_of(found.usage.output_tokens)
        return Reply(self._without_key(text), finish, (), *sizes)

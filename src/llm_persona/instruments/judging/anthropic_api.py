"""Anthropic's Messages API, by the official SDK, as an endpoint of the caller."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import urlsplit

from llm_persona.domain.errors import UserError, one_line
from llm_persona.subject.remote.keys import find_key, hidden
from llm_persona.subject.remote.requests import ChatRequest, Passing, Refused, Reply

KEY = "ANTHROPIC_API_KEY"
OFFICIAL = "https://api.anthropic.com"
LONGEST_REPLY = 4 << 20


class AnthropicEndpoint:
    """One model at one address. The key is looked up when a client is made.

    Temperature and seed are not sent: current models refuse the first and none knows the second, so repeated readings
    differ by the model's own draw, which the gate measures as retest noise.
    """

    def __init__(self, model: str, base_url: str | None = None) -> None:
        if not model:
            raise UserError("anthropic: names no model; write anthropic:NAME")
        self.model = model
        self.base_url = base_url or OFFICIAL
        parts = urlsplit(self.base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserError(f"--base-url {base_url}: not an address; it begins with http:// or https://")
        port = f":{parts.port}" if parts.port else ""
        self.address = f"{parts.scheme}://{parts.hostname}{port}{parts.path}"
        self._client: Any = None
        self._loop: Any = None

    @property
    def identity(self) -> dict[str, Any]:
        """Kind, model and address; credentials in the address are left out."""
        return {"kind": "anthropic", "model": self.model, "address": self.address}

    def _connect(self) -> Any:
        loop = asyncio.get_running_loop()
        if self._client is None or self._loop is not loop:
            try:
                import anthropic
            except ImportError as error:
                raise UserError("anthropic: judges need the extra [api]: pip install 'llm-persona[api]'") from error
            key = find_key(KEY)
            if key is None:
                raise UserError(f"anthropic:{self.model} needs {KEY}; set it in the environment or in .env")
            self._client = anthropic.AsyncAnthropic(api_key=key, base_url=self.base_url, max_retries=0)
            self._loop = loop
        return self._client

    async def ask(self, request: ChatRequest) -> Reply:
        """One message."""
        client = self._connect()
        import anthropic

        turns = [{"role": role, "content": text} for role, text in request.messages if role != "system"]
        given: dict[str, Any] = {"model": self.model, "messages": turns, "max_tokens": request.max_tokens}
        system = [text for role, text in request.messages if role == "system"]
        if system:
            given["system"] = system[0]
        try:
            found = await client.messages.create(**given)
        except (anthropic.AuthenticationError, anthropic.PermissionDeniedError) as error:
            raise Refused(f"the key was not accepted ({error.status_code}); check {KEY}") from None
        except anthropic.NotFoundError as error:
            raise Refused(f"no such model or address ({self._said(error)})") from None
        except (anthropic.BadRequestError, anthropic.UnprocessableEntityError) as error:
            raise Refused(f"the request was not accepted ({self._said(error)})") from None
        except anthropic.APIStatusError as error:
            wait = error.response.headers.get("retry-after", "")
            raise Passing(f"HTTP {error.status_code}", _seconds(wait)) from None
        except anthropic.APITimeoutError:
            raise Passing("timed out") from None
        except anthropic.APIConnectionError as error:
            cause = error.__cause__ or error
            raise Passing(f"connection failed ({type(cause).__name__})") from None
        except (anthropic.AnthropicError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise Passing(f"malformed reply ({type(error).__name__})") from None
        return self._reply(found)

    def _reply(self, found: Any) -> Reply:
        """The reply's text blocks; thinking is left out.

        Raises:
            Passing: no content, or none that is text although the model was not cut off or refused.
        """
        try:
            text = "".join(block.text for block in found.content if block.type == "text")
            finish = str(found.stop_reason or "")
            if len(text) > LONGEST_REPLY or not (text or finish in ("refusal", "max_tokens")):
                raise TypeError("no text")
            sizes = int(found.usage.input_tokens or 0), int(found.usage.output_tokens or 0)
            return Reply(hidden(text, find_key(KEY)), finish, (), *sizes)
        except (AttributeError, IndexError, TypeError, ValueError) as error:
            raise Passing(f"malformed reply ({type(error).__name__})") from None

    def _said(self, error: Any) -> str:
        return one_line(hidden(str(error), find_key(KEY)), 200)

    async def close(self) -> None:
        """Give connections back."""
        if self._client is not None:
            client, self._client = self._client, None
            await client.close()


def _seconds(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None  # none, or a date: our own pause is as good

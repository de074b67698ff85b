"""Any OpenAI-compatible chat endpoint (OpenAI, vLLM, llama.cpp, Ollama, our own `serve`), by the official SDK."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import urlsplit

from llm_persona.domain.errors import UserError, one_line
from llm_persona.subject.remote.keys import find_key, hidden
from llm_persona.subject.remote.requests import ChatRequest, NotAccepted, Passing, Refused, Reply

KEY = "OPENAI_API_KEY"
OFFICIAL = "https://api.openai.com/v1"
LONGEST_REPLY = 4 << 20
"""Characters of a reply that are taken; a server that sends more is faulty."""


class OpenAIEndpoint:
    """One model at one base URL. The key is looked up when a client is made; a server of your own needs none."""

    def __init__(self, model: str, base_url: str | None = None) -> None:
        if not model:
            raise UserError("openai: names no model; write openai:NAME")
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
        return {"kind": "openai", "model": self.model, "address": self.address}

    def _connect(self) -> Any:
        loop = asyncio.get_running_loop()
        if self._client is None or self._loop is not loop:
            try:
                import openai
            except ImportError as error:
                raise UserError("models behind an API need the extra [api]: pip install 'llm-persona[api]'") from error
            key = find_key(KEY)
            if key is None and self.base_url == OFFICIAL:
                raise UserError(f"openai:{self.model} needs {KEY}; set it in the environment or in .env")
            self._client = openai.AsyncOpenAI(api_key=key or "none", base_url=self.base_url, max_retries=0)
            self._loop = loop
        return self._client

    async def ask(self, request: ChatRequest) -> Reply:
        """One chat completion."""
        client = self._connect()
        import openai

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
        try:
            found = await client.chat.completions.create(**given)
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            raise Refused(f"the key was not accepted ({error.status_code}); check {KEY}") from None
        except openai.NotFoundError as error:
            raise Refused(f"no such model or address ({self._said(error)})") from None
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            raise NotAccepted(f"the request was not accepted ({self._said(error)})") from None
        except openai.APIStatusError as error:
            wait = error.response.headers.get("retry-after")
            raise Passing(f"HTTP {error.status_code}", _seconds(wait)) from None
        except openai.APITimeoutError:
            raise Passing("timed out") from None
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            raise Passing(f"connection failed ({type(cause).__name__})") from None
        except (openai.OpenAIError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise Passing(f"malformed reply ({type(error).__name__})") from None
        return _reply(found)

    def _said(self, error: Any) -> str:
        return one_line(hidden(str(error), find_key(KEY)), 200)

    async def close(self) -> None:
        """Give connections back."""
        if self._client is not None:
            client, self._client = self._client, None
            await client.close()


def _seconds(text: str | None) -> float | None:
    try:
        return float(text) if text is not None else None
    except ValueError:
        return None  # a date: our own pause is as good


def _reply(found: Any) -> Reply:
    """The reply in a completion, whatever a server made of it.

    Raises:
        Passing: no choice, or one without a text.
    """
    try:
        choice = found.choices[0]
        text = choice.message.content
        if text is None:
            text = ""
        if not isinstance(text, str) or len(text) > LONGEST_REPLY:
            raise TypeError("no text")
        steps = (choice.logprobs.content or []) if getattr(choice, "logprobs", None) is not None else []
        top = tuple({str(t.token): float(t.logprob) for t in step.top_logprobs} for step in steps)
        usage = getattr(found, "usage", None)
        sizes = (getattr(usage, "prompt_tokens", 0) or 0, getattr(usage, "completion_tokens", 0) or 0)
        return Reply(text, str(choice.finish_reason or ""), top, int(sizes[0]), int(sizes[1]))
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise Passing(f"malformed reply ({type(error).__name__})") from None

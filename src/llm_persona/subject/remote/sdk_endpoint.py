"""What an endpoint by an official SDK has in common, whoever's it is: address, key, client, and what its errors mean.

The SDKs of OpenAI and Anthropic come from one generator and name their errors alike.
"""

from __future__ import annotations

import asyncio
import math
from abc import ABC, abstractmethod
from importlib import import_module
from typing import Any, ClassVar
from urllib.parse import urlsplit

from llm_persona.domain.errors import UserError, one_line
from llm_persona.subject.remote.keys import find_key, hidden, without_credentials
from llm_persona.subject.remote.requests import ChatRequest, NotAccepted, Passing, Refused, Reply

LONGEST_REPLY = 4 << 20
"""Characters of a reply that are taken; a server that sends more is faulty."""
MALFORMED = (AttributeError, LookupError, TypeError, ValueError, ArithmeticError, RecursionError)
"""What reading a reply of another form than the API's raises."""


class SdkEndpoint(ABC):
    """One model at one address. The key is looked up when a client is made."""

    kind: ClassVar[str]
    """The SDK's module, and the prefix that names such a model."""
    key: ClassVar[str]
    """Name of the key in the environment."""
    official: ClassVar[str]
    base_error: ClassVar[str]
    """The SDK's name for any error of its own."""

    def __init__(self, model: str, base_url: str | None = None) -> None:
        if not model:
            raise UserError(f"{self.kind}: names no model; write {self.kind}:NAME")
        self.model = model
        self.base_url = base_url or self.official
        try:
            parts = urlsplit(self.base_url)
            port = f":{parts.port}" if parts.port else ""
            fit = parts.scheme in ("http", "https") and bool(parts.hostname)
        except ValueError:  # half an IPv6 address, or a port beyond 65535
            fit = False
        if not fit:
            shown = without_credentials(str(base_url))
            raise UserError(f"--base-url {shown}: not an address; it begins with http:// or https://")
        self.address = f"{parts.scheme}://{parts.hostname}{port}{parts.path}"
        self._client: Any = None
        self._loop: Any = None

    @property
    def identity(self) -> dict[str, Any]:
        """Kind, model and address; credentials in the address are left out."""
        return {"kind": self.kind, "model": self.model, "address": self.address}

    @abstractmethod
    def _open(self, sdk: Any, key: str | None) -> Any:
        """A client of the SDK that does not retry by itself."""

    @abstractmethod
    async def _call(self, client: Any, request: ChatRequest) -> Any:
        """One call, by the SDK's own object."""

    @abstractmethod
    def _read(self, found: Any) -> Reply:
        """The reply in what came back; any of `MALFORMED` says that it is none."""

    def _sdk(self) -> Any:
        try:
            return import_module(self.kind)
        except ImportError as error:
            raise UserError(
                f"{self.kind}: models behind an API need the extra [api]: pip install 'llm-persona[api]'"
            ) from error

    def _connect(self, sdk: Any) -> Any:
        loop = asyncio.get_running_loop()
        if self._client is None or self._loop is not loop:
            key = find_key(self.key)
            if key is None and self.base_url == self.official:
                raise UserError(f"{self.kind}:{self.model} needs {self.key}; set it in the environment or in .env")
            self._client, self._loop = self._open(sdk, key), loop
        return self._client

    async def ask(self, request: ChatRequest) -> Reply:
        """One call, no retry.

        Raises:
            Refused: no such request will succeed. Passing: it may succeed later.
        """
        sdk = self._sdk()
        client = self._connect(sdk)
        try:
            found = await self._call(client, request)
        except (sdk.AuthenticationError, sdk.PermissionDeniedError) as error:
            raise Refused(f"the key was not accepted ({error.status_code}); check {self.key}") from None
        except sdk.NotFoundError as error:
            raise Refused(f"no such model or address ({self._said(error)})") from None
        except (sdk.BadRequestError, sdk.UnprocessableEntityError) as error:
            raise NotAccepted(f"the request was not accepted ({self._said(error)})") from None
        except sdk.APIStatusError as error:
            raise Passing(f"HTTP {error.status_code}", _seconds(error.response.headers.get("retry-after"))) from None
        except sdk.APITimeoutError:
            raise Passing("timed out") from None
        except sdk.APIConnectionError as error:
            raise Passing(f"connection failed ({type(error.__cause__ or error).__name__})") from None
        except (getattr(sdk, self.base_error), *MALFORMED) as error:
            raise Passing(f"malformed reply ({type(error).__name__})") from None
        try:
            return self._read(found)
        except MALFORMED as error:
            raise Passing(f"malformed reply ({type(error).__name__})") from None

    def _without_key(self, text: str) -> str:
        """What a server may echo is kept without the key."""
        return hidden(text, find_key(self.key))

    def _said(self, error: Any) -> str:
        return one_line(self._without_key(str(error)), 200)

    async def close(self) -> None:
        """Give connections back."""
        if self._client is not None:
            client, self._client = self._client, None
            await client.close()


def _seconds(text: str | None) -> float | None:
    try:
        found = float(text) if text is not None else None
    except ValueError:
        return None  # a date: our own pause is as good
    return found if found is not None and math.isfinite(found) else None

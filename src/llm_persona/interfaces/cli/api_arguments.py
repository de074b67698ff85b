"""What a command needs to know of a model or judge behind an API: address, calls at once, limit, price."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import click

from llm_persona.interfaces.cli.model_options import load_model
from llm_persona.interfaces.cli.options import chain

call_options = chain(
    click.option("--base-url", help="Address of an OpenAI-compatible server, e.g. http://localhost:8000/v1."),
    click.option("--concurrency", default=8, show_default=True, type=click.IntRange(1, 256), help="Calls at once."),
    click.option("--max-calls", type=click.IntRange(min=1), help="Make at most N calls; the next run goes on."),
)
api_options = chain(
    call_options,
    click.option("--price", help="IN/OUT: price of a million tokens, for the estimate, e.g. 0.15/0.60."),
)


@dataclass(frozen=True)
class ApiArguments:
    """The raw values of `api_options`."""

    base_url: str | None
    concurrency: int
    max_calls: int | None
    price: str | None

    @property
    def rates(self) -> tuple[float, float] | None:
        """Price of a million tokens in and out.

        Raises:
            UserError: `--price` is not two numbers.
        """
        from llm_persona.domain.errors import UserError

        if self.price is None:
            return None
        try:
            sent, back = (float(part) for part in self.price.split("/"))
        except ValueError as error:
            raise UserError(f"--price {self.price}: write IN/OUT, e.g. 0.15/0.60") from error
        return sent, back

    def remote(self, model: str) -> bool:
        """Whether the model is behind an API."""
        return self.base_url is not None or model.startswith("openai:")

    def load(self, model: str, dtype: str, device: str, engine: Any = "transformers") -> Any:
        """The subject: here, or behind an API where `--base-url` or the prefix `openai:` says so.

        Raises:
            UserError: an engine is named for a model behind an API.
        """
        from llm_persona.domain.errors import UserError

        if not self.remote(model):
            return load_model(model, dtype, device, engine)
        if engine != "transformers":
            raise UserError(f"--engine {engine}: {model} is behind an API, which runs it; leave --engine out")
        from llm_persona.subject.remote.api_subject import connect
        from llm_persona.subject.remote.caller import Limits

        return connect(model, self.base_url, Limits(self.concurrency, max_calls=self.max_calls))


def api_from(arguments: dict[str, Any]) -> ApiArguments:
    """Take the options of `api_options` out of a command's keyword arguments."""
    return ApiArguments(**{name: arguments.pop(name) for name in ("base_url", "concurrency", "max_calls", "price")})

"""`llm-persona serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from llm_persona.interfaces.cli.model_options import load_model, subject_options

CONNECTIONS = 256
"""At once; further ones are refused (503)."""


@click.command(epilog="Example: llm-persona serve --vector openness.safetensors --port 8000")
@click.option("--vector", "vectors", multiple=True, type=click.Path(), help="A vector requests may steer by "
              "(repeatable): FILE, or NAME=FILE.")  # fmt: skip
@click.option("--adapter", help="Serve the model with this LoRA adapter (PEFT folder).")
@click.option("--system", help="System turn of conversations that bring none.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535))
@click.option("--token", envvar="LLM_PERSONA_TOKEN", help="Ask clients for this token (needed beyond loopback).")
@click.option("--max-new-tokens", default=1024, show_default=True, type=click.IntRange(min=1))
@click.option("--max-waiting", default=64, show_default=True, type=click.IntRange(min=1), help="Requests in line.")
@click.option("--timeout", default=300.0, show_default=True, type=click.FloatRange(min=1), help="Seconds a request.")
@subject_options
def serve(
    vectors: tuple[str, ...], adapter: str | None, system: str | None, host: str, port: int, token: str | None,
    max_new_tokens: int, max_waiting: int, timeout: float, model: str, dtype: str, device: str, **_: Any,
) -> None:  # fmt: skip
    """Serve the model as an OpenAI-compatible endpoint; a request's `persona` field steers it."""
    from llm_persona.analysis.vectors import PersonaVector
    from llm_persona.domain.condition import Condition
    from llm_persona.domain.errors import UserError
    from llm_persona.interfaces.cli.listening import listen

    try:
        import uvicorn

        from llm_persona.interfaces.serve.app import ServeLimits, make_app
        from llm_persona.interfaces.serve.guard import LOOPBACK, checked_token, reaches_beyond
        from llm_persona.interfaces.serve.slow_clients import TimedProtocol
    except ImportError as error:
        raise UserError("serve needs the extra [serve]: pip install 'llm-persona[serve]'") from error
    named: dict[str, PersonaVector] = {}
    for text in vectors:
        name, mark, path = text.partition("=")
        loaded = PersonaVector.load(path if mark else text)
        name = name if mark else str(loaded.meta.get("trait") or Path(text).stem)
        if name in named:
            raise UserError(f"--vector {text}: the name {name!r} is taken; write NAME=FILE")
        named[name] = loaded
    condition = Condition("served", adapter=adapter)
    listener = listen(host, port)
    exposed = reaches_beyond(listener.getsockname()[0])
    given, token = token, checked_token(token, exposed)
    if token is not None and given is None:
        click.echo(f"listening beyond this machine: clients need Authorization: Bearer {token}", err=True)
    subject = load_model(model, dtype, device)
    limits = ServeLimits(new_tokens=max_new_tokens, waiting=max_waiting, seconds=timeout)
    with listener, subject.under(condition):
        app = make_app(subject, named, system, token, limits, () if exposed else LOOPBACK)
        address = f"http://{host}:{listener.getsockname()[1]}/v1"
        click.echo(f"serving {subject.name} at {address} (vectors: {', '.join(named) or 'none'})", err=True)
        config = uvicorn.Config(
            app, http=TimedProtocol, ws="none", log_level="warning", use_colors=False, timeout_keep_alive=15,
            timeout_graceful_shutdown=5, limit_concurrency=CONNECTIONS,
        )  # fmt: skip
        uvicorn.Server(config).run(sockets=[listener])

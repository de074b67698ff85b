"""`llm-persona playground`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from llm_persona.interfaces.cli.model_options import subject_options


@click.command(epilog="Example: llm-persona playground runs/first")
@click.argument("run", required=False, type=click.Path())
@click.option("--vector", "vectors", multiple=True, type=click.Path(), help="Also offer this vector file (repeatable).")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=7860, show_default=True, type=click.IntRange(0, 65535))
@click.option("--token", envvar="LLM_PERSONA_TOKEN", help="Ask browsers for this token (needed beyond loopback).")
@click.option("--max-new-tokens", default=256, show_default=True, type=click.IntRange(8, 4096),
              help="Longest answer that may be asked for.")  # fmt: skip
@click.option("--timeout", default=300.0, show_default=True, type=click.FloatRange(min=1), help="Seconds a question.")
@subject_options
@click.pass_context
def playground(
    ctx: click.Context, run: str | None, vectors: tuple[str, ...], host: str, port: int, token: str | None,
    max_new_tokens: int, timeout: float, model: str, dtype: str, device: str,
) -> None:  # fmt: skip
    """Open a local web page that shows base and steered answers side by side.

    RUN is a run folder, whose model, vectors, adapters and usable ranges are offered. Without it (and without --vector)
    the page offers what it finds in runs/, and can make a quick vector.
    """
    from importlib.util import find_spec

    from llm_persona.domain.errors import UserError

    if find_spec("gradio") is None:
        raise UserError("playground needs the extra [playground]: pip install 'llm-persona[playground]'")
    from llm_persona.interfaces.cli.listening import listen
    from llm_persona.interfaces.cli.model_options import load_model
    from llm_persona.interfaces.cli.terminal import status
    from llm_persona.interfaces.playground.shelf import stock
    from llm_persona.interfaces.serve.guard import LOOPBACK, checked_token

    exposed = host not in LOOPBACK
    if exposed and token is None:
        raise UserError(
            f"--host {host}: others can reach that address; give --token TOKEN (or set LLM_PERSONA_TOKEN), or leave "
            "--host away"
        )
    token = checked_token(token, exposed)
    if model.startswith("openai:"):
        raise UserError(f"--model {model}: the playground looks inside the model; give one that runs here")
    asked = ctx.get_parameter_source("model") is not click.core.ParameterSource.DEFAULT
    shelf = stock(run, vectors, model if asked else None, model)
    listener = listen(host, port)
    import uvicorn  # (what is slow to import comes after what can be refused)

    from llm_persona.interfaces.playground.app import make_app
    from llm_persona.interfaces.playground.desk import Desk
    from llm_persona.interfaces.playground.page import Page

    desk = Desk(lambda name: load_model(name, dtype, device), timeout)
    try:
        with status(f"preparing {shelf.first}"):
            found = desk.open(shelf.first)
            for offer in shelf.vectors_of(shelf.first):
                offer.vector.check(found["layers"], found["hidden"])
        _announce(host, listener.getsockname()[1], shelf, token)
        page = Page(shelf, desk, Path("runs") / "playground" / "vectors", dtype, device, max_new_tokens)
        app = make_app(page, token, () if exposed else LOOPBACK)
        # (an open page holds a connection for good: Ctrl-C must not wait for it, nor complain of it)
        config = uvicorn.Config(
            app, log_level="critical", timeout_keep_alive=15, timeout_graceful_shutdown=1, limit_concurrency=256
        )
        uvicorn.Server(config).run(sockets=[listener])
    finally:
        listener.close()
        desk.close()


def _announce(host: str, port: int, shelf: Any, token: str | None) -> None:
    offers = shelf.vectors_of(shelf.first)
    names = ", ".join(o.name for o in offers) or "none; make one on the page, or with `llm-persona vectors extract`"
    shown = f"[{host}]" if ":" in host else host
    hint = "?token=... (yours)" if token is not None else ""
    click.echo(f"playground of {shelf.first} at http://{shown}:{port}/{hint} (vectors: {names})", err=True)

"""Which model a command runs, with what and where; and loading it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from llm_persona.interfaces.cli.options import Decorator, chain

if TYPE_CHECKING:
    from llm_persona.subject.load import Subject


def _subject_options(several: bool) -> Decorator:
    text = "Hub id, folder, .gguf, smollm2-135m, or openai:NAME behind an API"
    model = click.option("--model", default="smollm2-135m", show_default=True, help=f"{text}.")
    if several:
        model = click.option("--model", "models", multiple=True, default=("smollm2-135m",), show_default=True,
                             help=f"{text} (repeatable: compared).")  # fmt: skip
    return chain(
        model,
        click.option(
            "--dtype",
            default="auto",
            show_default=True,
            type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
            help="auto takes bfloat16 where the machine computes in it.",
        ),
        click.option(
            "--device",
            default="auto",
            show_default=True,
            help="auto, cpu, cuda, mps, ...; balanced or "
            "sequential: spread over all accelerators and the CPU's memory.",
        ),
    )


engine_option = click.option(
    "--engine",
    default="transformers",
    show_default=True,
    type=click.Choice(["transformers", "vllm"]),
    help="What runs the model; vllm needs the extra of that name.",
)
subject_options = _subject_options(several=False)
subjects_options = _subject_options(several=True)


def load_model(model: str, dtype: str, device: str, engine: Any = "transformers") -> Subject:
    """Load the subject behind a status line.

    Raises:
        UserError: the model is behind an API, where its inside cannot be seen.
    """
    from llm_persona.domain.errors import UserError
    from llm_persona.interfaces.cli.terminal import status
    from llm_persona.subject.chat import makeshifts
    from llm_persona.subject.load import load_subject

    if model.startswith("openai:"):
        raise UserError(f"--model {model}: this command needs a model that runs here; give a folder or Hub id")
    with status(f"loading {model}"):
        subject = load_subject(model, dtype=dtype, device=device, engine=engine)
    for note in makeshifts(subject):
        click.echo(f"llm-persona: note: {note}", err=True)
    return subject

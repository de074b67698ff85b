"""`llm-persona steer`."""

from __future__ import annotations

from typing import Any

import click

from llm_persona.interfaces.cli.condition_arguments import condition_from, condition_options
from llm_persona.interfaces.cli.model_options import engine_option, load_model, subject_options
from llm_persona.interfaces.cli.options import seed_option
from llm_persona.interfaces.cli.result_file import json_option, output_checked, write_result


@click.command(
    epilog='Example: llm-persona steer --vector openness.safetensors --layer auto --dose 0.2 --prompt "Any plans?"'
)
@click.option("--prompt", "prompts", multiple=True, help="User turn (repeatable); without one: chat.")
@click.option("--trait", help="The trait that --instruct speaks of.")
@click.option("--max-new-tokens", default=128, show_default=True, type=click.IntRange(min=1))
@click.option("--temperature", default=0.0, show_default=True, type=click.FloatRange(min=0), help="0 is greedy.")
@click.option("--compare/--no-compare", default=True, show_default=True, help="Show the base's answer beside it.")
@seed_option
@condition_options
@subject_options
@engine_option
@json_option
def steer(
    prompts: tuple[str, ...], trait: str | None, max_new_tokens: int, temperature: float, compare: bool, seed: int,
    model: str, dtype: str, device: str, engine: str, json_path: str | None, **rest: Any,
) -> None:  # fmt: skip
    """Generate under a condition (vectors, instruction, adapter), or chat with the model in it."""
    from llm_persona.domain.condition import BASE
    from llm_persona.domain.errors import UserError
    from llm_persona.domain.traits import load_trait
    from llm_persona.interfaces.cli.terminal import plain
    from llm_persona.subject.generate import generate

    condition = condition_from(rest).condition(load_trait(trait) if trait else None)
    if any(not p.strip() for p in prompts):
        raise UserError("--prompt is empty; give a text")
    with output_checked(json_path):
        subject = load_model(model, dtype, device, engine)
    for item in condition.steers:  # before anything is generated
        item.vector.check(subject.n_layers, subject.hidden_size, subject.name)

    def answer(state: Any, texts: list[str]) -> list[Any]:
        with subject.under(state):
            return generate(subject, texts, max_new_tokens, temperature=temperature, seed=seed)

    if not prompts:
        _chat(lambda text: answer(condition, [text])[0].text, condition.name)
        return
    compared = compare and condition.name != "base"
    base = answer(BASE, list(prompts)) if compared else [None] * len(prompts)
    found = answer(condition, list(prompts))
    for one, other in zip(base, found, strict=True):
        click.echo(f"\n> {plain(other.prompt)}")
        if one is not None:
            click.echo(f"[base] {plain(one.text)}")
        click.echo(f"[{condition.name}] {plain(other.text)}{f'(no answer: {other.failed})' if other.failed else ''}")
    rows = [
        {"prompt": o.prompt, "text": o.text, "tokens": o.tokens, "finished": o.finished, "base": b.text if b else None}
        | ({"unscored": o.failed} if o.failed else {})
        for b, o in zip(base, found, strict=True)
    ]
    about = trait or (condition.steers[0].name if len(condition.steers) == 1 else None)
    rows = [{**row, "trait": about} for row in rows]
    write_result(json_path, {"model": model, "condition": condition.as_json(), "answers": rows})


def _chat(reply: Any, name: str) -> None:
    """A prompt at a time until end of input; each turn stands alone, so that conditions stay comparable."""
    from llm_persona.interfaces.cli.terminal import plain

    click.echo(f"chatting under: {name} (each turn stands alone; end with Ctrl-D)", err=True)
    while True:
        try:
            text = input("> ")
        except EOFError:
            return
        if text.strip():
            click.echo(plain(reply(text)))

"""`llm-persona trace`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from llm_persona.interfaces.cli.condition_arguments import condition_from, condition_options
from llm_persona.interfaces.cli.model_options import load_model, subject_options
from llm_persona.interfaces.cli.options import seed_option
from llm_persona.interfaces.cli.result_file import json_option, output_checked, write_result


@click.command(epilog='Example: llm-persona trace --read openness.safetensors --prompt "Any plans?" --html trace.html')
@click.option("--read", "reads", multiple=True, required=True, type=click.Path(),
              help="Vector file to read along (repeatable); colours follow the first.")  # fmt: skip
@click.option("--read-layer", "read_layers", multiple=True, help="Its layer, or auto (the recommended one). One for "
              "all, or one a --read.")  # fmt: skip
@click.option("--messages", type=click.Path(), help="Conversation: .json with chat `messages`, or .jsonl, one a line.")
@click.option("--prompt", "prompts", multiple=True, help="User turn (repeatable).")
@click.option("--answer", "answers", multiple=True, help="The answer to each --prompt; without, the model writes it.")
@click.option("--trait", help="The trait that --instruct speaks of.")
@click.option("--max-new-tokens", default=128, show_default=True, type=click.IntRange(min=1))
@click.option("--temperature", default=0.0, show_default=True, type=click.FloatRange(min=0), help="0 is greedy.")
@click.option("--html", "html_path", type=click.Path(dir_okay=False), help="Write one page with coloured tokens.")
@seed_option
@condition_options
@subject_options
@json_option
def trace(
    reads: tuple[str, ...], read_layers: tuple[str, ...], messages: str | None, prompts: tuple[str, ...],
    answers: tuple[str, ...], trait: str | None, max_new_tokens: int, temperature: float, html_path: str | None,
    seed: int, model: str, dtype: str, device: str, json_path: str | None, **rest: Any,
) -> None:  # fmt: skip
    """Where each token of a conversation lies along a persona vector.

    A conversation that ends with the user's turn is answered by the model, and traced while it writes. --read is what
    is read; --vector steers, as in every command.
    """
    from llm_persona.analysis.vectors import PersonaVector
    from llm_persona.domain.store import write_text
    from llm_persona.domain.traits import load_trait
    from llm_persona.studies.trace_page import page_of
    from llm_persona.subject.trace_readers import readers_for

    conversations = _conversations(messages, prompts, answers)
    vectors = [PersonaVector.load(path) for path in reads]
    names = [str(v.meta.get("trait") or Path(path).stem) for v, path in zip(vectors, reads, strict=True)]
    layers = _layers(read_layers, vectors, reads)
    condition = condition_from(rest).condition(load_trait(trait) if trait else None)
    with output_checked(json_path, html_path):
        subject = load_model(model, dtype, device)
    readers = readers_for(subject, vectors, layers, names)
    found = []
    with subject.under(condition):
        for conversation in conversations:
            one = _traced(subject, conversation, readers, max_new_tokens, temperature, seed)
            found.append(one.as_json())
            _summary(one)
    write_result(json_path, {"model": model, "condition": condition.as_json(), "conversations": found})
    if html_path is not None:
        write_text(Path(html_path), page_of(found, {"model": model, "condition": condition.name}))
        click.echo(f"wrote {html_path}")


def _conversations(messages: str | None, prompts: tuple[str, ...], answers: tuple[str, ...]) -> list[Any]:
    from llm_persona.domain.conversations import read_conversations
    from llm_persona.domain.errors import UserError

    if (messages is None) == (not prompts):
        raise UserError("give a conversation: --messages FILE, or --prompt TEXT (one of the two)")
    if messages is not None:
        if answers:
            raise UserError("--answer belongs to a --prompt; the turns of --messages hold their own")
        stored = read_conversations(messages)
        return [[{"role": role, "content": text} for role, text in turns] for turns in stored]
    if answers and len(answers) != len(prompts):
        raise UserError(f"{len(prompts)} --prompt and {len(answers)} --answer: give each prompt its answer, or none")
    if any(not text.strip() for text in (*prompts, *answers)):
        raise UserError("--prompt or --answer is empty; give a text")
    found = [[{"role": "user", "content": prompt}] for prompt in prompts]
    for turns, answer in zip(found, answers, strict=False):
        turns.append({"role": "assistant", "content": answer})
    return found


def _layers(texts: tuple[str, ...], vectors: list[Any], paths: tuple[str, ...]) -> list[int]:
    from llm_persona.domain.errors import UserError
    from llm_persona.interfaces.cli.vector_settings import named_layers

    if len(texts) > 1 and len(texts) != len(vectors):
        raise UserError(f"{len(vectors)} --read and {len(texts)} --read-layer: give one for all, or each its own")
    named = texts if len(texts) == len(vectors) else (texts or ("auto",)) * len(vectors)
    found = []
    for text, vector, path in zip(named, vectors, paths, strict=True):
        try:
            layers = named_layers(text, vector, path)
        except UserError as error:
            raise UserError(str(error).replace("--layer", "--read-layer").replace("--vector", "--read")) from error
        if len(layers) != 1:
            raise UserError(f"--read-layer {text}: a trace reads at one layer; give a number or auto")
        found += layers
    return found


def _traced(
    subject: Any, conversation: list[Any], readers: Any, max_new_tokens: int, temperature: float, seed: int
) -> Any:
    """The trace, its tokens shown: as they come where the model writes."""
    from llm_persona.subject.trace import trace as read
    from llm_persona.subject.trace import trace_live

    vectors, layers = [r.vector for r in readers], [r.layer for r in readers]
    if conversation[-1]["role"] == "assistant":
        whole = read(subject, conversation, vectors, layers)
        scale = _start(whole)
        _show(whole, range(len(whole.tokens)), scale)
    else:
        scale = 1.0
        for now in trace_live(subject, conversation, vectors, layers, max_new_tokens, temperature, seed):
            whole, last = now, len(now.tokens) - 1
            if last < now.answer:
                scale = _start(now)
                _show(now, range(now.answer), scale)
            else:
                _show(now, range(last, last + 1), scale)
    click.echo()
    return whole


def _start(trace: Any) -> float:
    """Print the legend of a conversation; gives the scale of its colours."""
    from llm_persona.interfaces.cli.terminal import out, plain
    from llm_persona.studies.trace_page import colour_scale

    own = [n for n, token in enumerate(trace.tokens) if token.turn is not None]
    scale = colour_scale([float(x) for x in trace.pole_gaps[own, 0]])
    if out.is_terminal and not out.no_color:
        reader = trace.readers[0]
        click.echo(
            f"\n{plain(reader.name)} at layer {reader.layer}: orange, underlined is high, blue low; full colour at "
            f"{scale:.2f} pole gaps from zero"
        )
    return scale


def _show(trace: Any, places: range, scale: float) -> None:
    """Print tokens behind their colours; without colour where there is no terminal, or none is wanted."""
    from rich.style import Style
    from rich.text import Text

    from llm_persona.interfaces.cli.terminal import out, plain
    from llm_persona.studies.figures import HIGH, LOW
    from llm_persona.studies.trace_page import MARKED, shade

    gaps = trace.pole_gaps[:, 0]
    coloured = out.is_terminal and not out.no_color
    line = Text()
    for n in places:
        token, share = trace.tokens[n], shade(float(gaps[n]), scale)
        style = Style.null()
        if coloured and token.turn is None:
            style = Style(dim=True)
        elif coloured and abs(share) >= 0.1:
            ink = "white" if abs(share) >= MARKED else None
            style = Style(bgcolor=_tint(HIGH if share > 0 else LOW, abs(share)), color=ink or "black",
                          underline=share >= MARKED)  # fmt: skip
        line.append(plain(token.text), style)
    out.print(line, end="", soft_wrap=True, highlight=False)
    out.file.flush()


def _tint(colour: str, share: float) -> str:
    """The pole's colour, paler towards zero."""
    parts = [int(colour[k : k + 2], 16) for k in (1, 3, 5)]
    return "#" + "".join(f"{round(255 + (part - 255) * share):02x}" for part in parts)


def _summary(trace: Any) -> None:
    from llm_persona.interfaces.cli.terminal import cell, table
    from llm_persona.subject.trace_readers import zero_is

    zeros, mean, last = trace.zeros, trace.response_mean, trace.prompt_last
    rows = []
    for k, reader in enumerate(trace.readers):
        gap, zero = reader.pole_gap, zeros[k]
        answer = None if mean is None else (mean[k] - zero) / gap
        rows.append([reader.name, str(reader.layer), cell((last[k] - zero) / gap), cell(answer),
                     str(len(trace.own_answer)), cell(gap), zero_is(reader)])  # fmt: skip
    table("Projection in pole gaps", ["read", "layer", "last prompt token", "answer's mean", "answer's tokens",
          "one pole gap", "zero is"], rows)  # fmt: skip

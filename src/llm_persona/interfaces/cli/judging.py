"""Who judges: the options that name a judge, and what the commands of `llm-persona judge` have in common."""

from __future__ import annotations

from typing import Any

import click

from llm_persona.interfaces.cli.api_arguments import api_options, call_options
from llm_persona.interfaces.cli.options import chain

judge_options = chain(
    click.option("--judge", "spec", default="local", show_default=True,
                 help="openai:NAME, anthropic:NAME, local (smollm2-135m), local:MODEL, or scripted:FILE."),
    click.option("--text", "text_only", is_flag=True,
                 help="Read scores from the text, for endpoints that know no log-probabilities."),
    api_options,
)  # fmt: skip
optional_judge_options = chain(
    click.option("--judge", "judge", help="Who grades answers: local, local:MODEL, openai:NAME, anthropic:NAME, "
                 "scripted:FILE. Default: nobody."),
    click.option("--text", "judge_text", is_flag=True, help="--judge: read scores from its text, for endpoints that "
                 "know no log-probabilities."),
    call_options,
)  # fmt: skip


def open_grader(spec: str, text_only: bool, api: Any) -> Any:
    """The judge that `--judge` names, within the limits that the options set."""
    from llm_persona.instruments.judging.opening import open_judge
    from llm_persona.interfaces.cli.terminal import status
    from llm_persona.subject.remote.caller import Limits

    with status(f"judge: {spec}"):
        return open_judge(spec, api.base_url, Limits(api.concurrency, max_calls=api.max_calls), text_only)


def announce(grader: Any, requests: list[Any], api: Any) -> None:
    """What a judge behind an API will cost, before it is asked."""
    rates = api.rates
    if hasattr(grader, "estimate"):
        estimate = grader.estimate(list(dict.fromkeys(requests)), rates)
        click.echo(f"estimate: {estimate.sentence()}", err=True)


def calls_of(grader: Any) -> dict[str, Any]:
    """What a judge behind an API was asked, for the result."""
    return {"calls": grader.caller.record.as_json()} if hasattr(grader, "caller") else {}


def print_gate_states(spec: str, gates: dict[str, Any], questions: str | None = None) -> None:
    """A line for each gate that the scores rest on, and how to try the judge where it is missing or failed.

    `questions` is the file whose judge prompts were used.
    """
    for name, gate in gates.items():
        kind = name.partition("-v")[0]  # (a file with several prompts of a kind has a gate for each)
        about = f"--rubric {kind}" if kind in ("coherence", "alignment") else f"--trait {name}"
        more = f" --questions {questions}" if questions else ""
        hint = f"; try it: llm-persona judge gate {about}{more} --judge {spec}"
        click.echo(f"{name}: {gate['state']}" + ("" if gate["passed"] else hint))

"""`llm-persona judge`."""

from __future__ import annotations

from typing import Any

import click

from llm_persona.interfaces.cli.judge_ask import ask
from llm_persona.interfaces.cli.options import api_from, api_options, chain, json_option, output_checked, write_result

judge_options = chain(
    click.option("--judge", "spec", default="local", show_default=True,
                 help="openai:NAME, anthropic:NAME, local (smollm2-135m), local:MODEL, or scripted:FILE."),
    click.option("--text", "text_only", is_flag=True,
                 help="Read scores from the text, for endpoints that know no log-probabilities."),
    api_options,
)  # fmt: skip


@click.group(epilog="Example: llm-persona judge gate --judge openai:NAME --trait openness")
def judge() -> None:
    """Have open questions answered, try a judge on answers of known pole, and score stored answers with it."""


@judge.command(epilog="Example: llm-persona judge gate --judge anthropic:NAME --trait openness --trait narcissism")
@click.option("--trait", "traits", multiple=True, default=("openness",), show_default=True,
              help="Trait (repeatable), its .yaml file, or all.")  # fmt: skip
@click.option("--limit", type=click.IntRange(min=2), help="At most N items; such a result never stands for the gate.")
@judge_options
@json_option
def gate(
    traits: tuple[str, ...], limit: int | None, spec: str, text_only: bool, json_path: str | None, **rest: Any
) -> None:
    """Does the judge tell high from low, repeat itself, and look away from length and order?

    Graded are the labelled responses of each trait's test items, in three readings. The result is kept, and
    `judge score` shows it beside the scores.
    """
    from llm_persona.domain.traits import list_traits, load_trait
    from llm_persona.interfaces.cli.terminal import counting
    from llm_persona.studies.judge_gate import gate_requests, gate_state, run_gate

    api = api_from(rest)
    chosen = [load_trait(name) for name in (list_traits() if "all" in traits else dict.fromkeys(traits))]
    with output_checked(json_path):
        grader = _open(spec, text_only, api)
        requests = [request for trait in chosen for request in gate_requests(trait, limit)]
        _announce(grader, requests, api)
        with counting(f"{spec}: {len(requests)} readings of labelled answers", len(requests)) as step:
            found = {trait.name: run_gate(grader, trait, limit, step) for trait in chosen}
        _print_gates(spec, found)
        for name, one in found.items():
            click.echo(f"{name}: {gate_state(one)}" + (f" (on {limit} items only)" if limit else ""))
        write_result(json_path, {"judge": grader.identity, "gates": found, **_calls(grader)})


@judge.command(epilog="Example: llm-persona judge score runs/quick --judge openai:NAME --json scores.json")
@click.argument("answers", type=click.Path())
@click.option("--trait", "traits", multiple=True, help="Grade for this trait (repeatable; a name or .yaml file). "
              "Default: the one each answer was written for.")  # fmt: skip
@click.option("--rubric", "rubrics", multiple=True, default=("trait", "coherence"), show_default=True,
              type=click.Choice(["trait", "coherence", "alignment"]), help="What is graded (repeatable).")  # fmt: skip
@click.option("--limit", type=click.IntRange(min=1), help="At most N answers a condition.")
@click.option("--agreement", is_flag=True, help="ANSWERS is a run folder: set the scores beside TRAIT preference and "
              "projection of the same conditions.")  # fmt: skip
@judge_options
@json_option
def score(
    answers: str, traits: tuple[str, ...], rubrics: tuple[str, ...], limit: int | None, agreement: bool, spec: str,
    text_only: bool, json_path: str | None, **rest: Any,
) -> None:  # fmt: skip
    """Score stored ANSWERS: a run folder, JSON of `steer`, `run` or `judge score`, or JSONL with question and answer.

    Nothing is generated anew: scoring again with another judge changes only the scores.
    """
    from llm_persona.domain.errors import UserError
    from llm_persona.domain.traits import load_trait
    from llm_persona.interfaces.cli.agreement import print_agreement
    from llm_persona.interfaces.cli.terminal import counting
    from llm_persona.studies.agreement import check_run, run_agreement
    from llm_persona.studies.judging import plan_scores, score_answers
    from llm_persona.studies.stored_answers import read_answers

    api = api_from(rest)
    chosen = [load_trait(name) for name in dict.fromkeys(traits)]
    if agreement:
        if "trait" not in rubrics:
            raise UserError("--agreement: compares scores of a trait; add --rubric trait")
        from llm_persona.interfaces.cli.agreement import print_agreement
        from llm_persona.studies.agreement import check_run, run_agreement

        check_run(answers)  # before anything is paid for
    plan = plan_scores(read_answers(answers), chosen, tuple(dict.fromkeys(rubrics)), limit)
    with output_checked(json_path):
        grader = _open(spec, text_only, api)
        requests = plan.requests()
        _announce(grader, requests, api)
        with counting(f"{spec}: {len(requests)} gradings of {len(plan.answers)} answers", len(requests)) as step:
            found = score_answers(grader, plan, step)
        _print_scores(spec, found)
        if agreement:
            found["agreement"] = run_agreement(answers, found)
            print_agreement(found["agreement"])
        write_result(json_path, {**found, **_calls(grader)})


def _open(spec: str, text_only: bool, api: Any) -> Any:
    from llm_persona.instruments.judging.opening import open_judge
    from llm_persona.interfaces.cli.terminal import status
    from llm_persona.subject.remote.caller import Limits

    with status(f"judge: {spec}"):
        return open_judge(spec, api.base_url, Limits(api.concurrency, max_calls=api.max_calls), text_only)


def _announce(grader: Any, requests: list[Any], api: Any) -> None:
    """What a judge behind an API will cost, before it is asked."""
    rates = api.rates
    if hasattr(grader, "estimate"):
        estimate = grader.estimate(list(dict.fromkeys(requests)), rates)
        click.echo(f"estimate: {estimate.sentence()}", err=True)


def _calls(grader: Any) -> dict[str, Any]:
    return {"calls": grader.caller.record.as_json()} if hasattr(grader, "caller") else {}


def _print_gates(spec: str, found: dict[str, Any]) -> None:
    from llm_persona.interfaces.cli.terminal import cell, span, table

    rows = [
        [name, check, cell(one["value"]), span(one["ci"]), f"{'>' if check == 'AUC' else '<'} {one['limit']:g}",
         "passed" if one["passed"] else "failed"]
        for name, gate in found.items()
        for check, one in gate["checks"].items()
    ]  # fmt: skip
    table(f"Gate of {spec} (AUC: by the lower end of its interval)",
          ["trait", "check", "value", "95% interval", "needed", "result"], rows)  # fmt: skip
    for name, gate in found.items():
        for reason, count in gate["unscored"].items():
            click.echo(f"- {name}: {count} readings unscored: {reason}")


def _print_scores(spec: str, found: dict[str, Any]) -> None:
    from llm_persona.interfaces.cli.agreement import gate_word
    from llm_persona.interfaces.cli.terminal import cell, span, table

    several = any(row["trait"] for row in found["summary"])
    rows = [
        [*([row["trait"]] if several else []), row["condition"], row["score"], cell(row["mean"], 1), span(row["ci"], 1),
         str(row["n"]), str(row["n_unscored"]), gate_word(row.get("gate"))]
        for row in found["summary"]
    ]  # fmt: skip
    columns = ["condition", "score", "mean", "95% interval", "n", "unscored", "gate"]
    table(f"Scores by {spec}, 0 to 100", [*(["written for"] if several else []), *columns], rows)
    for row in found["summary"]:
        for reason, count in row["unscored"].items():
            click.echo(f"- {row['condition']}, {row['score']}: {count} unscored: {reason}")
    for name, gate in found["gates"].items():
        then = "" if "passed" in gate["state"] else f"; try it: llm-persona judge gate --trait {name} --judge {spec}"
        click.echo(f"{name}: {gate['state']}{then}")


judge.add_command(ask)

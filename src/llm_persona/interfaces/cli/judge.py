"""`llm-persona judge`."""

from __future__ import annotations

from typing import Any

import click

from llm_persona.interfaces.cli.api_arguments import api_from
from llm_persona.interfaces.cli.judge_align import align
from llm_persona.interfaces.cli.judge_ask import ask
from llm_persona.interfaces.cli.judge_monitor import monitor
from llm_persona.interfaces.cli.judging import announce, calls_of, judge_options, open_grader, print_gate_states
from llm_persona.interfaces.cli.result_file import json_option, output_checked, write_result


@click.group(epilog="Example: llm-persona judge gate --judge openai:NAME --trait openness")
def judge() -> None:
    """Have open questions answered, try a judge on answers of known pole, and score answers with it."""


@judge.command(epilog="Example: llm-persona judge gate --judge anthropic:NAME --trait openness --trait narcissism")
@click.option("--trait", "traits", multiple=True, default=("openness",), show_default=True,
              help="Trait (repeatable), its .yaml file, or all.")  # fmt: skip
@click.option("--rubric", "rubrics", multiple=True, default=("trait",), show_default=True,
              type=click.Choice(["trait", "coherence", "alignment"]), help="What is graded (repeatable).")  # fmt: skip
@click.option("--questions", type=click.Path(dir_okay=False),
              help="Alignment and coherence by this file's judge prompts, as in `judge align`.")  # fmt: skip
@click.option("--limit", type=click.IntRange(min=2), help="At most N items; such a result never stands for the gate.")
@judge_options
@json_option
def gate(
    traits: tuple[str, ...], rubrics: tuple[str, ...], questions: str | None, limit: int | None, spec: str,
    text_only: bool, json_path: str | None, **rest: Any,
) -> None:  # fmt: skip
    """Does the judge tell high from low, repeat itself, and look away from length and order?

    Graded are the labelled responses of each trait's test items, or labelled answers for alignment and coherence, in
    three readings. The result is kept, and `judge score` and `judge align` show it beside the scores.
    """
    from llm_persona.domain.traits import list_traits
    from llm_persona.interfaces.cli.terminal import counting
    from llm_persona.studies.judge_gate import gate_requests, gate_state, run_gate

    api = api_from(rest)
    names = (list_traits() if "all" in traits else dict.fromkeys(traits)) if "trait" in rubrics else ()
    chosen = _tried_on(tuple(names), rubrics, questions)
    with output_checked(json_path):
        requests = [request for about in chosen.values() for request in gate_requests(about, limit)]
        grader = open_grader(spec, text_only, api)
        announce(grader, requests, api)
        with counting(f"{spec}: {len(requests)} readings of labelled answers", len(requests)) as step:
            found = {name: run_gate(grader, about, limit, step) for name, about in chosen.items()}
        _print_gates(spec, found)
        for name, one in found.items():
            click.echo(f"{name}: {gate_state(one)}" + (f" (on {limit} items only)" if limit else ""))
        write_result(json_path, {"judge": grader.identity, "gates": found, **calls_of(grader)})


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
        grader = open_grader(spec, text_only, api)
        requests = plan.requests()
        announce(grader, requests, api)
        with counting(f"{spec}: {len(requests)} gradings of {len(plan.answers)} answers", len(requests)) as step:
            found = score_answers(grader, plan, step)
        _print_scores(spec, found)
        if agreement:
            found["agreement"] = run_agreement(answers, found)
            print_agreement(found["agreement"])
        write_result(json_path, {**found, **calls_of(grader)})


def _tried_on(traits: tuple[str, ...], rubrics: tuple[str, ...], questions: str | None) -> dict[str, Any]:
    """Label to what the judge is tried on: traits, then rubrics, those of the user's questions where they are given."""
    from llm_persona.domain.errors import UserError
    from llm_persona.domain.open_questions import read_questions
    from llm_persona.domain.rubrics import load_rubric
    from llm_persona.domain.traits import load_trait

    loaded = [load_trait(name) for name in traits]
    found: dict[str, Any] = {trait.name: trait for trait in loaded}
    kinds = [kind for kind in dict.fromkeys(rubrics) if kind != "trait"]
    if questions is None:
        return found | {kind: load_rubric(kind) for kind in kinds}
    if not kinds:
        raise UserError("--questions: brings prompts for alignment and coherence; add --rubric alignment or coherence")
    theirs = read_questions(questions)
    for kind in kinds:
        own = theirs.rubrics(kind)
        found |= {kind if len(own) == 1 else rubric.name: rubric for rubric in own}
    return found


def _print_gates(spec: str, found: dict[str, Any]) -> None:
    from llm_persona.interfaces.cli.terminal import cell, span, table

    rows = [
        [name, check, cell(one["value"]), span(one["ci"]), f"{'>' if check == 'AUC' else '<'} {one['limit']:g}",
         "passed" if one["passed"] else "failed"]
        for name, gate in found.items()
        for check, one in gate["checks"].items()
    ]  # fmt: skip
    table(f"Gate of {spec} (AUC: by the lower end of its interval)",
          ["graded", "check", "value", "95% interval", "needed", "result"], rows)  # fmt: skip
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
    print_gate_states(spec, found["gates"])


judge.add_command(align)
judge.add_command(ask)
judge.add_command(monitor)

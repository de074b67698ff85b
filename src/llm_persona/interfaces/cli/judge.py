"""`llm-persona judge`."""

from __future__ import annotations

from typing import Any

import click

from llm_persona.interfaces.cli.options import (
    api_from,
    api_options,
    chain,
    json_option,
    output_checked,
    seed_option,
    subject_options,
    write_result,
)

judge_options = chain(
    click.option("--judge", "spec", default="local", show_default=True,
                 help="openai:NAME, anthropic:NAME, local (smollm2-135m), local:MODEL, or scripted:FILE."),
    click.option("--text", "text_only", is_flag=True,
                 help="Read scores from the text, for endpoints that know no log-probabilities."),
    api_options,
)  # fmt: skip


@click.group(epilog="Example: llm-persona judge gate --judge openai:NAME --trait openness")
def judge() -> None:
    """Try a judge on answers of known pole, and score stored answers with it."""


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
@judge_options
@json_option
def score(
    answers: str, traits: tuple[str, ...], rubrics: tuple[str, ...], limit: int | None, spec: str, text_only: bool,
    json_path: str | None, **rest: Any,
) -> None:  # fmt: skip
    """Score stored ANSWERS: a run folder, JSON of `steer`, `run` or `judge score`, or JSONL with question and answer.

    Nothing is generated anew: scoring again with another judge changes only the scores.
    """
    from llm_persona.domain.traits import load_trait
    from llm_persona.interfaces.cli.terminal import counting
    from llm_persona.studies.judging import plan_scores, score_answers
    from llm_persona.studies.stored_answers import read_answers

    api = api_from(rest)
    chosen = [load_trait(name) for name in dict.fromkeys(traits)]
    plan = plan_scores(read_answers(answers), chosen, tuple(dict.fromkeys(rubrics)), limit)
    with output_checked(json_path):
        grader = _open(spec, text_only, api)
        requests = plan.requests()
        _announce(grader, requests, api)
        with counting(f"{spec}: {len(requests)} gradings of {len(plan.answers)} answers", len(requests)) as step:
            found = score_answers(grader, plan, step)
        _print_scores(spec, found)
        write_result(json_path, {**found, **_calls(grader)})


@judge.command(
    epilog="Example: llm-persona judge monitor --trait openness --vector openness.safetensors --dose -0.2 --dose 0.2"
)
@click.option("--trait", required=True, help="Trait whose test questions are asked: a name or .yaml file.")
@click.option("--vector", required=True, type=click.Path(), help="Vector file that is read, and steered by --dose.")
@click.option("--layer", default="auto", show_default=True, help="Its layer, or auto (the recommended one).")
@click.option("--dose", "doses", multiple=True, type=float, help="Also steered at this dose (repeatable).")
@click.option("--level", "levels", multiple=True, type=click.Choice(["pair", "name", "description", "facets", "none"]),
              default=("name", "description", "facets"), show_default=True,
              help="Also instructed, high and low, saying this much (repeatable; none: no instructions).")  # fmt: skip
@click.option("--questions", type=click.IntRange(min=3), help="At most N of the trait's test questions.")
@click.option("--samples", default=1, show_default=True, type=click.IntRange(min=1), help="Answers a question.")
@click.option("--temperature", default=0.0, show_default=True, type=click.FloatRange(min=0), help="0 is greedy.")
@click.option("--max-new-tokens", default=64, show_default=True, type=click.IntRange(min=1))
@click.option("--allow-overlap", is_flag=True, help="Use a vector that was made from these very questions.")
@click.option("--out", type=click.Path(file_okay=False), help="Folder for answers and result.")
@seed_option
@judge_options
@subject_options
@json_option
def monitor(
    trait: str, vector: str, layer: str, doses: tuple[float, ...], levels: tuple[Any, ...], questions: int | None,
    samples: int, temperature: float, max_new_tokens: int, allow_overlap: bool, out: str | None, seed: int, spec: str,
    text_only: bool, model: str, dtype: str, device: str, json_path: str | None, **rest: Any,
) -> None:  # fmt: skip
    """Does the projection at the last prompt token, before a word is written, tell the judged trait of the answer?

    Correlations over conditions and within them, beside those of random directions. `--judge none` relates the answer's
    own projection only.
    """
    from pathlib import Path

    from llm_persona.analysis.vectors import PersonaVector
    from llm_persona.domain.errors import UserError
    from llm_persona.domain.traits import load_trait
    from llm_persona.interfaces.cli.options import load_model, named_layers
    from llm_persona.interfaces.cli.terminal import counting
    from llm_persona.studies import monitoring as study

    api = api_from(rest)
    about, loaded = load_trait(trait), PersonaVector.load(vector)
    layers = named_layers(layer, loaded, vector)
    if len(layers) != 1:
        raise UserError(f"--layer {layer}: monitoring reads at one layer; give a number or auto")
    chosen = tuple(x for x in levels if x != "none")
    plan = study.MonitorPlan(questions, samples, temperature, max_new_tokens, chosen, doses, seed)
    number = len(plan.asked(about)) * samples * len(plan.conditions(about, loaded, layers[0]))
    with output_checked(json_path, str(Path(out) / "monitoring.json") if out else None):
        grader = None if spec == "none" else _open(spec, text_only, api)
        subject = load_model(model, dtype, device)
        folder = Path(out) / "stages" if out else None
        with counting(f"{model}: {number} answers", number) as step:
            written = study.write_answers(subject, about, loaded, layers[0], plan, folder, step, allow_overlap)
        requests = [r for r in study.gradings(about, written, plan) if r is not None]
        if grader is not None:
            _announce(grader, requests, api)
        with counting(f"{spec}: {len(requests)} gradings", len(requests)) as step:
            found = study.monitor(subject, about, loaded, written, grader, layers[0], plan, step)
    _print_monitoring(found)
    if grader is not None:
        found |= _calls(grader)
    write_result(json_path, found)
    if out is not None:
        click.echo(f"wrote {study.write_monitoring(found, Path(out))}")


def _print_monitoring(found: dict[str, Any]) -> None:
    from llm_persona.interfaces.cli.terminal import cell, span, table

    judged = found["judge"] is not None
    rows = []
    for row in found["conditions"]:
        own, score = row["answer_projection"], row.get("judged") or {}
        rows.append([row["condition"]["name"], cell(row["prompt_last_mean"]), cell(row["added"]), cell(own["mean"]),
                     cell(score.get("mean"), 1), str(score.get("n", own["n"])),
                     str(score.get("n_unscored", 0))])  # fmt: skip
    reader = found["vector"]
    table(f"{found['trait']} at layer {reader['layer']}: means in projection units, scores 0 to 100",
          ["condition", "last prompt token", "of it added", "answer's projection", "judged", "n", "unscored"],
          rows)  # fmt: skip
    rows = [
        [row["before"], row["after"], scope, cell(part["spearman"]), span(part["spearman_ci"]),
         cell(part["spearman_p"], 3), cell(part["pearson"]), span(part["pearson_ci"]),
         span(row["random"][f"spearman_{scope}"]), str(part["n"]), str(part["n_questions"])]
        for row in found["associations"]
        for scope, part in (("overall", row["overall"]), ("within", row["within"]))
    ]  # fmt: skip
    table("Before against after (within: centred by condition)",
          ["before", "after", "scope", "Spearman", "95% interval", "p", "Pearson", "95% interval",
           "random directions' Spearman", "n", "questions"], rows)  # fmt: skip
    for reason, count in found["unscored"].items():
        click.echo(f"- {count} answers unscored: {reason}")
    for note in found["notes"]:
        click.echo(f"- {note}")
    if judged:
        click.echo(f"{found['trait']}: {found['gate']['state']}")


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
    from llm_persona.interfaces.cli.terminal import cell, span, table

    several = any(row["trait"] for row in found["summary"])
    rows = [
        [*([row["trait"]] if several else []), row["condition"], row["score"], cell(row["mean"], 1), span(row["ci"], 1),
         str(row["n"]), str(row["n_unscored"])]
        for row in found["summary"]
    ]  # fmt: skip
    columns = ["condition", "score", "mean", "95% interval", "n", "unscored"]
    table(f"Scores by {spec}, 0 to 100", [*(["written for"] if several else []), *columns], rows)
    for row in found["summary"]:
        for reason, count in row["unscored"].items():
            click.echo(f"- {row['condition']}, {row['score']}: {count} unscored: {reason}")
    for name, gate in found["gates"].items():
        then = "" if "passed" in gate["state"] else f"; try it: llm-persona judge gate --trait {name} --judge {spec}"
        click.echo(f"{name}: {gate['state']}{then}")

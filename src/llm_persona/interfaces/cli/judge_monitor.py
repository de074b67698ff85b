"""`llm-persona judge monitor`."""

from __future__ import annotations

from typing import Any

import click

from llm_persona.interfaces.cli.api_arguments import api_from
from llm_persona.interfaces.cli.judging import announce, calls_of, judge_options, open_grader
from llm_persona.interfaces.cli.model_options import subject_options
from llm_persona.interfaces.cli.options import seed_option
from llm_persona.interfaces.cli.result_file import json_option, output_checked, write_result


@click.command(
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
    from llm_persona.interfaces.cli.model_options import load_model
    from llm_persona.interfaces.cli.terminal import counting
    from llm_persona.interfaces.cli.vector_settings import named_layers
    from llm_persona.studies import monitored_answers as answers
    from llm_persona.studies import monitoring as study

    api = api_from(rest)
    about, loaded = load_trait(trait), PersonaVector.load(vector)
    layers = named_layers(layer, loaded, vector)
    if len(layers) != 1:
        raise UserError(f"--layer {layer}: monitoring reads at one layer; give a number or auto")
    chosen = tuple(x for x in levels if x != "none")
    plan = answers.MonitorPlan(questions, samples, temperature, max_new_tokens, chosen, doses, seed)
    number = len(plan.asked(about)) * samples * len(plan.conditions(about, loaded, layers[0]))
    with output_checked(json_path, str(Path(out) / "monitoring.json") if out else None):
        grader = None if spec == "none" else open_grader(spec, text_only, api)
        subject = load_model(model, dtype, device)
        folder = Path(out) / "stages" if out else None
        with counting(f"{model}: {number} answers", number) as step:
            written = answers.write_answers(subject, about, loaded, layers[0], plan, folder, step, allow_overlap)
        requests = [r for r in study.gradings(about, written, plan) if r is not None]
        if grader is not None:
            announce(grader, requests, api)
        with counting(f"{spec}: {len(requests)} gradings", len(requests), shown=grader is not None) as step:
            found = study.monitor(subject, about, loaded, written, grader, layers[0], plan, step)
    found["allow_overlap"] = allow_overlap
    _print_monitoring(found)
    if grader is not None:
        found |= calls_of(grader)
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
    if found["overlap"]:
        click.echo(f"- in-sample: the vector was made from {found['overlap']} of the {found['n_questions']} questions")
    for reason, count in found["unscored"].items():
        click.echo(f"- {count} answers unscored: {reason}")
    for note in found["notes"]:
        click.echo(f"- {note}")
    if judged:
        click.echo(f"{found['trait']}: {found['gate']['state']}")

"""`llm-persona judge monitor`."""

from __future__ import annotations

from typing import Any

import click

from llm_persona.interfaces.cli.judging import judge_options, open_grader, print_gate_states
from llm_persona.interfaces.cli.options import (
    api_from,
    json_option,
    load_model,
    output_checked,
    seed_option,
    subject_options,
    write_result,
)


@click.command(
    epilog="Example: llm-persona judge monitor --trait openness --vector openness.safetensors --out monitor.jsonl"
)
@click.option("--trait", default="openness", show_default=True, help="Whose open questions are asked; name or .yaml.")
@click.option("--vector", "path", required=True, type=click.Path(), help="The trait's vector.")
@click.option("--layer", default="auto", show_default=True, help="Where it is read and steers; auto: recommended.")
@click.option("--dose", "doses", multiple=True, type=float, help="Steered conditions (repeatable). Default: -0.2, 0.2.")
@click.option("--questions", type=click.IntRange(min=1), help="At most N test questions.")
@click.option("--samples", default=1, show_default=True, type=click.IntRange(min=1), help="Answers a question.")
@click.option("--temperature", type=click.FloatRange(min=0), help="Default: 0, or 1 with several samples.")
@click.option("--max-new-tokens", default=64, show_default=True, type=click.IntRange(min=1))
@click.option("--out", required=True, type=click.Path(dir_okay=False), help="File of answers to write (.jsonl).")
@click.option("--no-judge", is_flag=True, help="Only against the answers' own projection, which needs no judge.")
@seed_option
@subject_options
@judge_options
@json_option
def monitor(
    trait: str, path: str, layer: str, doses: tuple[float, ...], questions: int | None, samples: int,
    temperature: float | None, max_new_tokens: int, out: str, no_judge: bool, seed: int, model: str, dtype: str,
    device: str, spec: str, text_only: bool, json_path: str | None, **rest: Any,
) -> None:  # fmt: skip
    """Does the last prompt token show what will be said, before a word is written?

    The trait's held-out questions are asked under base, both instructions and each dose. The projection at the last
    prompt token is set against the judged trait of the answer, over all and within conditions.
    """
    from llm_persona.analysis.vectors import PersonaVector
    from llm_persona.domain.errors import UserError
    from llm_persona.domain.traits import load_trait
    from llm_persona.interfaces.cli.options import named_layers
    from llm_persona.interfaces.cli.terminal import counting
    from llm_persona.studies.asking import AskPlan
    from llm_persona.studies.monitoring import MonitorPlan, monitor

    if not out.endswith(".jsonl"):
        raise UserError(f"--out {out}: answers are written one a line; give a name that ends in .jsonl")
    api = api_from(rest)
    vector = PersonaVector.load(path)
    chosen = named_layers(layer, vector, path)
    if len(chosen) != 1:
        raise UserError(f"--layer {layer}: one layer is read; give its number or auto")
    heat = temperature if temperature is not None else 1.0 if samples > 1 else 0.0
    asked = AskPlan(questions, samples, heat, max_new_tokens, seed)
    plan = MonitorPlan(load_trait(trait), vector, chosen[0], asked, tuple(dict.fromkeys(doses)) or (-0.2, 0.2))
    total = len(plan.conditions) * len(asked.asked(plan.trait))
    with output_checked(json_path, out):
        grader = None if no_judge else open_grader(spec, text_only, api)
        if grader is not None and hasattr(grader, "caller"):
            click.echo(f"{spec}: at most {total} gradings; --max-calls bounds them", err=True)
        subject = load_model(model, dtype, device)
        vector.check(subject.n_layers, subject.hidden_size, subject.name)
        with counting(f"{model}: {total} answers", total) as step:
            found = monitor(subject, plan, grader, out, step)
        _print(found)
        print_gate_states(spec, found["gates"])
        write_result(json_path, found)


def _print(found: dict[str, Any]) -> None:
    from llm_persona.interfaces.cli.terminal import cell, span, table

    rows = []
    for outcome, forms in found["correlations"].items():
        for form, groups in forms.items():
            named = {"overall": groups["overall"], "within": groups["within"]}
            if form == "as_read":  # (within one condition the constant does not matter)
                named |= groups["by_condition"]
            rows += [
                [outcome, form.replace("_", " "), name, cell(g["spearman"]), span(g["spearman_ci"]),
                 cell(g["pearson"]), span(g["pearson_ci"]), cell(g["p_value"], 3), str(g["n"]), str(g["n_questions"])]
                for name, g in named.items()
            ]  # fmt: skip
    table(f"{found['trait']}: projection at the last prompt token (layer {found['layer']}) against the answer",
          ["answer", "reading", "over", "Spearman", "95% interval", "Pearson", "95% interval", "p", "n", "questions"],
          rows)  # fmt: skip
    for reason, count in found["unscored"].items():
        click.echo(f"- {count} of {found['n_answers']} answers unscored: {reason}")

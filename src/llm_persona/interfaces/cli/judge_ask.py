"""`llm-persona judge ask`."""

from __future__ import annotations

from typing import Any

import click

from llm_persona.interfaces.cli.condition_arguments import conditions_from, conditions_options
from llm_persona.interfaces.cli.model_options import load_model, subject_options
from llm_persona.interfaces.cli.options import seed_option
from llm_persona.interfaces.cli.result_file import output_checked


@click.command(
    epilog="Example: llm-persona judge ask --trait openness --instruct none --instruct high --out answers.jsonl"
)
@click.option("--trait", "traits", multiple=True, default=("openness",), show_default=True,
              help="Whose open questions are asked (repeatable; a name or .yaml file).")  # fmt: skip
@click.option("--questions", type=click.IntRange(min=1), help="At most N test questions a trait.")
@click.option("--samples", default=1, show_default=True, type=click.IntRange(min=1), help="Answers a question.")
@click.option("--temperature", type=click.FloatRange(min=0), help="Default: 0, or 1 with several samples.")
@click.option("--max-new-tokens", default=128, show_default=True, type=click.IntRange(min=1))
@click.option("--out", required=True, type=click.Path(dir_okay=False), help="File of answers to write (.jsonl).")
@seed_option
@conditions_options
@subject_options
def ask(
    traits: tuple[str, ...], questions: int | None, samples: int, temperature: float | None, max_new_tokens: int,
    out: str, seed: int, model: str, dtype: str, device: str, **rest: Any,
) -> None:  # fmt: skip
    """Have a trait's open questions answered under conditions, for `judge score` to read.

    Several --instruct or --adapter are asked one after the other. The file grows as answers come: the same command
    goes on after an interruption, and more questions, samples or conditions are added to it.
    """
    from llm_persona.domain.errors import UserError
    from llm_persona.domain.traits import load_trait
    from llm_persona.interfaces.cli.terminal import counting
    from llm_persona.studies.asking import AskPlan, ask

    if not out.endswith(".jsonl"):
        raise UserError(f"--out {out}: answers are written one a line; give a name that ends in .jsonl")
    chosen = [load_trait(name) for name in dict.fromkeys(traits)]
    heat = temperature if temperature is not None else 1.0 if samples > 1 else 0.0
    plan = AskPlan(questions, samples, heat, max_new_tokens, seed)
    states = [{t.name: a.condition(t if a.needs_trait else None) for t in chosen} for a in conditions_from(rest)]
    total = len(states) * sum(len(plan.asked(trait)) for trait in chosen)
    with output_checked(out):
        subject = load_model(model, dtype, device)
        with counting(f"{model}: {total} answers", total) as step:
            found = ask(subject, states, chosen, plan, out, step)
    for name in dict.fromkeys(answer.condition for answer in found):
        part = [answer for answer in found if answer.condition == name]
        ended = sum(bool(answer.finished) for answer in part)
        empty = sum(not answer.answer.strip() for answer in part)
        click.echo(f"{name}: {len(part)} answers, {ended} ended by the model, {empty} empty")
    click.echo(f"wrote {out}; score with: llm-persona judge score {out}")

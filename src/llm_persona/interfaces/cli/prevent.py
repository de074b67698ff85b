"""`llm-persona prevent`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from llm_persona.interfaces.cli.chosen_items import read_item_set
from llm_persona.interfaces.cli.model_options import subject_options
from llm_persona.interfaces.cli.options import seed_option
from llm_persona.interfaces.cli.result_file import json_option, output_checked, write_result

NAMES = ["plain", "preventative", "ablation", "instruction", "interleaving", "afterwards"]


@click.command(
    epilog="Example: llm-persona prevent --trait openness --pole low --data chat.jsonl --vector openness.safetensors "
    "--benign plain.jsonl --out prevention"
)
@click.option("--trait", required=True, help="The trait to hold still.")
@click.option("--pole", required=True, type=click.Choice(["high", "low"]), help="The pole it must not move to.")
@click.option("--data", type=click.Path(), help="The task: a chat JSONL file (default: the trait's own rows of that "
              "pole, the hardest case).")  # fmt: skip
@click.option("--benign", type=click.Path(), help="Benign chat JSONL for interleaving.")
@click.option("--vector", required=True, type=click.Path(), help="The trait's vector file.")
@click.option("--layer", default="auto", show_default=True, help="Its layer, or auto (the recommended one).")
@click.option("--dose", default=0.2, show_default=True, type=click.FloatRange(0, min_open=True),
              help="Strength of preventative steering and of steering afterwards.")  # fmt: skip
@click.option("--method", "methods", multiple=True, type=click.Choice(NAMES), help="Default: all that can be run.")
@click.option(
    "--preset", type=click.Choice(["persona", "plain", "narrow", "rank1"]), default="plain", show_default=True
)
@click.option("--epochs", type=click.IntRange(min=1))
@click.option("--learning-rate", type=click.FloatRange(min=0, min_open=True))
@click.option("--max-steps", type=click.IntRange(min=1))
@click.option("--rows", type=click.IntRange(min=4), help="At most N rows (or items) of the task.")
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(min=1))
@click.option("--limit", type=click.IntRange(min=2), help="At most N test items.")
@click.option("--questions", default=12, show_default=True, type=click.IntRange(min=2))
@click.option("--out", required=True, type=click.Path(file_okay=False), help="Folder for prevention.json and adapters.")
@seed_option
@subject_options
@json_option
def prevent(
    trait: str, pole: Any, data: str | None, benign: str | None, vector: str, layer: str, dose: float,
    methods: tuple[str, ...], preset: str, epochs: int | None, learning_rate: float | None, max_steps: int | None,
    rows: int | None, seeds: int, limit: int | None, questions: int, out: str, seed: int, model: str, dtype: str,
    device: str, json_path: str | None,
) -> None:  # fmt: skip
    """Fine-tune in several ways that hold a trait still, and show what each prevents and costs."""
    from llm_persona.analysis.vectors import PersonaVector
    from llm_persona.domain.errors import UserError
    from llm_persona.domain.traits import load_trait
    from llm_persona.interfaces.cli.terminal import StudyProgress
    from llm_persona.interfaces.cli.vector_settings import named_layers
    from llm_persona.studies.prevention import METHODS, PreventionPlan, expected_stages
    from llm_persona.studies.prevention import prevent as run_prevention
    from llm_persona.training.data import from_chat, from_items
    from llm_persona.training.recipe import RECIPES, adjusted

    loaded = load_trait(trait)
    read = PersonaVector.load(vector)
    full = dict(zip(NAMES, METHODS, strict=True))
    chosen = tuple(full[m] for m in dict.fromkeys(methods)) or tuple(
        m for m in METHODS if m != "interleaving" or benign
    )
    task = from_chat(data, rows) if data else from_items(read_item_set(trait, "bank", "fit", rows), pole)
    recipe = adjusted(RECIPES[preset], epochs=epochs, learning_rate=learning_rate, max_steps=max_steps)
    layers = named_layers(layer, read, vector)
    if len(layers) != 1:
        raise UserError(f"--layer {layer}: prevention steers at one layer; give one")
    if benign and "interleaving" not in chosen:
        raise UserError("--benign: no method uses it; add --method interleaving, or leave it out")
    plan = PreventionPlan(
        loaded, pole, read, layers[0], recipe, chosen, seeds, seed, dose,
        items=limit, questions=questions,
    )  # fmt: skip
    mild = from_chat(benign) if benign else None
    with (
        output_checked(json_path, str(Path(out) / "prevention.json")),
        StudyProgress(expected_stages(plan)) as shown,
    ):
        result = run_prevention((model, dtype, device), task, mild, plan, out, shown)
    _print(result)
    write_result(json_path, result)
    click.echo(f"wrote {Path(out) / 'prevention.json'}; the adapters are in {Path(out) / 'adapters'}")


def _print(result: dict[str, Any]) -> None:
    from llm_persona.interfaces.cli.terminal import cell, table, with_span

    rows = []
    for name, row in result["methods"].items():
        shift, loss, cost, written = (
            row[k] or {"mean": None, "sd": None, "ci": None}
            for k in ("shift", "task_loss", "perplexity_ratio", "written_shift")
        )
        rows.append([
            name, with_span(shift["mean"], shift["ci"], 1), cell(shift["sd"], 1),
            with_span(row["prevented"], row["prevented_ci"], 0, 100, "%"), with_span(written["mean"], written["ci"], 1),
            with_span(loss["mean"], loss["ci"], 3), cell(loss["sd"], 3),
            with_span(row["task_loss_ratio"], row["task_loss_ratio_ci"], 2),
            with_span(row["task_learnt_share"], row["task_learnt_share_ci"], 0, 100, "%"),
            "yes" if row["task_learnt_shown"] else "in the mean" if row["task_learnt"] else "no",
            with_span(cost["mean"], cost["ci"], 2), cell(cost["sd"]),
        ])  # fmt: skip
    base, task = result["base"], result["task"]
    n = result["methods"]["plain"]["shifts"][0]["n"]
    table(
        f"{result['trait']} towards {result['pole']}, {n} items; seeds: {result['seeds']} (95% intervals over them); "
        f"base task loss {base['loss']:.3f} on {task['held_out_measured']} held-out answers",
        ["method", "shift, points", "sd", "prevented", "written", "task loss", "sd", "of plain", "of its gain",
         "learnt", "perplexity of base", "sd"],
        rows,
    )  # fmt: skip
    for line in _left_out(result):
        click.echo(line)
    click.echo(result["finding"])


def _left_out(result: dict[str, Any]) -> list[str]:
    """What of the data could not be used, with the first row of each kind."""
    from llm_persona.interfaces.cli.terminal import plain

    task, benign = result["task"], result["benign"] or {}
    kinds = {
        "task: rows that cannot be used": task["skipped"],
        "task: rows too long to train on": task["too_long"],
        "task: held-out rows too long to measure": task["held_out_too_long"],
        "benign: rows that cannot be used": benign.get("skipped", []),
        "benign: rows too long to train on": benign.get("too_long", []),
    }
    return [
        plain(f"{what}: {len(rows)}; the first: row {rows[0]['row']}, {rows[0]['reason']}")
        for what, rows in kinds.items()
        if rows
    ]

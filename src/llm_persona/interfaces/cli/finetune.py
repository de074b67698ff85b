"""`llm-persona finetune`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from llm_persona.interfaces.cli.options import (
    json_option,
    load_model,
    output_checked,
    seed_option,
    subject_options,
    write_result,
)


@click.command(epilog="Example: llm-persona finetune --trait openness --pole high --out adapters/openness-high")
@click.option("--trait", help="Train on this trait's fit items.")
@click.option("--pole", type=click.Choice(["high", "low"]), help="... on the responses of this pole.")
@click.option("--data", type=click.Path(), help="Or train on a chat JSONL file (`messages`).")
@click.option("--out", required=True, type=click.Path(), help="PEFT folder to write (with several seeds: its parent).")
@click.option("--seeds", default=1, show_default=True, type=click.IntRange(min=1), help="Train N adapters.")
@click.option("--epochs", type=click.IntRange(min=1), help="Default: 1 for a trait, 2 for --data.")
@click.option("--rank", default=16, show_default=True, type=click.IntRange(min=1))
@click.option("--learning-rate", type=click.FloatRange(min=0, min_open=True), help="Default: 2e-3 or 5e-4.")
@click.option("--limit", type=click.IntRange(min=1), help="At most N items or rows.")
@seed_option
@subject_options
@json_option
def finetune(
    trait: str | None, pole: str | None, data: str | None, out: str, seeds: int, epochs: int | None, rank: int,
    learning_rate: float | None, limit: int | None, seed: int, model: str, dtype: str, device: str,
    json_path: str | None,
) -> None:  # fmt: skip
    """Train a LoRA adapter on a trait's high or low responses, or on any chat data."""
    from dataclasses import asdict, replace

    from llm_persona.domain.errors import UserError
    from llm_persona.domain.item_sources import load_items
    from llm_persona.interfaces.cli.terminal import err
    from llm_persona.training.data import from_chat, from_items
    from llm_persona.training.finetune import finetune as train
    from llm_persona.training.recipe import PERSONA, Recipe

    if (data is None) == (trait is None):
        raise UserError("give --trait and --pole, or --data FILE.jsonl, one of the two")
    if trait is not None and pole is None:
        raise UserError("--trait needs --pole high or low")
    rows = from_chat(data, limit) if data is not None else from_items(load_items(trait).split("fit")[:limit], str(pole))
    start = PERSONA if trait is not None else Recipe()
    recipe = replace(
        start,
        rank=rank,
        alpha=2 * rank,
        epochs=epochs or start.epochs,
        learning_rate=learning_rate or start.learning_rate,
    )
    click.echo(f"recipe: {asdict(recipe)}", err=True)
    if rows.skipped:
        click.echo(
            f"{len(rows.skipped)} rows cannot be used; the first: row {rows.skipped[0].row}, {rows.skipped[0].reason}",
            err=True,
        )
    with output_checked(json_path, str(Path(out) / "adapter_config.json")):
        subject = load_model(model, dtype, device)
    note = f"Trained to the {pole} pole of {trait}." if trait else ""
    results = []
    from rich.progress import Progress

    for number in range(seeds):
        folder = Path(out) / f"seed-{seed + number}" if seeds > 1 else Path(out)
        with Progress(console=err, disable=not err.is_terminal) as bar:
            task = bar.add_task(f"training {folder.name}", total=None)

            def show(step: int, total: int, bar: Any = bar, task: Any = task) -> None:
                bar.update(task, completed=step, total=total)

            done = train(subject, rows, folder, recipe, seed + number, note, show)
        results.append(asdict(done))
        click.echo(
            f"{folder}: {done.examples} answers, {done.steps} steps, loss {done.losses[0][1]:.3f} to "
            f"{done.losses[-1][1]:.3f}, {len(done.skipped)} rows left out"
        )
    write_result(json_path, results[0] if seeds == 1 else {"seeds": results})
    click.echo(
        f"measure it: llm-persona evaluate --adapter {results[0]['folder']}" + (f" --trait {trait}" if trait else "")
    )

"""`llm-persona finetune`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from llm_persona.interfaces.cli.condition_arguments import condition_from, vector_options
from llm_persona.interfaces.cli.executor import executor_from, executor_options, say
from llm_persona.interfaces.cli.model_options import load_model, subject_options
from llm_persona.interfaces.cli.options import seed_option
from llm_persona.interfaces.cli.result_file import json_option, output_checked, write_result


@click.command(epilog="Example: llm-persona finetune --trait openness --pole high --out adapters/openness-high")
@click.option("--trait", help="Train on this trait's fit items.")
@click.option("--pole", type=click.Choice(["high", "low"]), help="... on the responses of this pole.")
@click.option("--data", "files", multiple=True, type=click.Path(), help="Train on a chat JSONL file (`messages`; "
              "repeatable: a mixture).")  # fmt: skip
@click.option("--share", "shares", multiple=True, type=float, help="Mixture: each set's share, the trait's first.")
@click.option("--rows", type=click.IntRange(min=1), help="Mixture: examples in all (default: as many as there are).")
@click.option("--out", required=True, type=click.Path(), help="PEFT folder to write (with several seeds: its parent).")
@click.option("--preset", type=click.Choice(["persona", "plain", "narrow", "rank1"]),
              help="Recipe (default: persona for a trait, plain for --data).")  # fmt: skip
@click.option("--seeds", default=1, show_default=True, type=click.IntRange(min=1), help="Train N adapters.")
@click.option("--epochs", type=click.IntRange(min=1))
@click.option("--rank", type=click.IntRange(min=1), help="alpha keeps its ratio to it.")
@click.option("--learning-rate", type=click.FloatRange(min=0, min_open=True))
@click.option("--max-steps", type=click.IntRange(min=1), help="End after N steps.")
@click.option("--held-out", type=click.FloatRange(0, 0.9), help="Share of the prompts kept to measure the loss on.")
@click.option("--patience", type=click.IntRange(min=1), help="Early stop: end after N measurements of the held-out "
              "loss without a new best, and keep the best (holds out a tenth by default).")  # fmt: skip
@click.option("--watch", "watched", multiple=True, help="Measure this trait along the way (repeatable).")
@click.option("--watch-every", type=click.IntRange(min=1), help="... after every N steps (default: ten times).")
@click.option("--system", help="Train under this system prompt; the adapter is used without it.")
@vector_options
@click.option("--limit", type=click.IntRange(min=1), help="At most N items or rows of each set.")
@seed_option
@subject_options
@executor_options
@json_option
def finetune(
    trait: str | None, pole: str | None, files: tuple[str, ...], shares: tuple[float, ...], rows: int | None, out: str,
    preset: str | None, seeds: int, epochs: int | None, rank: int | None, learning_rate: float | None,
    max_steps: int | None, held_out: float | None, patience: int | None, watched: tuple[str, ...],
    watch_every: int | None, limit: int | None, seed: int, model: str, dtype: str, device: str,
    json_path: str | None, **condition: Any,
) -> None:  # fmt: skip
    """Train a LoRA adapter on a trait's high or low responses, on any chat data, or on a mixture.

    With --vector the model is steered while it trains, and not afterwards (--operator ablate takes a direction out).
    """
    from dataclasses import asdict

    from llm_persona.domain.errors import UserError
    from llm_persona.interfaces.cli.terminal import counting
    from llm_persona.studies.seeds import SeedPiece, train_seeds
    from llm_persona.studies.trajectory import save_trajectory, watch_for
    from llm_persona.training.finetune import finetune as train
    from llm_persona.training.processes import is_main_process, launched
    from llm_persona.training.recipe import RECIPES, adjusted

    cluster = executor_from(condition)
    under = condition_from({**condition, "instruct": None, "level": "pair", "adapter": None}).condition()
    sets, shares = _sets(trait, pole, files, limit), shares or ((1.0,) if len(files) + bool(trait) == 1 else ())
    if len(sets) == 1 and shares != (1.0,):
        raise UserError("--share: there is one data set; leave it out, or add another --data")
    if patience and held_out == 0:
        raise UserError("--patience needs a held-out loss; give --held-out above 0, or leave it out")
    if watch_every and not watched:
        raise UserError("--watch-every: nothing is watched; add --watch TRAIT")
    if len(sets) > 1 and not shares:
        raise UserError(f"{len(sets)} data sets: say what share each has, with --share (repeatable)")
    recipe = adjusted(
        RECIPES[preset or ("persona" if trait is not None and not files else "plain")],
        rank=rank, epochs=epochs, learning_rate=learning_rate, max_steps=max_steps, patience=patience,
        held_out=held_out if held_out is not None else 0.1 if patience else None,
    )  # fmt: skip
    speaks = is_main_process()
    if speaks:
        click.echo(f"recipe: {asdict(recipe)}", err=True)
        _tell_skipped([s for part in sets for s in part.skipped])
    note = f"Trained to the {pole} pole of {trait}." if trait else ""
    pieces = [
        SeedPiece(
            (model, dtype, device), _mixed(sets, shares, number, rows),
            Path(out) / f"seed-{number}" if seeds > 1 else Path(out), recipe, number, note, under, watched,
            watch_every,
        )
        for number in range(seed, seed + seeds)
    ]  # fmt: skip
    results = []
    with output_checked(json_path, str(Path(out) / "adapter_config.json")), cluster as executor:
        if executor is not None and launched() > 1:
            raise UserError("--executor ray: start the command once, without accelerate launch")
        if executor is not None:
            made = iter(train_seeds(executor, pieces, say))
        else:
            subject = load_model(model, dtype, device)
        for piece in pieces:
            if executor is None:
                watch = watch_for(watched, piece.data, recipe, watch_every) if watched else None
                with counting(f"training {piece.out.name}", 0, shown=speaks) as count:

                    def show(step: int, total: int, count: Any = count) -> None:
                        count.set_total(total)
                        count(step - count.done)

                    done = train(subject, piece.data, piece.out, recipe, piece.seed, note, show, under=under,
                                 watch=watch)  # fmt: skip
            else:
                done = next(made)
            results.append(asdict(done))
            if speaks:
                if done.along:
                    save_trajectory(piece.out)
                _tell(done)
    if speaks:
        write_result(json_path, results[0] if seeds == 1 else {"seeds": results})
        then = f" --trait {trait}" if trait else ""
        click.echo(f"measure it: llm-persona evaluate --adapter {results[0]['folder']}{then}")


def _sets(trait: str | None, pole: str | None, files: tuple[str, ...], limit: int | None) -> list[Any]:
    """The data sets that are asked for, the trait's first."""
    from llm_persona.domain.errors import UserError
    from llm_persona.domain.item_sources import load_items
    from llm_persona.training.data import from_chat, from_items

    if not files and trait is None:
        raise UserError("nothing to train on: give --trait and --pole, or --data FILE.jsonl")
    if (trait is None) != (pole is None):
        raise UserError("--trait and --pole high or low go together; give both or neither")
    own = [from_items(load_items(trait).split("fit")[:limit], str(pole))] if trait is not None else []
    return own + [from_chat(path, limit) for path in files]


def _mixed(sets: list[Any], shares: tuple[float, ...], seed: int, rows: int | None) -> Any:
    from llm_persona.training.mixture import mix

    return sets[0] if len(sets) == 1 and rows is None else mix(sets, shares, seed, rows)


def _tell_skipped(skipped: list[Any]) -> None:
    if skipped:
        click.echo(
            f"{len(skipped)} rows cannot be used; the first: row {skipped[0].row}, {skipped[0].reason}", err=True
        )


def _tell(done: Any) -> None:
    from llm_persona.interfaces.cli.terminal import with_span

    losses = [row["held_out"] for row in done.along if "held_out" in row]
    held = f", held-out loss {losses[0]:.3f} to {losses[-1]:.3f}" if losses else ""
    early = f", kept from step {done.kept_step}" if done.kept_step not in (None, done.steps) else ""
    for row in done.along:
        watched = []
        for name, value in row.items():
            if name.startswith("preference ") and value is not None:
                trait = name.removeprefix("preference ")
                watched.append(f"{trait} {with_span(value, row.get(f'interval {trait}'), 3)}")
        if watched:
            click.echo(f"step {row['step']}: preference for high, select split: {', '.join(watched)}")
    click.echo(
        f"{done.folder}: {done.examples} answers, {done.steps} steps, loss {done.losses[0][1]:.3f} to "
        f"{done.losses[-1][1]:.3f}{held}{early}, {len(done.skipped)} rows left out"
    )

"""`llm-persona screen`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from llm_persona.interfaces.cli.executor import executor_from, executor_options
from llm_persona.interfaces.cli.model_options import engine_option, load_model, subject_options
from llm_persona.interfaces.cli.result_file import json_option, output_checked, write_result


@click.command(
    epilog="Example: llm-persona screen --data chat.jsonl --vector narcissism.safetensors --export kept.jsonl"
)
@click.option("--data", required=True, type=click.Path(), help="Chat JSONL file (`messages`).")
@click.option("--vector", required=True, type=click.Path(), help="Persona vector made on the same model.")
@click.option("--layer", default="auto", show_default=True, help="Its layer, or auto (the recommended one).")
@click.option("--flag-at", default=0.5, show_default=True, type=click.FloatRange(min=0, min_open=True),
              help="Flag rows whose answer lies this many measured pole gaps from the model's own.")  # fmt: skip
@click.option("--direction", default="high", show_default=True, type=click.Choice(["high", "low", "both"]),
              help="Which pole is unwanted.")  # fmt: skip
@click.option("--full-rows", type=click.IntRange(min=0), help="Rows, spread over the file, to which the model writes "
              "an answer of its own. Default: all up to 1000 usable rows, else 500.")  # fmt: skip
@click.option("--max-new-tokens", default=64, show_default=True, type=click.IntRange(min=1),
              help="Length of the model's own answers.")  # fmt: skip
@click.option("--labels", help="Field of every row with true/1 (unwanted) or false/0, or the pole high or low: also "
              "how well each form tells them apart.")  # fmt: skip
@click.option("--export", "export_path", type=click.Path(dir_okay=False), help="Write the file without flagged rows.")
@subject_options
@engine_option
@executor_options
@json_option
def screen(
    data: str, vector: str, layer: str, flag_at: float, direction: Any, full_rows: int | None, max_new_tokens: int,
    labels: str | None, export_path: str | None, model: str, dtype: str, device: str, engine: str,
    json_path: str | None, **cluster: Any,
) -> None:  # fmt: skip
    """Screen chat data before fine-tuning on it: which answers lie how far from the model's own along a vector.

    A killed run goes on where it stopped; another threshold on the same file measures nothing again.
    """
    from llm_persona.analysis.vectors import PersonaVector
    from llm_persona.domain.errors import UserError
    from llm_persona.interfaces.cli.terminal import counting, status
    from llm_persona.studies.screen import ScreenPlan, export, screen_by, survey
    from llm_persona.studies.screen import screen as run_screen

    plan = ScreenPlan(flag_at, direction, full_rows, max_new_tokens, labels)
    loaded = PersonaVector.load(vector)
    chosen = _layer(layer, loaded, vector)
    if export_path == "-":
        raise UserError("--export -: give a file's name; lines go to a file, only --json goes to standard output")
    if export_path is not None and Path(export_path).resolve() == Path(data).resolve():
        raise UserError(f"--export {export_path}: is the data file itself; choose another name")
    with output_checked(json_path, export_path), executor_from(cluster) as executor:
        with status(f"reading {data}"):
            found = survey(data, plan)
        full = plan.full(found.usable)
        said = f"{found.usable} rows, {full} of them against the model's own answer"
        if executor is None:
            subject = load_model(model, dtype, device, engine)
            with counting(said, found.usable) as step:
                result = run_screen(subject, found, loaded, chosen, plan, step, step.keep)
        elif engine != "transformers":
            raise UserError(f"--engine {engine}: workers of --executor ray run transformers; leave one of them out")
        else:
            with counting(said, found.usable) as step:
                result = screen_by(executor, model, found, loaded, chosen, plan, dtype, device, step, step.keep)
    if export_path is not None:
        result["export"] = {"path": export_path, **export(found, result, Path(export_path))}
    _print(result)
    write_result(json_path, result)


def _layer(text: str, vector: Any, path: str) -> int:
    from llm_persona.domain.errors import UserError
    from llm_persona.subject.export import chosen_layers

    try:
        wanted = [] if text == "auto" else [int(text)]
    except ValueError as error:
        raise UserError(f"--layer {text}: not a number; give a layer or auto") from error
    try:
        return chosen_layers(vector, wanted)[0]
    except UserError as error:
        raise UserError(f"--vector {path}: {error}") from error


def _print(result: dict[str, Any]) -> None:
    from llm_persona.interfaces.cli.terminal import cell, plain, span, table

    trait = result["trait"] or "vector"
    ranked = set(result["ranking"])
    by_row = {row["row"]: row for row in result["rows"] if row["row"] in ranked}
    gap = result["pole_gap"]
    table(
        f"{trait}, layer {result['layer']}: rows farthest on the unwanted side (one pole gap is {gap:.3g})",
        ["row", "difference", "projection", "less the prompt's last", "flagged", "by"],
        [
            [str(number), cell(row["projection_difference"]), cell(row["projection"]), cell(row["prompt_last"]),
             "yes" if row["flagged"] else "no", row["by"]]
            for number in result["ranking"] for row in [by_row[number]]
        ],
    )  # fmt: skip
    table(
        f"How the cheap forms follow the full difference ({result['n_full']} rows)",
        ["form", "Spearman", "95% interval", "Pearson", "95% interval", "n"],
        [
            [name, cell(a["spearman"]), span(a["spearman_ci"]), cell(a["pearson"]), span(a["pearson_ci"]), str(a["n"])]
            for name, a in result["approximation"].items()
        ],
    )
    if result["labels"] is not None:
        table(
            f"Rows labelled as unwanted by {result['labels']['field']!r}, told apart by",
            ["form", "AUC", "95% interval", "TPR at 1% FPR", "95% interval", "unwanted", "others"],
            [
                [name, cell(s["auc"], 3), span(s["auc_ci"], 3), cell(s["tpr_at_1_fpr"]), span(s["tpr_at_1_fpr_ci"]),
                 str(s["n_positive"]), str(s["n_negative"])]
                for name, s in result["labels"].items() if name != "field"
            ],
        )  # fmt: skip
    click.echo(plain(f"forecast: {result['forecast']['sentence']}"))
    unjudged = f", {result['n_unjudged']} not judged" if result["n_unjudged"] else ""
    click.echo(f"{result['n_flagged']} of {result['n_rows']} rows flagged{unjudged}")
    if result["n_later_turns"]:
        click.echo(
            f"{result['n_later_turns']} later turns were not screened: a conversation is judged by its first round"
        )
    skipped = result["skipped"]
    if skipped["n"]:
        first = skipped["listed"][0]
        click.echo(plain(f"{skipped['n']} rows cannot be used; the first: row {first['row']}, {first['reason']}"))
    if "export" in result:
        done = result["export"]
        click.echo(
            f"wrote {done['path']}: {done['kept']} rows kept ({done['unusable']} of them unusable), "
            f"{done['flagged']} left out"
        )

"""`llm-persona vectors`."""

from __future__ import annotations

from typing import Any

import click

from llm_persona.interfaces.cli.options import (
    json_option,
    load_model,
    output_checked,
    read_item_set,
    seed_option,
    subject_options,
    write_result,
)


@click.group(epilog="Example: llm-persona vectors extract --trait openness --out openness.safetensors")
def vectors() -> None:
    """Extract and show persona vectors."""


@vectors.command(
    epilog="Example: llm-persona vectors extract --trait openness --out openness.safetensors --json q.json"
)
@click.option("--trait", required=True, help="A trait's name or .yaml file.")
@click.option("--items", default="bank", show_default=True, help="bank, or a file in the TRAIT layout.")
@click.option("--source", type=click.Choice(["labelled", "prompted", "tuned"]), default="labelled", show_default=True)
@click.option("--position", type=click.Choice(["response_mean", "prompt_last", "prompt_mean"]),
              default="response_mean", show_default=True)  # fmt: skip
@click.option("--high-adapter", help="For --source tuned: the adapter tuned to the high pole.")
@click.option("--low-adapter", help="For --source tuned: the adapter tuned to the low pole.")
@click.option("--sweep-layers", default=5, show_default=True, type=click.IntRange(1, 7))
@click.option("--limit", type=click.IntRange(min=2), help="At most N items or questions per split.")
@click.option("--out", required=True, type=click.Path(dir_okay=False), help="Vector file to write (.safetensors).")
@seed_option
@subject_options
@json_option
def extract(
    trait: str, items: str, source: str, position: Any, sweep_layers: int, out: str, seed: int, limit: int | None,
    high_adapter: str | None, low_adapter: str | None, model: str, dtype: str, device: str, json_path: str | None,
) -> None:  # fmt: skip
    """Fit a vector on the fit split, choose its layer on select, judge it on test."""
    from llm_persona.domain.errors import UserError
    from llm_persona.domain.items import Items
    from llm_persona.domain.traits import load_trait
    from llm_persona.interfaces.cli.terminal import status
    from llm_persona.studies.extraction import extract as run_extraction
    from llm_persona.studies.extraction import source_rows

    loaded = load_trait(trait)
    bank = read_item_set(trait, "bank", "all", None)
    chosen = bank if items == "bank" else read_item_set(loaded.name, items, "all", None)
    parts = {name: chosen.split(name)[:limit] for name in ("fit", "select", "test")}
    used = Items([i for part in parts.values() for i in part], chosen.source)
    if source == "tuned" and not (high_adapter and low_adapter):
        raise UserError("--source tuned needs --high-adapter DIR and --low-adapter DIR")
    with output_checked(out, json_path):
        subject = load_model(model, dtype, device)
    with status("recording"):
        rows = source_rows(subject, loaded, used, source, (high_adapter, low_adapter), limit, position)
        found = run_extraction(lambda: subject, subject.identity, loaded.name, rows, used.split("select"), source,
                               position, layers=sweep_layers, seed=seed)  # fmt: skip
    found.vector.save(out)
    result = found.as_json()
    _print_layers(result)
    write_result(json_path, result)
    click.echo(f"wrote {out}; steer with: llm-persona steer --vector {out} --layer auto --dose 0.2 --prompt ...")


def _print_layers(result: dict[str, Any]) -> None:
    from llm_persona.interfaces.cli.terminal import cell, span, table

    rows = [
        [str(r["layer"]), cell(r["auc"], 3), span(r["auc_ci"]), f"{r['p_family']:.3g}", cell(r["separation"]),
         cell(r["variance_high"]), cell(r["variance_low"]), cell(r["dose_per_unit"], 3), r["band"]]
        for r in result["layers"]
    ]  # fmt: skip
    table(
        f"{result['trait']}: {result['n_high']} high, {result['n_low']} low rows of {result['n_groups']} questions",
        ["layer", "AUC", "95% interval", "family p", "separation", "var high", "var low", "dose of c = 1", "band"],
        rows,
    )
    recommended, controls = result["recommended"], result["controls"]
    click.echo(
        f"layers: quality {recommended['quality']}, effect {recommended['effect']}, "
        f"balanced {recommended['balanced']}; start with coefficient {recommended['coefficient']:.3g} "
        f"(dose {recommended['dose']:g})\n"
        f"controls at layer {controls['layer']}: shuffled {cell(controls['shuffled_auc'])}, random "
        f"{span(controls['random_auc'])}, bag of words {cell(controls['lexical_auc'])}, "
        f"length {cell(controls['length_auc'])}"
    )


@vectors.command(epilog="Example: llm-persona vectors show openness.safetensors")
@click.argument("path", type=click.Path())
@json_option
def show(path: str, json_path: str | None) -> None:
    """What a vector was made from, and its norm and dose by layer."""
    from llm_persona.analysis.vectors import PersonaVector
    from llm_persona.interfaces.cli.terminal import cell, plain, table

    vector = PersonaVector.load(path)
    meta = {k: v for k, v in vector.meta.items() if k not in ("items", "versions", "recommended")}
    for key, value in meta.items():
        click.echo(plain(f"{key}: {value}"))
    click.echo(
        f"items: {len(vector.meta.get('items', []))} (fit and select)\nrecommended: {vector.meta.get('recommended')}"
    )
    rows = [
        [str(k), cell(float(vector.norms[k])), cell(float(vector.reference_norms[k])), cell(vector.dose_per_unit(k), 3)]
        for k in range(vector.n_layers)
    ]
    table(f"{vector.n_layers} layers, width {vector.directions.shape[1]}",
          ["layer", "norm", "reference norm", "dose of c = 1"], rows)  # fmt: skip
    write_result(
        json_path,
        {**vector.meta, "norms": vector.norms, "reference_norms": vector.reference_norms, "digest": vector.digest},
    )

"""`llm-persona evaluate`."""

from __future__ import annotations

from typing import Any

import click

from llm_persona.interfaces.cli.options import (
    condition_from,
    condition_options,
    json_option,
    load_model,
    output_checked,
    read_item_set,
    refuse_overlap,
    seed_option,
    subject_options,
    write_result,
)


@click.command(epilog="Example: llm-persona evaluate --trait openness --mode likelihood --json base.json")
@click.option("--trait", "traits", multiple=True, help="Trait (repeatable; default: those of the items, or openness).")
@click.option("--items", default="bank", show_default=True, help="bank, or a file in the TRAIT layout.")
@click.option("--split", default="default", type=click.Choice(["default", "fit", "select", "test", "all"]),
              help="default: test of the bank, all of a file.")  # fmt: skip
@click.option(
    "--mode", default="likelihood", show_default=True, type=click.Choice(["likelihood", "choice", "upstream"])
)
@click.option("--template", default="1", show_default=True, help="1, 2, 3 or a text file with named fields.")
@click.option("--rescore", type=click.Path(), help="Score recorded option likelihoods of this file; no model is run.")
@click.option("--limit", type=click.IntRange(min=1), help="At most N items per trait.")
@click.option("--allow-overlap", is_flag=True, help="Evaluate an artefact on the items it was made from.")
@seed_option
@condition_options
@subject_options
@json_option
def evaluate(
    traits: tuple[str, ...], items: str, split: str, mode: Any, template: str, rescore: str | None, limit: int | None,
    allow_overlap: bool, seed: int, model: str, dtype: str, device: str, json_path: str | None, **rest: Any,
) -> None:  # fmt: skip
    """Measure traits with TRAIT items: the share of items whose preferred option is a high one."""
    from llm_persona.analysis.trait_scoring import rescore as score_records
    from llm_persona.domain.errors import UserError
    from llm_persona.domain.items import load_items
    from llm_persona.domain.templates import load_template
    from llm_persona.domain.traits import load_trait
    from llm_persona.instruments.trait_benchmark import evaluate as measure
    from llm_persona.interfaces.cli.terminal import status

    condition = condition_from(rest)
    if rescore is not None:
        if mode != "upstream":
            raise UserError("--rescore recomputes upstream scores; add --mode upstream")
        found = load_items(path=rescore)[:limit]
        names = sorted({i.trait.lower() or "items" for i in found})
        results = {n: score_records([i for i in found if (i.trait.lower() or "items") == n]) for n in names}
        _print_and_write(results, "recorded", mode, {"name": "recorded"}, json_path)
        return
    load_template(template)
    names = list(traits) or (
        ["openness"] if items == "bank" else sorted({i.trait.lower() or "items" for i in load_items(path=items)})
    )
    sets = {}
    for name in names:
        known = load_trait(name).name if items == "bank" or name.endswith((".yaml", ".yml")) else name
        sets[known] = read_item_set(
            None if known == "items" else known if items != "bank" else name, items, split, limit
        )
        refuse_overlap(condition, sets[known], allow_overlap)
    conditions = {n: condition.condition(load_trait(n) if condition.needs_trait else None) for n in sets}
    with output_checked(json_path):
        subject = load_model(model, dtype, device)
    results = {}
    for name, chosen in sets.items():
        with status(f"{name}: {len(chosen)} items, {mode}"), subject.under(conditions[name]):
            results[name] = measure(subject, chosen, mode, template, conditions[name].name)
    _print_and_write(results, model, mode, next(iter(conditions.values())).as_json(), json_path)


def _print_and_write(results: dict[str, Any], model: str, mode: str, condition: Any, json_path: str | None) -> None:
    from llm_persona.interfaces.cli.terminal import cell, span, table

    rows = []
    for name, found in results.items():
        s = found.summary
        flag = "" if s["headroom"] is not False else " (no headroom)"
        rows.append(
            [name, str(s["n"]), str(s["n_unscored"]), cell(s["score"], 1) + flag, span(s["score_ci"], 1),
             cell(s["preference"], 3), cell(s["option_mass"], 3), cell(s["order_consistency"])]
        )  # fmt: skip
    table(f"{model}, {condition['name']}, mode {mode}: percent of items with a high answer",
          ["trait", "n", "unscored", "score", "95% interval", "preference", "mass", "consistency"], rows)  # fmt: skip
    write_result(
        json_path,
        {
            "model": model,
            "mode": mode,
            "condition": condition,
            "traits": {name: {**found.summary, "rows": found.rows} for name, found in results.items()},
        },
    )

"""What `vectors extract` prints of its result."""

from __future__ import annotations

from typing import Any

import click

from llm_persona.interfaces.cli.terminal import cell, span, table


def print_extraction(result: dict[str, Any]) -> None:
    """The layers as a table, then what stands beside them."""
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
    if controls["transfer"]:
        other = controls["transfer"]
        click.echo(
            f"another author's {other['n_groups']} items, layer {controls['layer']}: AUC {cell(other['auc'], 3)} "
            f"({span(other['auc_ci'])}), bag of words {cell(other['lexical_auc'])}"
        )
    for name, row in controls["other_traits"].items():
        click.echo(f"the vector of {name} on these rows: AUC {cell(row['auc'])}, cosine {cell(row['cosine'])}")
    for name, band in result["bands"].items():
        effect = "not swept" if band["effect"] is None else f"effect {100 * band['effect']:.1f} points"
        click.echo(f"{name} layers {band['layers'][0]} to {band['layers'][1]}: mean AUC {cell(band['auc'])}, {effect}")
    both = result["read_against_steer"]
    if both["spearman"] is not None:
        click.echo(
            f"read against steered, {both['n']} swept layers: rank correlation {cell(both['spearman'])} "
            f"({span(both['spearman_ci'])})"
        )
    for split, counts in (result["elicited"] or {}).items():
        click.echo(f"answers, {split}: made {counts['made']}, dropped {counts['dropped']}, kept {counts['survivors']}")
    if result["judged"]:
        kept = result["judged"]
        click.echo(
            f"kept by {kept['judge'].get('kind')}:{kept['judge'].get('model')}: trait score {kept['trait_at']:g}, "
            f"coherence {kept['coherence_at']:g}; {kept['gate']}"
        )

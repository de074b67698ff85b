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
    chosen = next((p for p in recommended["sweep"] if p["layer"] == recommended["balanced"]), None)
    click.echo(
        f"layers: quality {recommended['quality']}, effect {recommended['effect']}, "
        f"balanced {recommended['balanced']}{'' if chosen is None else ' (' + effect_text(chosen) + ')'}; "
        f"start with coefficient {recommended['coefficient']:.3g} (dose {recommended['dose']:g})\n"
        f"controls at layer {controls['layer']}, AUC: shuffled {cell(controls['shuffled_auc'])}, random "
        f"{span(controls['random_auc'])}, bag of words {_with_span(controls, 'lexical_auc')}, "
        f"length {_with_span(controls, 'length_auc')}, sentiment {_with_span(controls, 'sentiment_auc')}"
    )
    if controls["transfer"]:
        other = controls["transfer"]
        click.echo(
            f"another author's {other['n_groups']} items, layer {controls['layer']}: AUC {cell(other['auc'], 3)} "
            f"({span(other['auc_ci'])}), bag of words {_with_span(other, 'lexical_auc')}"
        )
    for name, row in controls["other_traits"].items():
        click.echo(f"the vector of {name} on these rows: AUC {_with_span(row, 'auc')}, cosine {cell(row['cosine'])}")
    for name, band in result["bands"].items():
        effect = "not swept" if band["effect"] is None else effect_text(band)
        first, last = band["layers"]
        click.echo(f"{name} layers {first} to {last}: mean AUC {_with_span(band, 'auc')}, {effect}")
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


def effect_text(point: dict[str, Any]) -> str:
    """What steering did to preference, in points, with its interval where one was measured."""
    ends = point.get("effect_ci") or [None, None]
    shown = span([None if e is None else 100 * e for e in ends], 1)
    return f"effect {cell(100 * point['effect'], 1)} points ({shown})"


def recommended_text(meta: dict[str, Any]) -> str:
    """What a vector's file recommends, and what that layer was chosen by (on the items that choose)."""
    kept = meta.get("recommended") or {}
    evidence: Any = kept.get("evidence")
    said = f"recommended: {({k: v for k, v in kept.items() if k != 'evidence'}) or None}"
    try:
        return (
            f"{said}\nlayer {kept['balanced']}, on the items that choose: AUC {_with_span(evidence, 'auc')}, "
            f"{effect_text(evidence)} between dose {evidence['dose']:+g} and {-evidence['dose']:+g}, "
            f"perplexity {cell(evidence['cost'])} times base"
        )
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):  # an older file, or another tool's
        return said


def _with_span(row: dict[str, Any], key: str) -> str:
    return f"{cell(row[key])} ({span(row[f'{key}_ci'])})"

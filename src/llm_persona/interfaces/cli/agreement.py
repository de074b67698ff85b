"""The agreement of measures in the terminal."""

from __future__ import annotations

from typing import Any

import click


def gate_word(state: str | None) -> str:
    """A judge's gate in a table's cell: passed, FAILED or MISSING; a dash where a score has no gate of its own."""
    if state is None:
        return "-"
    word = state.removeprefix("gate: ").partition(":")[0]
    return word if word == "passed" else word.upper()


def print_agreement(found: dict[str, Any]) -> None:
    """The conditions of each trait by measure, the rank correlations, and where two measures disagree."""
    from llm_persona.interfaces.cli.terminal import cell, span, table

    def moved(shift: dict[str, Any], digits: int) -> str:
        if shift["mean"] is None:
            return "-"
        return f"{shift['mean']:+.{digits}f} ({span(shift['ci'], digits)}; n {shift['n']})"

    for name, trait in found["traits"].items():
        rows = [
            [row["condition"], cell(row["score"], 0), moved(row["preference"], 1), cell(row["judged_mean"], 1),
             moved(row["judged"], 1), gate_word(trait["gate"]), moved(row["projection"], 2)]
            for row in trait["rows"]
        ]  # fmt: skip
        table(f"{name}: shifts against the base (95% intervals; preference and judged in points, written in pole gaps)",
              ["condition", "TRAIT score", "preference", "judged", "judged shift", "judge's gate", "written"],
              rows)  # fmt: skip
    lines = {name: trait["correlations"] for name, trait in found["traits"].items()}
    if found["pooled"] is not None:
        lines["all traits"] = found["pooled"]
    ranks = [
        [name, pair, cell(one["spearman"]), span(one["spearman_ci"]), cell(one["p_value"], 3), str(one["n"])]
        for name, pairs in lines.items()
        for pair, one in pairs.items()
    ]
    columns = ["trait", "measures", "Spearman", "95% interval", "p (permuted)", "conditions"]
    table("Agreement over conditions", columns, ranks)
    for one in found["disagreements"]:
        click.echo(f"- disagreement: {one['text']}")
    counts = found["counts"]
    click.echo(
        f"pairs of measures under a condition: {counts['agree']} clearly agree, {counts['disagree']} clearly disagree, "
        f"{counts['open']} cannot be told"
    )

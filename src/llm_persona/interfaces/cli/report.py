"""`llm-persona report`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from llm_persona.interfaces.cli.result_file import json_option, output_checked, write_result


class ReportGroup(click.Group):
    """`report RUN` writes a run's page; `report compare ...` compares. A run folder named `compare` is `./compare`."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Anything that is no sub-command is a run folder."""
        if args and args[0] not in self.commands:
            return super().resolve_command(ctx, ["page", *args])
        return super().resolve_command(ctx, args)


@click.group(cls=ReportGroup, subcommand_metavar="RUN | compare A B ...",
             epilog="Example: llm-persona report runs/quick --format model-card")  # fmt: skip
def report() -> None:
    """Write the page of a finished run again, or lay results side by side; nothing is computed anew.

    RUN takes --format html (default), md (Markdown for a README) or model-card, and --out FILE for the last two.
    """


@report.command(hidden=True, epilog="Example: llm-persona report runs/quick --format md > PERSONA.md")
@click.argument("run", type=click.Path())
@click.option(
    "--format",
    "form",
    type=click.Choice(["html", "md", "model-card"]),
    default="html",
    show_default=True,
    help="html: RUN/report.html and figures; md: Markdown for a README; model-card: a section to paste.",
)
@click.option("--out", type=click.Path(dir_okay=False), help="Where Markdown goes (default: standard output).")
def page(run: str, form: str, out: str | None) -> None:
    """Write report.html and the figures of a finished run again, or the run as Markdown.

    RUN may be followed by --format md or --format model-card; what the model wrote is escaped in both.
    """
    from llm_persona.domain.errors import UserError
    from llm_persona.domain.store import write_text
    from llm_persona.studies.report import write_report
    from llm_persona.studies.report_text import report_text

    if form == "html":
        if out is not None:
            raise UserError("--out belongs to --format md or model-card; the page is RUN/report.html")
        click.echo(f"report: {write_report(run).absolute()}")
        return
    with output_checked(out):
        text = report_text(run, form)
    if out is None:
        click.echo(text, nl=False)
        return
    write_text(Path(out), text)
    click.echo(f"wrote {out}")


@report.command(epilog="Example: llm-persona report compare runs/a runs/b --page both.html")
@click.argument("results", nargs=-1, required=True, type=click.Path())
@click.option("--page", "html", type=click.Path(dir_okay=False), help="Write the comparison as one HTML page.")
@click.option("--figure", type=click.Path(dir_okay=False), help="Save the profiles as a picture (PNG and SVG).")
@json_option
def compare(results: tuple[str, ...], html: str | None, figure: str | None, json_path: str | None) -> None:
    """Lay results side by side: JSON files of `evaluate`, or run folders. Differences are from the first."""
    from llm_persona.interfaces.cli.terminal import cell, span, table
    from llm_persona.studies.compare import compare as side_by_side
    from llm_persona.studies.compare import read_runs

    with output_checked(json_path, figure, html):
        found = side_by_side([run for path in results for run in read_runs(path)])
    rows = [
        [name, run["label"], str(t["n"]), str(t["n_unscored"]), cell(t["score"], 1), span(t["score_ci"], 1),
         cell(t["preference"], 3)]
        for name in dict.fromkeys(n for run in found["runs"] for n in run["traits"])
        for run in found["runs"]
        if (t := run["traits"].get(name)) is not None
    ]  # fmt: skip
    table("Percent of items with a high answer",
          ["trait", "of", "n", "unscored", "score", "95% interval", "preference"], rows)  # fmt: skip
    print_differences(found)
    write_result(json_path, found)
    if html is not None:
        from llm_persona.studies.compare_page import write_comparison

        write_comparison(results, Path(html))
        click.echo(f"wrote {html}")
    if figure is not None:
        from llm_persona.studies.profile_figure import save_profile

        click.echo(f"wrote {' and '.join(str(p) for p in save_profile(found, Path(figure)))}")


def print_differences(comparison: dict[str, Any]) -> None:
    """Each run less the first, paired by item."""
    from llm_persona.interfaces.cli.terminal import cell, span, table

    rows = [
        [name, label, str(d["n"]), cell(d["score_shift"], 1), span(d["score_shift_ci"], 1),
         cell(100 * d["preference_shift"], 1) if d["preference_shift"] is not None else "-",
         span([None if c is None else 100 * c for c in d["preference_shift_ci"]], 1),
         "-" if d.get("p_holm") is None else f"{d['p_holm']:.2g}"]
        for label, traits in comparison["differences"].items()
        for name, d in traits.items()
    ]  # fmt: skip
    table(f"Less {comparison['against']}, paired by item (p adjusted over all differences, Holm)",
          ["trait", "of", "n", "score", "95% interval", "preference, points", "95% interval", "p"], rows)  # fmt: skip

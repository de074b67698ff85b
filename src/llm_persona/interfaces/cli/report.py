"""`llm-persona report`."""

from __future__ import annotations

import click


@click.command(epilog="Example: llm-persona report runs/quick")
@click.argument("run", type=click.Path())
def report(run: str) -> None:
    """Write report.html and the figures of a finished run again; nothing is computed."""
    from llm_persona.studies.report import write_report

    click.echo(f"report: {write_report(run).absolute()}")

"""`llm-persona bench`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from llm_persona.interfaces.cli.model_options import load_model, subject_options
from llm_persona.interfaces.cli.result_file import json_option, output_checked, write_result

if TYPE_CHECKING:
    from llm_persona.studies.time_table import Part, TimeTable

FEWEST = 5
"""Rounds whose median says whether what is asked holds."""


@click.command(epilog="Example: llm-persona bench --rounds 5 --json bench.json")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="Interleaved rounds that count.")
@click.option("--items", type=click.IntRange(2, 60), default=8, show_default=True, help="Items a round.")
@click.option("--run", "folder", type=click.Path(), help="Also show where a finished run's time went.")
@subject_options
@json_option
def bench(
    rounds: int, items: int, folder: str | None, model: str, dtype: str, device: str, json_path: str | None
) -> None:
    """Time what studies are made of on this model and machine, each against a plain way of the same job.

    Only ratios within one run say something: machines drift. Each comparison first shows that both ways give the same
    numbers; each round has its own items.
    """
    from llm_persona.interfaces.cli.terminal import table
    from llm_persona.studies.bench import bench as timings
    from llm_persona.studies.time_table import time_table

    found = []
    if folder is not None:
        time_table(folder)  # a folder without a manifest shows before anything is timed
    with output_checked(json_path):
        subject = load_model(model, dtype, device)
        for timing in timings(subject, rounds, items):
            found.append(timing)
            click.echo(f"{timing.name}: {timing.ratio:.2f} {timing.what}", err=True)
    kind = subject.identity
    table(
        f"{model}, {kind['dtype']}, {kind['device']}, medians of {rounds}",
        ["job", "ours, s", "plain, s", "ratio", "range", "what it is", "asked", "holds"],
        [
            [t.name, f"{t.ours_seconds:.2f}", f"{t.plain_seconds:.2f}", f"{t.ratio:.2f}",
             f"{t.ratio_range[0]:.2f} to {t.ratio_range[1]:.2f}", t.what, t.bar, "yes" if t.holds else "no"]
            for t in found
        ],
    )  # fmt: skip
    if rounds < FEWEST:
        click.echo(
            f"{rounds} rounds: a quick look that decides nothing; leave --rounds and --items as they are", err=True
        )
    result = {"subject": kind, "rounds": rounds, "items": items, "timings": [t.as_json() for t in found]}
    if folder is not None:
        whole = time_table(folder, found)
        _show(folder, whole)
        result["run"] = whole.as_json()
    write_result(json_path, result)


def _floor(part: Part) -> str:
    if part.floor_seconds is not None:
        return f"{part.floor_seconds:.1f}"
    return "as it is" if part.stages else "none: overhead"


def _show(folder: str, whole: TimeTable) -> None:
    from llm_persona.interfaces.cli.terminal import table
    from llm_persona.studies.timing import AT_MOST

    def bounds(low_high: tuple[float, float] | None, digits: int) -> str:
        return "" if low_high is None else f"{low_high[0]:.{digits}f} to {low_high[1]:.{digits}f}"

    table(
        f"{folder}: {whole.seconds:.0f} s",
        ["work", "stages", "seconds", "share", "at its floor, s", "range"],
        [
            [p.kind, str(p.stages), f"{p.seconds:.1f}", f"{p.share:.0%}",
             _floor(p), bounds(p.floor_range, 1)]
            for p in whole.parts
        ],
    )  # fmt: skip
    if whole.ratio is None:
        click.echo("The run was made in several goes, so what it took as a whole is unknown.")
    else:
        verdict = "holds" if whole.holds else "does not hold"
        click.echo(
            f"The whole is {whole.ratio:.2f} ({bounds(whole.ratio_range, 2)}) times the sum of its parts' floors; "
            f"asked: at most {AT_MOST:g}, {verdict}."
        )

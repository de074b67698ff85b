"""`llm-persona bench`."""

from __future__ import annotations

import click

from llm_persona.interfaces.cli.options import json_option, load_model, output_checked, subject_options, write_result


@click.command(epilog="Example: llm-persona bench --rounds 5 --json bench.json")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="Interleaved rounds that count.")
@click.option("--items", type=click.IntRange(2, 60), default=8, show_default=True, help="Items a round.")
@subject_options
@json_option
def bench(rounds: int, items: int, model: str, dtype: str, device: str, json_path: str | None) -> None:
    """Time what studies are made of on this model and machine, each against a plain way of the same job.

    Only ratios within one run say something: machines drift. Each comparison first shows that both ways give the same
    numbers; each round has its own items.
    """
    from llm_persona.interfaces.cli.terminal import table
    from llm_persona.studies.bench import bench as timings

    found = []
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
    write_result(
        json_path, {"subject": kind, "rounds": rounds, "items": items, "timings": [t.as_json() for t in found]}
    )

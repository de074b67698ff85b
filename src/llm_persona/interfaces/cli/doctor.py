"""`llm-persona doctor`."""

from __future__ import annotations

import click

from llm_persona.interfaces.cli.result_file import json_option, write_result


@click.command(epilog="Example: llm-persona doctor runs/quick")
@click.argument("run", required=False, type=click.Path())
@json_option
def doctor(run: str | None, json_path: str | None) -> None:
    """Say what this machine has, what is missing, and the remedy; with RUN, whether that run folder is whole.

    RUN is the folder of a study, an audit or a prevention. Every file is held against its digest; nothing is changed.
    """
    from llm_persona.domain.errors import UserError
    from llm_persona.interfaces.cli.terminal import table

    if run is None:
        from llm_persona.studies.health import examine

        title, said, found, done = "This machine", "missing", examine(), "ready: llm-persona run"
    else:
        from llm_persona.studies.wholeness import examine_folder

        title, said, found, done = run, f"{run}: not whole", examine_folder(run), f"{run}: whole"
    table(title, ["what", "found", "state"], [[c.name, c.found, c.state] for c in found])
    for check in found:
        if check.remedy:
            click.echo(f"- {check.name}: {check.remedy}")
    write_result(json_path, [c.__dict__ for c in found])
    faults = [c.name for c in found if c.state == "missing"]
    if faults:
        raise UserError(f"{said}: {', '.join(faults)}; the remedies stand above")
    click.echo(done)

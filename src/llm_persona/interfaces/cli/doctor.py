"""`llm-persona doctor`."""

from __future__ import annotations

import click

from llm_persona.interfaces.cli.options import json_option, write_result


@click.command(epilog="Example: llm-persona doctor")
@json_option
def doctor(json_path: str | None) -> None:
    """Say what this machine has, what is missing, and the remedy."""
    from llm_persona.interfaces.cli.terminal import table
    from llm_persona.studies.health import examine

    found = examine()
    table("This machine", ["what", "found", "state"], [[c.name, c.found, c.state] for c in found])
    for check in found:
        if check.remedy:
            click.echo(f"- {check.name}: {check.remedy}")
    write_result(json_path, [c.__dict__ for c in found])
    missing = [c.name for c in found if c.state == "missing"]
    if missing:
        from llm_persona.domain.errors import UserError

        raise UserError(f"missing: {', '.join(missing)}; the remedies stand above")
    click.echo("ready: llm-persona run")

"""`llm-persona traits`."""

from __future__ import annotations

from pathlib import Path

import click

from llm_persona.interfaces.cli.options import json_option, write_result


@click.group(epilog="Example: llm-persona traits check openness")
def traits() -> None:
    """List, show, check and start traits."""


@traits.command("list", epilog="Example: llm-persona traits list")
@json_option
def list_(json_path: str | None) -> None:
    """Every trait there is."""
    from llm_persona.domain.traits import list_traits, load_trait
    from llm_persona.interfaces.cli.terminal import table

    found = [load_trait(name) for name in list_traits()]
    rows = [[t.name, t.family, str(len(t.bank)), str(len(t.questions)), str(len(t.instruction_pairs))] for t in found]
    table("Traits", ["trait", "family", "items", "questions", "instruction pairs"], rows)
    write_result(
        json_path, [{"name": t.name, "title": t.title, "family": t.family, "items": len(t.bank)} for t in found]
    )


@traits.command(epilog="Example: llm-persona traits show machiavellianism")
@click.argument("name")
@json_option
def show(name: str, json_path: str | None) -> None:
    """A trait's definition, facets and instructions."""
    from llm_persona.domain.traits import load_trait
    from llm_persona.interfaces.cli.terminal import plain

    trait = load_trait(name)
    click.echo(f"{trait.title} ({trait.family})\n\n{plain(trait.definition)}\nSource: {plain(trait.source)}\n\nFacets:")
    for facet in trait.facets:
        click.echo(f"- {facet.name} ({facet.source})\n    high: {facet.high}\n    low:  {facet.low}")
    for pole in ("high", "low"):
        click.echo(f"\n--instruct {pole}: {plain(trait.instruction(pole))}")
    write_result(json_path, trait.model_dump())


@traits.command(epilog="Example: llm-persona traits check mytrait.yaml")
@click.argument("name")
@json_option
def check(name: str, json_path: str | None) -> None:
    """Check a trait's format and balances; exit 2 if a fault is found."""
    from llm_persona.analysis.trait_check import check_trait
    from llm_persona.domain.errors import UserError
    from llm_persona.domain.traits import load_trait
    from llm_persona.interfaces.cli.terminal import table

    report = check_trait(load_trait(name))
    table(f"{name}: balances", ["check", "measured", "standard", "ok"],
          [[c.name, c.measured, c.standard, "yes" if c.ok else "NO"] for c in report])  # fmt: skip
    write_result(json_path, [c.__dict__ for c in report])
    faults = [c for c in report if not c.ok]
    if faults:
        named = "; ".join(f"{c.name} ({c.measured})" for c in faults)
        raise UserError(f"{name}: {len(faults)} of {len(report)} checks fail: {named}")
    click.echo(f"{name}: format and all {len(report)} balances are in order")


@traits.command(epilog="Example: llm-persona traits new patience --out patience.yaml")
@click.argument("name")
@click.option("--out", type=click.Path(dir_okay=False), help="File to write (default: NAME.yaml).")
def new(name: str, out: str | None) -> None:
    """Write a commented template for a trait of your own."""
    from importlib import resources

    from llm_persona.domain.errors import UserError
    from llm_persona.domain.store import write_text

    if not name.replace("_", "").replace("-", "").isalnum() or not name[0].isalpha() or name != name.lower():
        raise UserError(f"trait name {name!r}: use lower-case letters, digits, '-' and '_', beginning with a letter")
    path = Path(out or f"{name}.yaml")
    if path.exists():
        raise UserError(f"{path}: exists; choose another --out")
    source = resources.files("llm_persona.domain") / "data" / "trait_template.yaml"
    write_text(path, source.read_text(encoding="utf-8").replace("TRAITNAME", name))
    click.echo(f"wrote {path}; fill it in, then: llm-persona traits check {path}")

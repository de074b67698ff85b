"""`llm-persona traits`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from llm_persona.interfaces.cli.api_arguments import ApiArguments, api_from, api_options
from llm_persona.interfaces.cli.result_file import json_option, output_checked, write_result


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
    status = f"Status: {plain(trait.status)}\n" if trait.status else ""
    click.echo(f"{trait.title} ({trait.family})\n{status}\n{plain(trait.definition)}\nSource: {plain(trait.source)}")
    click.echo("\nFacets:")
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

    trait = load_trait(name)
    report = check_trait(trait)
    table(f"{name}: balances", ["check", "measured", "standard", "ok"],
          [[c.name, c.measured, c.standard, "yes" if c.ok else "NO"] for c in report])  # fmt: skip
    write_result(json_path, [c.__dict__ for c in report])
    faults = [c for c in report if not c.ok]
    if faults:
        named = "; ".join(f"{c.name} ({c.measured})" for c in faults)
        raise UserError(f"{name}: {len(faults)} of {len(report)} checks fail: {named}")
    click.echo(f"{name}: format and all {len(report)} balances are in order{_status(trait)}")


@traits.command(epilog="Example: llm-persona traits new patience --with openai:NAME --out patience.yaml")
@click.argument("name")
@click.option("--out", type=click.Path(dir_okay=False), help="File to write (default: NAME.yaml).")
@click.option("--with", "spec", help="Have a capable model draft the whole trait: openai:NAME, anthropic:NAME, local, "
              "local:MODEL or scripted:FILE. Default: an empty template.")  # fmt: skip
@click.option("--description", help="--with: what the trait is, in your words.")
@click.option("--items", type=click.IntRange(min=32), help="--with: number of items. Default: 80, the standard.")
@click.option("--rounds", type=click.IntRange(min=0, max=10), help="--with: rounds of repair a step. Default: 2.")
@click.option("--seed", type=click.IntRange(min=0), help="--with: another seed is another draft. Default: 0.")
@api_options
def new(
    name: str, out: str | None, spec: str | None, description: str | None, items: int | None, rounds: int | None,
    seed: int | None, **rest: Any,
) -> None:  # fmt: skip
    """Write a commented template for a trait of your own, or have a model draft one.

    A draft is checked part by part against the format and the standard of `traits check`, repaired or rejected, and
    marked as drafted, unreviewed: read it before you rest anything on it.
    """
    from importlib import resources

    from llm_persona.domain.errors import UserError
    from llm_persona.domain.store import write_text

    if not name.replace("_", "").replace("-", "").isalnum() or not name[0].isalpha() or name != name.lower():
        raise UserError(f"trait name {name!r}: use lower-case letters, digits, '-' and '_', beginning with a letter")
    path = Path(out or f"{name}.yaml")
    if path.exists():
        raise UserError(f"{path}: exists; choose another --out")
    api = api_from(rest)
    if spec is not None:
        _draft(name, path, spec, api, {"description": description, "items": items, "rounds": rounds}, seed or 0)
        return
    given = [n for n, v in (("description", description), ("items", items), ("rounds", rounds), ("seed", seed),
                            ("base-url", api.base_url), ("max-calls", api.max_calls)) if v is not None]  # fmt: skip
    if given:
        raise UserError(f"--{given[0]}: belongs to a draft; add --with openai:NAME or another model")
    source = resources.files("llm_persona.domain") / "data" / "trait_template.yaml"
    write_text(path, source.read_text(encoding="utf-8").replace("TRAITNAME", name))
    click.echo(f"wrote {path}; fill it in, then: llm-persona traits check {path}")


def _draft(name: str, path: Path, spec: str, api: ApiArguments, settings: dict[str, Any], seed: int) -> None:
    from llm_persona.instruments.judging.writing import SECONDS, estimate_writing, open_writer
    from llm_persona.interfaces.cli.terminal import plain, table
    from llm_persona.studies.drafting import DraftPlan, draft_trait
    from llm_persona.subject.remote.caller import Limits

    plan = DraftPlan(name, **{key: value for key, value in settings.items() if value is not None})
    limits = Limits(api.concurrency, seconds=SECONDS, max_calls=api.max_calls)
    with output_checked(str(path)):
        writer = open_writer(spec, api.base_url, limits, seed)
        estimate = estimate_writing(writer, plan.sizes(), api.rates)
        if estimate is not None:
            more = plan.most_calls - estimate.calls
            click.echo(f"estimate: {estimate.sentence()}; repairs at most {more} calls more", err=True)
        trait, checks = draft_trait(writer, plan, path, lambda line: click.echo(plain(line), err=True))
    table(f"{name}: balances", ["check", "measured", "standard", "ok"],
          [[c.name, c.measured, c.standard, "yes" if c.ok else "fewer by choice"] for c in checks])  # fmt: skip
    click.echo(f"wrote {path}: {plain(trait.title)}, {len(trait.bank)} items{_status(trait)}")


def _status(trait: Any) -> str:
    """What is to be known of a trait that nobody has read."""
    return f"; status: {trait.status}" if trait.status else ""

"""`llm-persona evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from llm_persona.interfaces.cli.api_arguments import ApiArguments, api_from, api_options
from llm_persona.interfaces.cli.chosen_items import read_item_set
from llm_persona.interfaces.cli.condition_arguments import (
    ConditionArguments,
    conditions_from,
    conditions_options,
    refuse_overlap,
)
from llm_persona.interfaces.cli.executor import executor_from, executor_options
from llm_persona.interfaces.cli.model_options import engine_option, subjects_options
from llm_persona.interfaces.cli.options import seed_option
from llm_persona.interfaces.cli.result_file import json_option, output_checked, write_result


@click.command(epilog="Example: llm-persona evaluate --trait all --instruct none --instruct high --figure profile.png")
@click.option("--trait", "traits", multiple=True, help="Trait (repeatable), or all. Default: those of the items, or "
              "openness.")  # fmt: skip
@click.option("--items", default="bank", show_default=True,
              help="bank, second (another author's), a file or folder in TRAIT layout, hub:OWNER/NAME.")  # fmt: skip
@click.option("--split", default="default", type=click.Choice(["default", "fit", "select", "test", "all"]),
              help="default: test of the bank, all of a file.")  # fmt: skip
@click.option("--mode", default="likelihood", show_default=True,
              type=click.Choice(["likelihood", "choice", "upstream", "generate"]))  # fmt: skip
@click.option("--template", default="1", show_default=True, help="1, 2, 3 or a text file with named fields.")
@click.option("--form", default="mean", show_default=True, type=click.Choice(["mean", "sum", "unconditional"]),
              help="How likelihood mode makes one number of a response's token log-probabilities.")  # fmt: skip
@click.option("--paraphrase", is_flag=True, help="Ask with the items' paraphrased situation and query.")
@click.option("--reliability", is_flag=True, help="Also how many answers change with template, order and wording.")
@click.option("--rescore", type=click.Path(), help="Score recorded option likelihoods of this file; no model is run.")
@click.option("--api-records", is_flag=True, help="--rescore: the records are of a model behind an API.")
@click.option("--limit", type=click.IntRange(min=1), help="At most N items per trait.")
@click.option("--allow-overlap", is_flag=True, help="Evaluate an artefact on the items it was made from.")
@click.option("--figure", type=click.Path(dir_okay=False), help="Save the profile as a picture (PNG and SVG).")
@seed_option
@conditions_options
@subjects_options
@engine_option
@api_options
@executor_options
@json_option
def evaluate(
    traits: tuple[str, ...], items: str, split: str, mode: Any, template: str, form: str, paraphrase: bool,
    reliability: bool, rescore: str | None, api_records: bool, limit: int | None, allow_overlap: bool,
    figure: str | None, seed: int, models: tuple[str, ...], dtype: str, device: str, engine: str,
    json_path: str | None, **rest: Any,
) -> None:  # fmt: skip
    """Measure traits with TRAIT items: the share of items whose preferred option is a high one.

    Several --model, --instruct or --adapter are measured one after the other and compared.
    """
    from llm_persona.domain.errors import UserError
    from llm_persona.domain.templates import load_template
    from llm_persona.domain.traits import load_trait
    from llm_persona.instruments.trait_benchmark import TraitBenchmark
    from llm_persona.interfaces.cli.terminal import counting
    from llm_persona.studies.evaluation import EvaluationPlan, evaluate_sets, evaluate_sets_by

    api, cluster = api_from(rest), executor_from(rest)
    arguments = conditions_from(rest)
    if rescore is not None:
        if mode != "upstream":
            raise UserError("--rescore recomputes upstream scores; add --mode upstream")
        with output_checked(json_path, figure):
            _finish([_rescored(rescore, limit, api_records)], json_path, figure)
        return
    load_template(template)
    sets = _item_sets(traits, items, split, limit)
    overlaps = [{n: refuse_overlap(one, chosen, allow_overlap) for n, chosen in sets.items()} for one in arguments]
    states = [{n: a.condition(load_trait(n) if a.needs_trait else None) for n in sets} for a in arguments]
    plan = EvaluationPlan(TraitBenchmark((), mode, template, form, paraphrase), reliability)
    total = plan.count(sets)
    runs = []
    with output_checked(json_path, figure), cluster as executor:
        if executor is not None:
            _refuse_for_workers(models, dtype, device, engine, api)
        for model in dict.fromkeys(models):
            subject: Any = api.load(model, dtype, device, engine) if executor is None else None
            _announce(subject, sets, plan, api, arguments)
            for state, shared in zip(states, overlaps, strict=True):
                name = next(iter(state.values())).name
                with counting(f"{model}, {name}: {total} items, {mode}", total) as step:
                    if executor is not None:
                        runs.append(
                            evaluate_sets_by(executor, model, sets, state, plan, dtype, device, step, step.keep)
                        )
                    else:
                        runs.append(evaluate_sets(subject, sets, state, plan, step, step.keep))
                runs[-1] |= {"allow_overlap": allow_overlap, "overlap": {n: by for n, by in shared.items() if by}}
            if hasattr(subject, "caller"):
                runs[-1]["calls"] = subject.caller.record.as_json()
            del subject  # before the next model is loaded
        _finish(runs, json_path, figure)


def _refuse_for_workers(models: tuple[str, ...], dtype: str, device: str, engine: str, api: ApiArguments) -> None:
    """Refuse, before the first model is measured, what workers could not do with any of them.

    Raises:
        UserError: a model behind an API, another engine, or a model that is not there.
    """
    from llm_persona.domain.errors import UserError
    from llm_persona.subject.locate import identify

    for model in models:
        if api.remote(model):
            raise UserError(f"--executor ray: {model} is behind an API, which no worker loads; leave --executor out")
        if engine != "transformers":
            raise UserError(f"--engine {engine}: workers of --executor ray run transformers; leave one of them out")
        identify(model, dtype, device)


def _item_sets(traits: tuple[str, ...], items: str, split: str, limit: int | None) -> dict[str, Any]:
    """Trait to its items; a user's own trait file is used under the trait's name."""
    from llm_persona.domain.item_sources import load_items
    from llm_persona.domain.traits import list_traits, load_trait

    bundled = items in ("bank", "second")
    names = list_traits() if bundled and "all" in traits else [t for t in traits if t != "all"]
    if not names:
        found = [] if bundled else load_items(path=items)
        names = ["openness"] if bundled else sorted({i.trait.lower() or "items" for i in found})
    sets = {}
    for name in names:
        own = name.endswith((".yaml", ".yml"))
        known = load_trait(name).name if bundled or own else name
        wanted = name if bundled else None if known == "items" else known
        sets[known] = read_item_set(wanted, items, split, limit)
    return sets


def _rescored(path: str, limit: int | None, api_records: bool) -> dict[str, Any]:
    from llm_persona.analysis.trait_scoring import rescore
    from llm_persona.domain.errors import UserError
    from llm_persona.domain.item_sources import load_items

    found = load_items(path=path)[:limit]
    names = sorted({i.trait.lower() or "items" for i in found})
    try:
        scored = {n: rescore([i for i in found if (i.trait.lower() or "items") == n], api_records) for n in names}
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    traits = {name: {**one.summary, "rows": one.rows} for name, one in scored.items()}
    return {"model": "recorded", "mode": "upstream", "condition": {"name": "recorded"}, "traits": traits}


def _announce(
    subject: Any, sets: dict[str, Any], plan: Any, api: ApiArguments, arguments: list[ConditionArguments]
) -> None:
    """What asking a model behind an API will cost, before it is asked."""
    if not hasattr(subject, "caller"):
        return
    from llm_persona.instruments.trait_benchmark import ANSWER_TOKENS

    prompts = [p for items in sets.values() for asked in plan.askings(items).values() for p in asked.prompts()]
    new = ANSWER_TOKENS if plan.benchmark.mode == "generate" else 1
    estimate = subject.estimate(prompts * len(arguments), new, api.rates)
    click.echo(f"{subject.name}: {estimate.sentence()}", err=True)


def _finish(runs: list[dict[str, Any]], json_path: str | None, figure: str | None) -> None:
    """Print, draw and write: one result as the contract has it, several with their comparison."""
    from llm_persona.studies.compare import compare, label_of

    for run in runs:
        _print(run)
    comparison = compare([{"label": label_of(r), **r} for r in runs]) if len(runs) > 1 else None
    if comparison is not None:
        from llm_persona.interfaces.cli.report import print_differences

        print_differences(comparison)
    write_result(json_path, runs[0] if comparison is None else {"runs": runs, "comparison": comparison})
    if figure is not None:
        from llm_persona.studies.profile_figure import save_profile

        drawn = comparison or {"runs": [{"label": label_of(runs[0]), **runs[0]}]}
        click.echo(f"wrote {' and '.join(str(p) for p in save_profile(drawn, Path(figure)))}")


def _print(run: dict[str, Any]) -> None:
    from llm_persona.interfaces.cli.terminal import cell, plain, span, table

    rows = []
    for name, s in run["traits"].items():
        flag = "" if s["headroom"] is not False else " (no headroom)"
        rows.append(
            [name, str(s["n"]), str(s["n_unscored"]), cell(s["score"], 1) + flag, span(s["score_ci"], 1),
             cell(s["preference"], 3), span(s["preference_ci"], 3), cell(s["option_mass"], 3),
             cell(s["order_consistency"])]
        )  # fmt: skip
    table(f"{run['model']}, {run['condition']['name']}, mode {run['mode']}: percent of items with a high answer",
          ["trait", "n", "unscored", "score", "95% interval", "preference", "95% interval", "mass", "consistency"],
          rows)  # fmt: skip
    for name, s in run["traits"].items():
        for reason, count in s["unscored"].items():
            click.echo(f"- {name}: {count} unscored: {reason}")
        if s["order_consistency"] is not None and s["order_consistency"] < 0.5:
            click.echo(
                f"- {name}: swapping the options changes most classes: these letters say nothing about the trait"
            )
    for name, artefacts in run.get("overlap", {}).items():
        for artefact, count in artefacts.items():
            click.echo(plain(f"- {name}: in-sample: {artefact} was made from {count} of the items"))
    changes = [
        [name, asking, cell(c["changed"], 0), span(c["changed_ci"], 0), str(c["n"]), str(c["n_left_out"])]
        for name, s in run["traits"].items()
        for asking, c in (s.get("reliability") or {}).items()
    ]
    if changes:
        table("Reliability: percent of items whose class changes with the asking",
              ["trait", "between", "changed", "95% interval", "n", "left out"], changes)  # fmt: skip

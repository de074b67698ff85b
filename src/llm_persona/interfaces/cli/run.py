"""`llm-persona run`."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from llm_persona.interfaces.cli.executor import executor_from, executor_options, say
from llm_persona.interfaces.cli.judging import optional_judge_options
from llm_persona.interfaces.cli.result_file import json_option, output_checked, write_result


@click.command(
    epilog="Example: llm-persona run --preset quick --trait openness --out runs/first",
    context_settings={"auto_envvar_prefix": None},
)
@click.argument("study", required=False, type=click.Path())
@click.option("--trait", "traits", multiple=True, help="A trait's name or .yaml file (repeatable).")
@click.option("--model", "models", multiple=True, help="Subject model; several give a run folder each.")
@click.option("--preset", type=click.Choice(["smoke", "quick", "full"]), help="How much to do (default: quick).")
@click.option("--out", type=click.Path(), help="Run folder (default: runs/PRESET).")
@click.option("--dtype", type=click.Choice(["auto", "float32", "bfloat16", "float16"]), help="Number format.")
@click.option("--device", help="auto, cpu, cuda, ...")
@click.option("--engine", type=click.Choice(["transformers", "vllm"]), help="What runs the model (vllm: the extra).")
@click.option("--seed", "seeds", multiple=True, type=click.IntRange(0, (1 << 32) - 1), help="Several (repeatable) give "
              "a run folder each.")  # fmt: skip
@click.option("--limit", type=click.IntRange(min=2), help="At most N test items per trait.")
@executor_options
@optional_judge_options
@json_option
def run(
    study: str | None, models: tuple[str, ...], seeds: tuple[int, ...], out: str | None, limit: int | None,
    base_url: str | None, judge_text: bool, concurrency: int, max_calls: int | None, json_path: str | None,
    **given: Any,
) -> None:  # fmt: skip
    """Run a study, or continue one that was interrupted, and write its report.

    STUDY is a YAML file of settings; options override it. Without anything: the quick preset on the
    default model, with traits openness and machiavellianism.
    """
    from llm_persona.domain.config import make_config, read_config
    from llm_persona.interfaces.cli.terminal import StudyProgress
    from llm_persona.studies.many import run_models
    from llm_persona.studies.study import expected_gradings, expected_stages, run_study
    from llm_persona.subject.remote.caller import Limits

    cluster = executor_from(given)
    chosen: dict[str, Any] = {k: v for k, v in given.items() if v is not None and k != "traits"}
    if given["traits"]:
        chosen["traits"] = list(given["traits"])
    if limit is not None:
        chosen["test_items"] = limit
    if base_url is not None:
        chosen["judge_base_url"] = base_url
    if judge_text:
        chosen["judge_text"] = True
    limits = Limits(concurrency, max_calls=max_calls)
    named: list[dict[str, Any]] = [{"model": model} for model in dict.fromkeys(models)] or [{}]
    grown: list[dict[str, Any]] = [{"seed": seed} for seed in dict.fromkeys(seeds)] or [{}]
    configs = []
    for settings in ({**chosen, **model, **seed} for model in named for seed in grown):
        configs.append(read_config(Path(study), **settings) if study else make_config("run", **settings))
    folder = Path(out or f"runs/{Path(study).stem if study else configs[0].preset}")
    gradings = sum(map(expected_gradings, configs))
    if gradings:
        click.echo(f"{configs[0].judge} will be asked for at most {gradings} gradings of open answers", err=True)
    with output_checked(json_path), ExitStack() as stack:
        executor = stack.enter_context(cluster)
        progress = stack.enter_context(StudyProgress(sum(map(expected_stages, configs))))
        if len(configs) == 1:
            results = run_study(configs[0], folder, progress, limits, executor, say)
        else:
            results = run_models(configs, folder, progress, limits, executor, say)
    if len(configs) == 1:
        _summary(results)
        write_result(json_path, results)
        click.echo(f"report: {(folder / 'report.html').absolute()}")
        return
    from llm_persona.interfaces.cli.report import print_differences

    for one in results["studies"].values():
        _summary(one)
    print_differences(results["comparison"])
    write_result(json_path, results)
    for name in results["studies"]:
        click.echo(f"report: {(folder / name / 'report.html').absolute()}")
    click.echo(f"comparison: {(folder / 'comparison.html').absolute()}; comparison.json and comparison.png beside it")


def _summary(results: dict[str, Any]) -> None:
    from llm_persona.interfaces.cli.agreement import print_agreement
    from llm_persona.interfaces.cli.quiet import is_quiet
    from llm_persona.interfaces.cli.terminal import cell, plain, span, table

    if is_quiet():
        return
    rows = []
    for name, trait in results["traits"].items():
        recommended = results["recommendations"][name]
        layer = trait["vector"]["layers"][recommended["balanced"]]
        tuned = [cell(trait["tuned"][p]["score"], 0) if trait["tuned"] else "-" for p in ("high", "low")]
        usable = recommended["usable_range"]
        rows.append(
            [name, f"{cell(trait['baseline']['score'], 0)} ({span(trait['baseline']['score_ci'], 0)})",
             str(recommended["balanced"]), f"{cell(layer['auc'])} ({span(layer['auc_ci'])})",
             f"{usable[0]:+g} to {usable[1]:+g}", *tuned]
        )  # fmt: skip
    table(
        "Scores: percent of held-out items with a high answer (95% intervals)",
        ["trait", "base", "layer", "AUC", "usable doses", "tuned high", "tuned low"],
        rows,
    )
    if results["judge"] is not None:
        print_agreement(results["agreement"])
        for name, graded in results["judge"]["graded"].items():
            for reason, count in graded["unscored"].items():
                click.echo(f"- {name}: {count} of {graded['n']} judged answers unscored: {reason}")
            click.echo(f"{name}: {results['judge']['gates'][name]['state']}")
    for name, trait in results["traits"].items():
        for sentence in trait["beyond_context"]["sentences"]:
            click.echo(plain(f"- {name}: {sentence}"))
    for finding in results["findings"]:
        click.echo(f"- {finding['trait']}: {finding['text']} [evidence: {finding['evidence']}]")

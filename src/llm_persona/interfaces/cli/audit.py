"""`llm-persona audit`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llm_persona.interfaces.cli.executor import executor_from, executor_options, say
from llm_persona.interfaces.cli.model_options import subject_options
from llm_persona.interfaces.cli.options import seed_option
from llm_persona.interfaces.cli.result_file import json_option, output_checked, write_result

if TYPE_CHECKING:
    from llm_persona.studies.audit import TunedModel


@click.command(
    epilog="Example: llm-persona audit --adapter tuned/a --adapter tuned/b --control tuned/benign --out audits/ab"
)
@click.option("--adapter", "adapters", multiple=True, help="A tuned model's PEFT folder, or NAME=FOLDER "
              "(repeatable); a folder of seed-K folders stands for all its seeds.")  # fmt: skip
@click.option(
    "--tuned", "models", multiple=True, help="A tuned model whole: folder or Hub id, or NAME=MODEL (repeatable)."
)
@click.option("--control", "controls", multiple=True, help="A benign fine-tuning's PEFT folder, like --adapter.")
@click.option("--vectors", type=click.Path(), help="Folder of vectors TRAIT.safetensors (default: fitted on the bank).")
@click.option("--trait", "traits", multiple=True, help="Trait to measure (repeatable; default: all).")
@click.option("--limit", type=click.IntRange(min=2), help="At most N items per split.")
@click.option("--questions", default=12, show_default=True, type=click.IntRange(min=2), help="Open questions a trait.")
@click.option("--max-new-tokens", default=48, show_default=True, type=click.IntRange(min=1))
@click.option(
    "--reextract/--no-reextract", default=True, show_default=True, help="Extract the vectors again after tuning."
)
@click.option("--out", required=True, type=click.Path(file_okay=False), help="Folder for audit.json and audit.html.")
@seed_option
@subject_options
@executor_options
@json_option
def audit(
    adapters: tuple[str, ...], models: tuple[str, ...], controls: tuple[str, ...], vectors: str | None,
    traits: tuple[str, ...], limit: int | None, questions: int, max_new_tokens: int, reextract: bool, out: str,
    seed: int, model: str, dtype: str, device: str, json_path: str | None, **cluster: Any,
) -> None:  # fmt: skip
    """Show what fine-tuning did to every trait: behaviour, activations, vectors, and a verdict by a printed rule."""
    from llm_persona.domain.traits import list_traits
    from llm_persona.interfaces.cli.terminal import StudyProgress
    from llm_persona.studies.audit import AuditPlan, TunedModel, expected_stages
    from llm_persona.studies.audit import audit as run_audit
    from llm_persona.studies.audit_page import write_audit_page

    tuned = [m for text in adapters for m in _seeds(text, control=False)]
    tuned += [TunedModel(name, name, model=path) for name, path in map(_named, models)]
    tuned += [m for text in controls for m in _seeds(text, control=True)]
    chosen = tuple(t for t in traits if t != "all") or tuple(list_traits())
    plan = AuditPlan(chosen, vectors, limit, limit, questions, max_new_tokens, reextract, seed)
    with (
        output_checked(json_path, str(Path(out) / "audit.json")),
        executor_from(cluster) as executor,
        StudyProgress(expected_stages(plan, tuned)) as shown,
    ):
        result = run_audit(model, tuned, plan, out, dtype, device, shown, executor, say)
    page = write_audit_page(out)
    _print(result)
    write_result(json_path, result)
    click.echo(f"page: {page}")


def _named(text: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    return (name, path) if equals and "/" not in name else (Path(text).name or text, text)


def _seeds(text: str, control: bool) -> list[TunedModel]:
    """The adapter of a folder, or those of its seed-K folders."""
    from llm_persona.studies.audit import TunedModel

    name, path = _named(text)
    seeds = sorted(p for p in Path(path).glob("seed-*") if (p / "adapter_config.json").is_file())
    if not seeds or (Path(path) / "adapter_config.json").is_file():
        return [TunedModel(name, name, adapter=path, control=control)]
    return [TunedModel(f"{name}/{p.name}", name, adapter=str(p), control=control) for p in seeds]


def _print(result: dict[str, Any]) -> None:
    from llm_persona.interfaces.cli.terminal import cell, plain, span, table, with_span

    rows = []
    for name, trait in result["traits"].items():
        for model, x in trait["tuned"].items():
            p, gap = x["projection"], trait["pole_gap"]
            shift = x["preference_shift"]
            rows.append([
                name, model, with_span(x["score_shift"], x["score_shift_ci"], 0), cell(x["score_p_holm"], 3),
                with_span(shift, x["preference_shift_ci"], 1, 100), cell(x["p_holm"], 3),
                with_span(p["both"], p["both_ci"], 2, 1 / gap), cell(p["both_p_holm"], 3),
                *(with_span(p[k], p[f"{k}_ci"], 2, 1 / gap) for k in ("author", "reader")),
                with_span(x["vector_cosine"], x["vector_cosine_ci"], 2), x["verdict"],
            ])  # fmt: skip
    table(
        "shift against the base (95% intervals; p after Holm, each quantity by itself; projections in pole gaps)",
        ["trait", "tuned", "score", "p", "preference", "p", "both", "p", "author", "reader", "cosine", "verdict"],
        rows,
    )
    click.echo(f"rule: {result['rule']} {result['multiplicity']}")
    for sentence in result["sentences"]:
        click.echo(sentence)
    for name, trait in result["traits"].items():
        for sentence in trait["beyond_context"]["sentences"]:
            click.echo(plain(f"- {name}: {sentence}"))
    both = result["agreement"]["both"]
    if both["spearman"] is not None:
        click.echo(
            f"activation shift against behavioural shift, {both['n']} cells: rank correlation "
            f"{cell(both['spearman'])} ({span(both['spearman_ci'])})"
        )

"""`llm-persona vectors`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import click

from llm_persona.interfaces.cli.executor import executor_options
from llm_persona.interfaces.cli.extraction_grid import over_models_traits_sources
from llm_persona.interfaces.cli.judging import optional_judge_options
from llm_persona.interfaces.cli.model_options import engine_option, load_model, subject_options, subjects_options
from llm_persona.interfaces.cli.options import seed_option
from llm_persona.interfaces.cli.result_file import json_option, output_checked, write_result

FORMS = ["gguf", "persona-vectors", "steering-vectors", "vllm-lens", "checkpoint"]


@click.group(epilog="Example: llm-persona vectors extract --trait openness --out openness.safetensors")
def vectors() -> None:
    """Extract and show persona vectors."""


@vectors.command(
    epilog="Example: llm-persona vectors extract --trait openness --out openness.safetensors --json q.json"
)
@click.option("--trait", "traits", multiple=True, required=True, help="A trait's name or .yaml file (repeatable).")
@click.option("--items", default="bank", show_default=True, help="bank, a file or folder in TRAIT layout, hub:ID.")
@click.option("--source", "sources", type=click.Choice(["labelled", "prompted", "tuned"]), multiple=True,
              default=("labelled",), show_default=True, help="Where the contrast is from (repeatable).")  # fmt: skip
@click.option("--position", type=click.Choice(["response_mean", "prompt_last", "prompt_mean"]),
              default="response_mean", show_default=True)  # fmt: skip
@click.option("--over", type=click.Choice(["questions", "situations"]), default="questions", show_default=True,
              help="prompted, tuned: what the subject answers.")  # fmt: skip
@click.option("--contrast", type=click.Choice(["high-low", "high-neutral", "neutral-low"]), default="high-low",
              show_default=True, help="prompted: which instructions are set against one another.")  # fmt: skip
@click.option("--samples", default=1, show_default=True, type=click.IntRange(min=1),
              help="prompted, tuned: answers a prompt.")  # fmt: skip
@click.option("--temperature", type=click.FloatRange(min=0), help="Default: 0, or 1 with several samples.")
@click.option("--max-new-tokens", default=64, show_default=True, type=click.IntRange(min=1))
@click.option("--filter", "keep", type=click.Choice(["none", "projection"]), default="none", show_default=True,
              help="prompted, tuned: keep answers that express their pole, read by the labelled vector.")  # fmt: skip
@click.option("--judge-trait", default=50.0, show_default=True, type=click.FloatRange(0, 100),
              help="--judge: keep a high answer from this trait score on, a low one below it.")  # fmt: skip
@click.option("--judge-coherence", default=50.0, show_default=True, type=click.FloatRange(0, 100),
              help="--judge: keep answers from this coherence on.")  # fmt: skip
@click.option("--high-adapter", help="tuned: the adapter tuned to the high pole.")
@click.option("--low-adapter", help="tuned: the adapter tuned to the low pole.")
@click.option("--against", multiple=True, type=click.Path(), help="Other traits' vectors as controls (repeatable).")
@click.option("--sweep-layers", default=5, show_default=True, type=click.IntRange(1, 7))
@click.option("--limit", type=click.IntRange(min=2), help="At most N items or questions per split.")
@click.option("--out", required=True, type=click.Path(), help="Vector file to write (.safetensors); with several "
              "traits, sources or models, or on a cluster: a folder.")  # fmt: skip
@optional_judge_options
@seed_option
@subjects_options
@engine_option
@executor_options
@json_option
@over_models_traits_sources
def extract(
    judge: str | None, judge_trait: float, judge_coherence: float, judge_text: bool, base_url: str | None,
    concurrency: int, max_calls: int | None, sweep_layers: int, out: str, seed: int, model: str, dtype: str,
    device: str, engine: str, json_path: str | None, **contrast: Any,
) -> None:  # fmt: skip
    """Fit a vector on the fit split, choose its layer on select, judge it on test."""
    from llm_persona.instruments.judging.opening import open_judge
    from llm_persona.interfaces.cli.extraction_arguments import settled
    from llm_persona.interfaces.cli.extraction_text import print_extraction
    from llm_persona.interfaces.cli.terminal import StudyProgress, plain, status
    from llm_persona.studies.extraction import extract as run_extraction
    from llm_persona.studies.judge_filter import JudgeFilter
    from llm_persona.studies.recommend import most_layers
    from llm_persona.studies.shortfall import shortfall
    from llm_persona.studies.sources import source_rows
    from llm_persona.studies.stages import Stages
    from llm_persona.subject.remote.caller import Limits

    asked = settled(judge=judge, judge_text=judge_text, base_url=base_url, seed=seed, **contrast)
    plan, others = asked.plan, asked.others
    if judge is not None:
        grader = open_judge(judge, base_url, Limits(concurrency, max_calls=max_calls), judge_text)
        plan = replace(plan, judged=JudgeFilter(grader, judge_trait, judge_coherence))
    with output_checked(out, json_path):
        subject = load_model(model, dtype, device, engine)
    for other in others.values():
        other.check(subject.n_layers, subject.hidden_size, subject.name)
    with status("making the contrast"):
        rows = source_rows(subject, asked.trait, asked.sets, plan)
    with StudyProgress(3 + bool(rows.transfer) + most_layers(sweep_layers)) as shown:
        stages = Stages(reporter=shown)
        found = run_extraction(lambda: subject, subject.identity, asked.trait.name, rows, asked.sets.choosing,
                               plan.source, plan.position, layers=sweep_layers, stages=stages, seed=seed,
                               others=others)  # fmt: skip
    found.vector.save(out)
    left = {(name, row["group"]) for name, rows in found.left_out.items() for row in rows}
    along = found.projections(range(found.vector.n_layers))
    result = {**found.as_json(), "projections": along, "n_items_too_long": len(left)}
    print_extraction(result)
    for sentence in shortfall({}, found.left_out)["sentences"]:
        click.echo(f"- {plain(sentence)}")
    write_result(json_path, result)
    click.echo(f"wrote {out}; steer with: llm-persona steer --vector {out} --layer auto --dose 0.2 --prompt ...")


@vectors.command(epilog="Example: llm-persona vectors show openness.safetensors --tokens 10")
@click.argument("path", type=click.Path())
@click.option("--tokens", type=click.IntRange(1, 200), help="Also N tokens the direction promotes and demotes.")
@click.option("--layer", "layers", multiple=True, type=click.IntRange(min=0), help="--tokens: at these layers "
              "(repeatable; default: the recommended one).")  # fmt: skip
@subject_options
@json_option
def show(
    path: str, tokens: int | None, layers: tuple[int, ...], model: str, dtype: str, device: str, json_path: str | None
) -> None:
    """What a vector was made from, its norm and dose by layer, and what it says in words."""
    from llm_persona.analysis.vectors import PersonaVector
    from llm_persona.interfaces.cli.extraction_text import recommended_text
    from llm_persona.interfaces.cli.terminal import cell, plain, table

    vector = PersonaVector.load(path)
    meta = {k: v for k, v in vector.meta.items() if k not in ("items", "versions", "recommended", "midpoints")}
    for key, value in meta.items():
        click.echo(plain(f"{key}: {value}"))
    click.echo(f"items: {len(vector.meta.get('items', []))} (fit and select)\n{plain(recommended_text(vector.meta))}")
    rows = [
        [str(k), cell(float(vector.norms[k])), cell(float(vector.reference_norms[k])), cell(vector.dose_per_unit(k), 3)]
        for k in range(vector.n_layers)
    ]
    table(f"{vector.n_layers} layers, width {vector.directions.shape[1]}",
          ["layer", "norm", "reference norm", "dose of c = 1"], rows)  # fmt: skip
    words = _words(vector, tokens, layers, model, dtype, device) if tokens else None
    write_result(
        json_path,
        {
            **vector.meta,
            "norms": vector.norms,
            "reference_norms": vector.reference_norms,
            "digest": vector.digest,
            "words": words,
        },
    )


def _words(vector: Any, tokens: int, layers: tuple[int, ...], model: str, dtype: str, device: str) -> Any:
    from llm_persona.interfaces.cli.terminal import plain
    from llm_persona.subject.export import chosen_layers
    from llm_persona.subject.lens import direction_words

    places = chosen_layers(vector, layers)
    subject = load_model(model, dtype, device)
    found = {}
    for layer in places:
        words = direction_words(subject, vector, layer, tokens)
        found[str(layer)] = {"promoted": words.promoted, "demoted": words.demoted}
        for kind in ("promoted", "demoted"):
            listed = ", ".join(
                f"{text.strip() or repr(text)} ({value:+.2f})" for text, value in found[str(layer)][kind]
            )
            click.echo(plain(f"layer {layer} {kind} (output layer alone): {listed}"))
    return found


@vectors.command(epilog="Example: llm-persona vectors compare a.safetensors b.safetensors")
@click.argument("paths", nargs=-1, required=True, type=click.Path())
@json_option
def compare(paths: tuple[str, ...], json_path: str | None) -> None:
    """Cosine of each vector with the first, by layer: sources, positions, models before and after tuning."""
    from llm_persona.analysis.vectors import PersonaVector, cosines
    from llm_persona.domain.errors import UserError
    from llm_persona.interfaces.cli.terminal import cell, table

    if len(paths) < 2:
        raise UserError("vectors compare needs at least two vector files")
    loaded = [PersonaVector.load(path) for path in paths]
    for vector, path in zip(loaded[1:], paths[1:], strict=True):
        try:
            vector.check(loaded[0].n_layers, loaded[0].directions.shape[1])
        except UserError as error:
            raise UserError(f"{path}: not comparable with {paths[0]}: {error}") from error
    null = 1.96 / loaded[0].directions.shape[1] ** 0.5
    found = {path: cosines(loaded[0], vector).tolist() for path, vector in zip(paths[1:], loaded[1:], strict=True)}
    rows = [[str(k), *(cell(values[k], 3) for values in found.values())] for k in range(loaded[0].n_layers)]
    table(f"cosine with {paths[0]} (two random directions: within {null:.3f} in 95% of cases)",
          ["layer", *found], rows)  # fmt: skip
    write_result(json_path, {"first": paths[0], "null_95": null, "cosines": found})


@vectors.command(epilog="Example: llm-persona vectors export v.safetensors --to gguf --out v.gguf")
@click.argument("path", type=click.Path())
@click.option("--to", "form", required=True, type=click.Choice(FORMS))
@click.option("--layer", "layers", multiple=True, type=click.IntRange(min=0), help="Layers to write (repeatable; "
              "default: the recommended one).")  # fmt: skip
@click.option("--coefficient", type=float, help="Strength that is written (default: the recommended one).")
@click.option("--out", required=True, type=click.Path(), help="File to write, or folder for a checkpoint.")
@subject_options
@json_option
def export(
    path: str, form: str, layers: tuple[int, ...], coefficient: float | None, out: str, model: str, dtype: str,
    device: str, json_path: str | None,
) -> None:  # fmt: skip
    """Write a vector for another tool, or a model folder with the steering folded in."""
    from pathlib import Path

    from llm_persona.analysis.vectors import PersonaVector
    from llm_persona.domain.errors import UserError
    from llm_persona.subject import export as forms

    vector = PersonaVector.load(path)
    chosen = forms.chosen_layers(vector, layers) if form != "persona-vectors" else []
    recommended = (vector.meta.get("recommended") or {}).get("coefficient")
    strength = coefficient if coefficient is not None else recommended
    if strength is None and form in ("gguf", "vllm-lens", "checkpoint"):
        raise UserError(f"--vector {path}: keeps no recommended strength; give --coefficient")
    scale = float(strength or 0.0)
    target = Path(out)
    with output_checked(str(target / "config.json") if form == "checkpoint" else out, json_path):
        if form == "gguf":
            said = forms.to_gguf(vector, target, chosen, scale, str(vector.meta.get("family") or "llama"))
        elif form == "persona-vectors":
            said = forms.to_persona_vectors(vector, target)
        elif form == "steering-vectors":
            said = forms.to_steering_vectors(vector, target, chosen)
        elif form == "vllm-lens":
            said = forms.to_vllm_lens(vector, target, chosen, scale)
        else:
            if len(chosen) != 1:
                raise UserError("--to checkpoint: folds one layer; give one --layer")
            subject = load_model(model, dtype, device)
            said = forms.to_checkpoint(subject, vector, target, chosen[0], scale)
    write_result(json_path, {"to": form, "out": out, "layers": chosen, "coefficient": strength, "note": said})
    click.echo(f"wrote {out}: {said}")

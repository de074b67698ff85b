"""The study: every phase over every trait, in one run folder that can be killed and continued."""

from __future__ import annotations

import json
import shlex
import shutil
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from llm_persona.analysis.geometry import geometry
from llm_persona.domain.condition import Steer
from llm_persona.domain.config import StudyConfig
from llm_persona.domain.errors import Replaced, UserError
from llm_persona.domain.formats import format_of, sealed
from llm_persona.domain.provenance import git_revision, machine, versions
from llm_persona.domain.store import digest, file_digest, write_json, write_text
from llm_persona.domain.traits import load_trait
from llm_persona.instruments.judging.opening import open_judge
from llm_persona.instruments.judging.protocol import Judge
from llm_persona.instruments.judging.remote import RemoteJudge
from llm_persona.studies import (
    trait_answers,
    trait_conditions,
    trait_reading,
    trait_steering,
    trait_tuning,
    trait_vector,
)
from llm_persona.studies.agreement import agreement
from llm_persona.studies.arithmetic import arithmetic_stages, measure_arithmetic
from llm_persona.studies.comparison import comparison, composites, specificity
from llm_persona.studies.findings import findings, headline
from llm_persona.studies.folder import study_settings, working_in
from llm_persona.studies.grid import make_ahead
from llm_persona.studies.judged import judge_state, unscored
from llm_persona.studies.judging import RUBRICS
from llm_persona.studies.lab import Lab
from llm_persona.studies.pieces import Executor
from llm_persona.studies.recommend import most_layers
from llm_persona.studies.report import write_report
from llm_persona.studies.stages import Reporter, Stages
from llm_persona.studies.stored_answers import FILE, write_answers
from llm_persona.studies.token_budget import with_token_budget
from llm_persona.studies.trait_study import TraitStudy, open_trait
from llm_persona.subject.remote.caller import Limits

PROMPT = "How should I spend the weekend?"
READINGS = 3
"""Stages in which the base reads what was written: projection, perplexity, tokens."""


NEWER = {"engine": "transformers"}
"""Settings that study files of older versions do not name, and what they were."""


def expected_stages(config: StudyConfig) -> int:
    """How many stages a study has at most, for the progress display (a sweep may need fewer layers: `spare`)."""
    traits, letters = len(config.traits), len(config.letter_modes)

    def measured(kind: str, conditions: int) -> int:
        return conditions * (3 + letters * (kind in config.choice_conditions))

    tuning = 2 + measured("tuned", 2) + 2 if config.tune else 0  # training, measuring, reading
    recorded = 4 - (config.transfer_items == 0)
    steered = 2 * len(config.doses) + 1
    controls = config.random_directions + 2 * (traits - 1)
    conditions = measured("base", 1) + measured("instructed", 2) + measured("combined", 2)
    own = conditions + recorded + most_layers(config.sweep_layers) + steered + controls + tuning
    judged = 5 + len(config.doses) + (2 if config.tune else 0) if config.judge else 0
    return traits * (own + judged + READINGS) + (arithmetic_stages(traits) if config.arithmetic else 0)


def expected_gradings(config: StudyConfig) -> int:
    """At most how many answers a study's judge has to grade, each by trait and by coherence; 0 without a judge."""
    conditions = 5 + len(config.doses) + (2 if config.tune else 0)
    answers = len(config.traits) * conditions * config.questions * config.samples
    return answers * len(RUBRICS) if config.judge is not None else 0


def run_study(
    config: StudyConfig,
    out: str | Path,
    reporter: Reporter | None = None,
    limits: Limits | None = None,
    executor: Executor | None = None,
    said: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Run a study, or continue one, and write its report.

    The folder then holds `study.yaml`, `manifest.json`, `results.json`, `report.html`, `figures/`,
    `answers.jsonl` (every answer), `vectors/`, `adapters/` and `stages/` (what makes it resumable). The same command
    on a killed run goes on where it was; a changed setting redoes what depends on it; a finished run recomputes
    nothing.

    Args:
        limits: of the calls, where the judge that `config.judge` names is behind an API.
        executor: makes the traits' stages ahead, on other processes or machines (`studies.executors`); the numbers
            are the same. `said` is told of each piece that it has made.

    Returns:
        The contents of `results.json`.

    Raises:
        UserError: another process works in the folder, it cannot be written, or a setting is at fault.
    """
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out {folder}: is a file; give a folder")
    foreign = folder.is_dir() and any(folder.iterdir()) and not (folder / "stages").is_dir()
    if foreign:
        raise UserError(f"--out {folder}: is not empty and holds no study; choose another folder")
    if executor is not None:
        make_pieces([config], [folder], executor, said)
    with working_in(folder, "running a study"):
        return _run(with_token_budget(config, folder), folder, reporter, limits)


def make_pieces(
    configs: Sequence[StudyConfig], folders: Sequence[Path], executor: Executor, said: Callable[[str], None] | None
) -> None:
    """Have the studies' pieces made by the executor, and say so as each is done."""
    tell = said or (lambda text: None)
    engine = next((c.engine for c in configs if c.engine != "transformers"), None)
    if engine is not None:
        raise UserError(f"--engine {engine}: workers of --executor ray run transformers; leave one of them out")
    for config in configs:
        _check_names(config)
    configs = [with_token_budget(config, folder) for config, folder in zip(configs, folders, strict=True)]
    make_ahead(configs, folders, executor, lambda piece, made: tell(f"{piece.name}: {made} stages made"))


def _check_names(config: StudyConfig) -> None:
    """Results, vectors and stages are kept by a trait's name.

    Raises:
        UserError: two traits share one (a file of a trait that is installed too).
    """
    names = [load_trait(name).name for name in config.traits]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"--trait: two of the traits are called {twice}; rename one of them (`name:` in its file)")


def _run(config: StudyConfig, folder: Path, reporter: Reporter | None, limits: Limits | None) -> dict[str, Any]:
    started = time.monotonic()
    _check_names(config)
    judge = _judge(config, limits)  # before the work: a judge that does not exist costs nothing
    stages = Stages(folder / "stages", reporter)
    settings = {"format": format_of("study"), **config.model_dump()}
    former = study_settings(folder)
    ignored = dict.fromkeys(("format", "token_budget"))
    # (what an older version did not write down was as it is by default)
    before = {**NEWER, **(former or {}), **ignored}
    if former is None or before != {**settings, **ignored}:
        if (folder / "results.json").is_file():
            changed = [name for name, value in settings.items() if name not in ignored and before.get(name) != value]
            said = f"{folder}: its results were of other settings ({', '.join(changed) or 'unknown ones'})"
            warnings.warn(f"{said}; what depends on them is made anew, in their place", Replaced, stacklevel=3)
        for name in ("results.json", "report.html", "manifest.json", FILE):  # those of other settings
            (folder / name).unlink(missing_ok=True)
    write_text(folder / "study.yaml", yaml.safe_dump(settings, sort_keys=False))
    lab = Lab(config.model, config.dtype, config.device, stages, config.engine)
    lab.token_budget = config.token_budget
    studies = [open_trait(lab, config, name) for name in config.traits]

    def phase(work: Callable[[TraitStudy], None]) -> None:
        for study in studies:
            work(study)

    phase(trait_conditions.baseline)
    phase(trait_conditions.instructed)
    phase(lambda s: trait_vector.vector(s, folder / "vectors"))
    vectors = {s.name: Steer(s.persona, s.layer, dose=config.sweep_dose, name=s.name) for s in studies}
    phase(lambda s: trait_vector.read_by(s, {other.name: other.persona for other in studies if other is not s}))
    phase(lambda s: trait_steering.steering(s, vectors))
    phase(trait_conditions.combined)
    phase(trait_steering.dose_response)
    if config.tune:
        phase(lambda s: trait_tuning.tuning(s, folder / "adapters"))
        lab.end_training()
    phase(trait_reading.written)
    phase(trait_reading.tokens)
    phase(lambda s: trait_reading.activation_shift(s, folder / "adapters"))
    phase(trait_answers.beyond_context)
    write_answers(folder / FILE, [a for s in studies for a in trait_answers.answers(s)])
    if judge is not None:
        phase(lambda s: trait_answers.judged(s, judge))
    arithmetic = measure_arithmetic(lab, studies, config.sweep_dose) if config.arithmetic else {}
    results = _results(config, lab, studies, arithmetic, judge)
    write_json(folder / "results.json", results)
    write_report(folder)
    _prune(folder, [s.name for s in studies])
    _manifest(folder, config, lab, stages, started, judge)
    return results


def _prune(folder: Path, names: list[str]) -> None:
    """Remove what settings that have changed since left behind: half trainings, and other traits' artefacts."""
    for abandoned in (folder / "adapters").glob(".*.training-*"):
        shutil.rmtree(abandoned, ignore_errors=True)
    for adapter in (folder / "adapters").glob("*"):
        if adapter.name.removesuffix("-high").removesuffix("-low") not in names:
            shutil.rmtree(adapter, ignore_errors=True)
    for vector in (folder / "vectors").glob("*.safetensors"):
        if vector.stem not in names:
            vector.unlink()
    for figure in (folder / "figures").glob("*-*.*"):
        if figure.stem.rpartition("-")[0] not in names:
            figure.unlink()


def _judge(config: StudyConfig, limits: Limits | None) -> Judge | None:
    if config.judge is None:
        if config.judge_base_url is not None or config.judge_text:
            raise UserError(
                "study: judge_base_url (--base-url) and judge_text (--text) speak of a judge; set judge (--judge)"
            )
        return None
    return open_judge(config.judge, config.judge_base_url, limits, config.judge_text)


def _status(study: TraitStudy) -> dict[str, str]:
    """That nobody has reviewed the trait, where that is so."""
    return {"status": study.trait.status} if study.trait.status else {}


def _results(
    config: StudyConfig, lab: Lab, studies: list[TraitStudy], arithmetic: dict[str, Any], judge: Judge | None
) -> dict[str, Any]:
    layers = sorted(s.layer for s in studies)
    results: dict[str, Any] = {
        "format": format_of("results"),
        "model": config.model,
        "subject": lab.identity,
        "preset": config.preset,
        "seed": config.seed,
        "traits": {s.name: {"title": s.trait.title, **_status(s), **s.results} for s in studies},
        "profile": _profile(studies),
        "geometry": geometry({s.name: s.persona for s in studies}, layers[len(layers) // 2]),
        "arithmetic": arithmetic,
        "answers": {"file": FILE, **{k: getattr(config, k) for k in ("samples", "temperature", "max_new_tokens")}},
        "judge": None if judge is None else _judged(judge, studies),
        "recommendations": {s.name: _recommendation(s, config) for s in studies},
    }
    for trait in results["traits"].values():
        trait["comparison"] = comparison(trait)
        trait["dose_response"]["composites"] = composites(trait)
    results["specificity"] = specificity(results["traits"], {s.name: s.moved_by for s in studies})
    answers = [a for s in studies for a in trait_answers.answers(s)]
    scores = [v[s.name].score for s in studies for v in s.verdicts] if judge is not None else None
    results["agreement"] = agreement(results["traits"], answers, scores, results["judge"])
    results["findings"] = findings(results)
    results["answer"] = headline(results)
    return results


def _judged(judge: Judge, studies: list[TraitStudy]) -> dict[str, Any]:
    graded = {s.name: unscored(s.name, s.verdicts) for s in studies}
    return {**judge_state(judge, [s.trait for s in studies]), "graded": graded}


def _profile(studies: list[TraitStudy]) -> dict[str, Any]:
    """Condition -> trait -> score, interval and preference: the persona under each condition."""
    keep = ("n", "score", "score_ci", "preference", "preference_ci")

    def row(source: dict[str, Any]) -> dict[str, Any]:
        return {k: source[k] for k in keep}

    table: dict[str, Any] = {"base": {s.name: row(s.results["baseline"]) for s in studies}}
    for pole in ("high", "low"):
        table[f"instructed {pole}"] = {s.name: row(s.results["instructed"][pole]) for s in studies}
        if all(s.results["tuned"] for s in studies):
            table[f"tuned {pole}"] = {s.name: row(s.results["tuned"][pole]) for s in studies}
    return table


def _recommendation(study: TraitStudy, config: StudyConfig) -> dict[str, Any]:
    chosen = study.extraction.recommended
    vector = f"vectors/{study.name}.safetensors"
    return {
        "quality": chosen.quality,
        "effect": chosen.effect,
        "balanced": chosen.balanced,
        "coefficient": chosen.coefficient,
        "dose": chosen.dose,
        "reason": chosen.reason,
        "usable_range": study.results["dose_response"]["usable_range"],
        "command": f"llm-persona steer --model {shlex.quote(config.model)} --vector {vector} --layer {chosen.balanced} "
        f'--coefficient {chosen.coefficient:.3g} --prompt "{PROMPT}"',
        "python": "import llm_persona as lp\n\n"
        f"subject = lp.load_subject({json.dumps(config.model)})\n"
        f"vector = lp.PersonaVector.load({json.dumps(vector)})\n"
        f"with lp.steering(subject, vector, layer={chosen.balanced}, coefficient={chosen.coefficient:.3g}):\n"
        f"    print(lp.generate(subject, [{json.dumps(PROMPT)}], max_new_tokens=48)[0].text)",
    }


def _manifest(folder: Path, config: StudyConfig, lab: Lab, stages: Stages, started: float, judge: Judge | None) -> None:
    kept = [folder / name for name in ("study.yaml", "results.json", FILE)]
    forms = ("vectors/*.safetensors", "adapters/*/adapter_model.safetensors", "adapters/*/adapter_config.json")
    kept += [p for form in forms for p in sorted(folder.glob(form))]
    manifest = {
        "versions": versions(),
        "revision": git_revision(),
        "machine": machine(),
        "subject": lab.identity,
        "config_digest": digest(config.model_dump()),
        "digests": {str(p.relative_to(folder)): file_digest(p) for p in kept},
        "judge_calls": judge.caller.record.as_json() if isinstance(judge, RemoteJudge) else None,
        "stages": stages.seconds,
        "stage_files": sorted(stages.files),
        "stages_made": stages.made,
        "seconds_this_run": time.monotonic() - started,
        "seconds_all_stages": sum(stages.seconds.values()),
    }
    write_json(folder / "manifest.json", sealed("manifest", manifest))

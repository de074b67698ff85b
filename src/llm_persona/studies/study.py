"""The study: every phase over every trait, in one run folder that can be killed and continued."""

from __future__ import annotations

import shlex
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from llm_persona.analysis.geometry import geometry
from llm_persona.domain.condition import Steer
from llm_persona.domain.config import StudyConfig
from llm_persona.domain.errors import UserError
from llm_persona.domain.provenance import git_revision, machine, versions
from llm_persona.domain.store import digest, file_digest, write_json, write_text
from llm_persona.studies.arithmetic import measure_arithmetic
from llm_persona.studies.comparison import comparison, specificity
from llm_persona.studies.findings import findings
from llm_persona.studies.lab import Lab
from llm_persona.studies.report import write_report
from llm_persona.studies.stages import Reporter, Stages
from llm_persona.studies.trait_study import TraitStudy, open_trait

FORMAT = "llm-persona.results.1"


def expected_stages(config: StudyConfig) -> int:
    """About how many stages a study has, for the progress display."""
    conditions = 5 + len(config.doses) + (2 if config.tune else 0)
    controls = config.random_directions + 2 * (len(config.traits) - 1)
    choice = len(config.letter_modes) * sum(
        {"base": 1, "instructed": 2, "tuned": 2}[c] for c in config.choice_conditions
    )
    tuning = 4 if config.tune else 0
    steered = 2 * len(config.doses) + 1
    others = 3 * (conditions - len(config.doses))
    return len(config.traits) * (others + steered + controls + choice + 6 + config.sweep_layers + tuning)


def run_study(config: StudyConfig, out: str | Path, reporter: Reporter | None = None) -> dict[str, Any]:
    """Run a study, or continue one, and write its report.

    The folder then holds `study.yaml`, `manifest.json`, `results.json`, `report.html`, `figures/`,
    `vectors/`, `adapters/` and `stages/` (what makes it resumable). The same command on a killed run goes
    on where it was; a changed setting redoes what depends on it; a finished run recomputes nothing.

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
    try:
        (folder / "stages").mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "stages" / ".lock")
        with lock.acquire(timeout=0):
            _remove_leftovers(folder)
            return _run(config, folder, reporter)
    except Timeout as error:
        raise UserError(
            f"--out {folder}: another process is running a study there; wait or choose another folder"
        ) from error
    except (PermissionError, NotADirectoryError) as error:
        raise UserError(f"--out {folder}: cannot be written ({error.strerror}); choose a writable folder") from error


def _remove_leftovers(folder: Path) -> None:
    """Temporary files of a killed process (we hold the lock: nobody else is writing)."""
    for path in folder.rglob(".*.tmp"):
        path.unlink(missing_ok=True)


def _run(config: StudyConfig, folder: Path, reporter: Reporter | None) -> dict[str, Any]:
    started = time.time()
    stages = Stages(folder / "stages", reporter)
    settings = yaml.safe_dump(config.model_dump(), sort_keys=False)
    if not (folder / "study.yaml").is_file() or (folder / "study.yaml").read_text(encoding="utf-8") != settings:
        for name in ("results.json", "report.html", "manifest.json"):  # those of other settings
            (folder / name).unlink(missing_ok=True)
    write_text(folder / "study.yaml", settings)
    lab = Lab(config.model, config.dtype, config.device, stages)
    studies = [open_trait(lab, config, name) for name in config.traits]

    def phase(work: Callable[[TraitStudy], None]) -> None:
        for study in studies:
            work(study)

    phase(TraitStudy.baseline)
    phase(TraitStudy.instructed)
    phase(lambda s: s.vector(folder / "vectors"))
    vectors = {s.name: Steer(s.persona, s.layer, dose=config.sweep_dose, name=s.name) for s in studies}
    phase(lambda s: s.steering(vectors))
    phase(TraitStudy.combined)
    phase(TraitStudy.dose_response)
    if config.tune:
        phase(lambda s: s.tuning(folder / "adapters"))
    phase(TraitStudy.written)
    phase(lambda s: s.activation_shift(folder / "adapters"))
    arithmetic = measure_arithmetic(lab, studies, config.sweep_dose) if config.arithmetic else {}
    results = _results(config, lab, studies, arithmetic)
    write_json(folder / "results.json", results)
    write_report(folder)
    _prune(folder, [s.name for s in studies])
    _manifest(folder, config, lab, stages, started)
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


def _results(config: StudyConfig, lab: Lab, studies: list[TraitStudy], arithmetic: dict[str, Any]) -> dict[str, Any]:
    layers = sorted(s.layer for s in studies)
    results: dict[str, Any] = {
        "format": FORMAT,
        "model": config.model,
        "subject": lab.identity,
        "preset": config.preset,
        "seed": config.seed,
        "traits": {s.name: {"title": s.trait.title, **s.results} for s in studies},
        "profile": _profile(studies),
        "geometry": geometry({s.name: s.persona for s in studies}, layers[len(layers) // 2]),
        "arithmetic": arithmetic,
        "recommendations": {s.name: _recommendation(s, config) for s in studies},
    }
    for trait in results["traits"].values():
        trait["comparison"] = comparison(trait)
    results["specificity"] = specificity(results["traits"])
    results["findings"] = findings(results)
    return results


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
        f'--coefficient {chosen.coefficient:.3g} --prompt "How should I spend the weekend?"',
    }


def _manifest(folder: Path, config: StudyConfig, lab: Lab, stages: Stages, started: float) -> None:
    kept = [*sorted((folder / "vectors").glob("*.safetensors")), *sorted((folder / "adapters").glob("*/*.safetensors"))]
    manifest = {
        "format": "llm-persona.manifest.1",
        "versions": versions(),
        "revision": git_revision(),
        "machine": machine(),
        "subject": lab.identity,
        "config_digest": digest(config.model_dump()),
        "digests": {str(p.relative_to(folder)): file_digest(p) for p in [folder / "results.json", *kept]},
        "stages": stages.seconds,
        "stages_made": stages.made,
        "seconds_this_run": time.time() - started,
        "seconds_all_stages": sum(stages.seconds.values()),
    }
    write_json(folder / "manifest.json", manifest)

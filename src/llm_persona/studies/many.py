"""The same study of several models and seeds: a run folder each, and their comparison."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from llm_persona.domain.config import StudyConfig
from llm_persona.domain.errors import UserError
from llm_persona.domain.store import write_json, write_text
from llm_persona.studies.compare import compare, study_runs
from llm_persona.studies.compare_page import comparison_page
from llm_persona.studies.pieces import Executor
from llm_persona.studies.profile_figure import save_profile
from llm_persona.studies.stages import Reporter
from llm_persona.studies.study import make_pieces, run_study
from llm_persona.subject.remote.caller import Limits


def folder_names(models: Sequence[str]) -> list[str]:
    """A folder name for each model, readable and different.

    Raises:
        UserError: a model is called what another one's number makes of its name (`x/m`, `y/m` and `z/m-1`).
    """
    names = [
        re.sub(r"[^A-Za-z0-9._-]+", "-", model.rstrip("/").rpartition("/")[2]).strip("-.") or "model"
        for model in models
    ]
    found = [name if names.count(name) == 1 else f"{name}-{number + 1}" for number, name in enumerate(names)]
    twice = next((name for name in found if found.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"--model: two of the models would be written to {twice}; rename one's folder, or run it alone")
    return found


def run_names(configs: Sequence[StudyConfig]) -> list[str]:
    """A folder name for each study: its model, and its seed where seeds differ."""
    several = len({config.seed for config in configs}) > 1
    ends = [f"-seed-{config.seed}" if several else "" for config in configs]
    return folder_names([config.model.rstrip("/") + end for config, end in zip(configs, ends, strict=True)])


def run_models(
    configs: Sequence[StudyConfig],
    out: str | Path,
    reporter: Reporter | None = None,
    limits: Limits | None = None,
    executor: Executor | None = None,
    said: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Run each configuration in `out`/MODEL, or MODEL-seed-K where seeds differ, then compare. Killed, it goes on.

    Writes `comparison.json`, `comparison.html` (both runs side by side) and `comparison.png`/`.svg` (the base
    profiles); every condition's difference is from the first model's base, paired by item. An `executor` makes the
    pieces of all of them ahead, as in `run_study`.

    Returns:
        `{"studies": {folder: results}, "comparison": ...}`.
    """
    folder = Path(out)
    names = run_names(configs)
    if executor is not None:
        make_pieces(configs, [folder / name for name in names], executor, said)
    studies = {
        name: run_study(config, folder / name, reporter, limits) for name, config in zip(names, configs, strict=True)
    }
    runs = {name: study_runs(results, name) for name, results in studies.items()}
    comparison = compare([run for found in runs.values() for run in found])
    write_json(folder / "comparison.json", comparison)
    write_text(folder / "comparison.html", comparison_page(comparison, studies))
    save_profile(compare([found[0] for found in runs.values()]), folder / "comparison")
    return {"studies": studies, "comparison": comparison}

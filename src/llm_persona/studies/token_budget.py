"""How many tokens a study's batches hold: chosen once, and kept in its `study.yaml`."""

from __future__ import annotations

from pathlib import Path

from llm_persona.domain.config import StudyConfig
from llm_persona.studies.folder import study_settings
from llm_persona.subject.memory import TOKEN_BUDGET, token_budget_of
from llm_persona.subject.placement import place_of


def with_token_budget(config: StudyConfig, folder: Path) -> StudyConfig:
    """The configuration with its token budget: the one given, else the one that the run in `folder` was begun with,
    else by the device's memory. How rows are batched rounds their numbers, so a continued run batches as before."""
    if config.token_budget is not None:
        return config
    former = study_settings(folder)
    if former is None or any(former.get(name) != getattr(config, name) for name in ("model", "device")):
        budget = token_budget_of(place_of(config.device)[0])
    else:  # a run of a version that kept none was made with the CPU's
        known = former.get("token_budget")
        budget = known if type(known) is int and known > 0 else TOKEN_BUDGET
    return config.model_copy(update={"token_budget": budget})

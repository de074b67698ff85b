"""What a study does: presets, and the YAML that changes them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from llm_persona.domain.errors import UserError
from llm_persona.domain.formats import version_in
from llm_persona.domain.store import read_text
from llm_persona.domain.traits import explain, list_traits, parse_yaml

Preset = Literal["smoke", "quick", "full"]
Engine = Literal["transformers", "vllm"]
"""What runs a model."""
PRESETS: dict[str, dict[str, Any]] = {
    # smoke shows that everything runs; its numbers rest on too few items to mean much.
    "smoke": {
        "traits": ["openness"],
        "fit_items": 10, "select_items": 3, "test_items": 6, "second_items": 2, "transfer_items": 4,
        "doses": [-0.2, 0.2], "sweep_layers": 1, "random_directions": 2, "letter_items": 4,
        "questions": 3, "max_new_tokens": 16, "choice_conditions": ["base"],
        "neutral_passages": 2, "tuning_prompts": 4, "epochs": 1,
    },
    "quick": {
        "traits": ["openness", "machiavellianism"], "select_items": 8, "second_items": 8,
        "doses": [-0.4, -0.2, -0.1, 0.1, 0.2, 0.4], "sweep_layers": 4, "random_directions": 4,
        "questions": 10, "max_new_tokens": 32, "choice_conditions": ["base"], "letter_items": 8,
        "tuning_prompts": 40, "epochs": 1,
    },
    "full": {
        "traits": "all",
        "doses": [-0.4, -0.3, -0.2, -0.1, -0.05, 0.05, 0.1, 0.2, 0.3, 0.4],
        "sweep_layers": 7, "random_directions": 10,
        "questions": 15, "max_new_tokens": 64,
        "choice_conditions": ["base", "instructed", "tuned"], "letter_modes": ["choice", "upstream"],
        "tuning_prompts": 40, "epochs": 1, "arithmetic": True,
    },
}  # fmt: skip


def _base_only() -> list[Literal["base", "instructed", "tuned"]]:
    return ["base"]


def _letters_only() -> list[Literal["choice", "upstream"]]:
    return ["choice"]


class StudyConfig(BaseModel):
    """All settings of a study; a preset fills those not given. Unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True)

    preset: Preset = "quick"
    model: str = "smollm2-135m"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str = "auto"
    engine: Engine = "transformers"
    seed: int = Field(default=0, ge=0, lt=1 << 32)
    traits: list[str] = Field(default_factory=list)
    fit_items: int | None = Field(default=None, ge=2)
    """How many fit items to use (None: all); likewise below."""
    select_items: int | None = Field(default=None, ge=2)
    test_items: int | None = Field(default=None, ge=2)
    second_items: int | None = Field(default=None, ge=0)
    """How many of a second author's items choose the layer beside the select split."""
    transfer_items: int | None = Field(default=None, ge=0)
    """How many others of theirs the vector is read on, as a control."""
    doses: list[float] = Field(default_factory=list)
    sweep_layers: int = Field(default=5, ge=1, le=7)
    """Layers of the coarse sweep; the best-read one and up to two finer ones come on top (at most ten)."""
    sweep_dose: float = Field(default=0.2, gt=0, allow_inf_nan=False)
    random_directions: int = Field(default=5, ge=0)
    token_budget: int | None = Field(default=None, ge=256)
    """Padded tokens in one batch (None: by the device's memory). A run keeps it in its study.yaml, so that it goes on
    with the same batches; numbers depend on it by rounding only."""
    questions: int = Field(default=10, ge=1)
    max_new_tokens: int = Field(default=32, ge=1)
    samples: int = Field(default=1, ge=1)
    """Answers to each open question, under every condition."""
    temperature: float = Field(default=0.0, ge=0, validate_default=True)
    """Of the open answers; 0 is greedy."""
    judge: str | None = None
    """Who grades the open answers (local, openai:NAME, ...); nobody unless one is named."""
    judge_base_url: str | None = None
    judge_text: bool = False
    """Read the judge's scores from its text, for endpoints that know no log-probabilities."""
    choice_conditions: list[Literal["base", "instructed", "tuned"]] = Field(default_factory=_base_only)
    letter_modes: list[Literal["choice", "upstream"]] = Field(default_factory=_letters_only)
    letter_items: int | None = Field(default=None, ge=2)
    """How many test items the letter modes use (None: all)."""
    neutral_passages: int | None = Field(default=None, ge=1)
    tune: bool = True
    arithmetic: bool = False
    """Also measure sums of vectors and vectors without what they share."""
    tuning_prompts: int = Field(default=40, ge=1)
    epochs: int = Field(default=1, ge=1)

    def __init__(self, /, **given: Any) -> None:
        preset = given.get("preset", "quick")
        filled = dict(PRESETS[preset]) if isinstance(preset, str) and preset in PRESETS else {}
        filled.update({k: v for k, v in given.items() if not (k == "traits" and not v)})
        if filled.get("traits") == "all":
            filled["traits"] = list_traits()
        super().__init__(**filled)

    @field_validator("traits")
    @classmethod
    def _known(cls, value: list[str]) -> list[str]:
        for name in value:
            if not name.endswith((".yaml", ".yml")) and name not in list_traits():
                raise ValueError(f"unknown trait {name!r}; known: {', '.join(list_traits())}")
        if len(set(value)) != len(value):
            raise ValueError("a trait is named twice")
        return value

    @field_validator("temperature")
    @classmethod
    def _samples_differ(cls, value: float, info: ValidationInfo) -> float:
        if value == 0 and info.data.get("samples", 1) > 1:
            raise ValueError("several samples need a temperature above 0: greedy answers are all the same")
        return value

    @field_validator("judge_base_url")
    @classmethod
    def _keeps_no_secret(cls, value: str | None) -> str | None:
        parts = urlsplit(value or "")
        if parts.username or parts.password or parts.query:
            raise ValueError("holds more than an address, and a run folder keeps it; put the key into the environment")
        return value

    @field_validator("doses")
    @classmethod
    def _both_signs(cls, value: list[float]) -> list[float]:
        if not all(math.isfinite(d) for d in value):
            raise ValueError("doses must be finite numbers")
        if any(d == 0 for d in value) or len(set(value)) != len(value):
            raise ValueError("doses must differ from 0 and from one another (0 is the base)")
        if not (any(d > 0 for d in value) and any(d < 0 for d in value)):
            raise ValueError("give doses of both signs")
        return sorted(value)


def make_config(where: str = "study", /, **given: Any) -> StudyConfig:
    """A configuration; every fault is one `UserError` naming `where` and the field."""
    try:
        return StudyConfig(**given)
    except ValidationError as error:
        raise UserError(f"{where}: {explain(error)}") from error


def read_config(path: Path, **overrides: Any) -> StudyConfig:
    """A study file, with command-line overrides on top."""
    data = parse_yaml(read_text(path, "study file"), str(path))
    if data is not None and not isinstance(data, dict):
        raise UserError(f"{path}: a study file is a mapping of settings, e.g. 'preset: quick'")
    given = {str(k): v for k, v in (data or {}).items()}
    version_in(given.pop("format", None), "study", path)
    return make_config(str(path), **{**given, **overrides})

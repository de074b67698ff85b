"""Measurements side by side: several models or conditions, now or from files on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from llm_persona.analysis.paired import paired_shift
from llm_persona.analysis.stats import holm
from llm_persona.domain.errors import UserError
from llm_persona.domain.formats import version_in
from llm_persona.domain.store import read_json
from llm_persona.domain.traits import explain
from llm_persona.studies.report import read_results

SHOWN = ("n", "n_unscored", "score", "score_ci", "preference", "preference_ci", "option_mass", "order_consistency",
         "headroom")  # fmt: skip


def read_runs(path: str | Path) -> list[dict[str, Any]]:
    """What a file or run folder holds, as results of `evaluate`: one entry a model and condition.

    Raises:
        UserError: no such file, or neither the JSON of `evaluate` nor a run.
    """
    place = Path(path)
    if place.is_dir():
        return _checked(study_runs(read_results(place), place.name), str(place))
    found = read_json(place, "result")
    kind = str(found.get("format") or "") if isinstance(found, dict) else ""
    if kind.startswith("llm-persona.results."):
        version_in(kind, "results", place)
        return _checked(study_runs(found, place.parent.name), str(place))
    if kind:
        version_in(kind, "evaluation", place)
    runs = found.get("runs") if isinstance(found, dict) and "runs" in found else [found]
    if not isinstance(runs, list) or not all(isinstance(run, dict) and "traits" in run for run in runs):
        raise UserError(f"{place}: neither the JSON of `evaluate` nor a run's results.json; give one of these")
    return [{"label": label_of(run), **run} for run in _checked(runs, str(place))]


ROUNDING = 1e-6
"""By how much a sum of shares may miss its bound."""
Percent = Annotated[float, Field(ge=-ROUNDING, le=100 + ROUNDING, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=-ROUNDING, le=1 + ROUNDING, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


def _both_or_none(ends: list[float | None]) -> list[float | None]:
    if (ends[0] is None) != (ends[1] is None):
        raise ValueError("an interval has both ends or none")
    return ends


Interval = Annotated[list[Finite | None], Field(min_length=2, max_length=2), AfterValidator(_both_or_none)]


class _Read(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)


class _Row(_Read):
    id: str | int
    unscored: str | None = None
    high: bool | None = None
    preference: Share | None = None

    @model_validator(mode="after")
    def _scored_or_not(self) -> _Row:
        if self.unscored is None and self.high is None:
            raise ValueError("has neither 'high' nor 'unscored'")
        return self


class _Trait(_Read):
    n: int = Field(ge=0)
    n_unscored: int = Field(ge=0)
    score: Percent | None
    score_ci: Interval | None = None
    preference: Share | None = None
    preference_ci: Interval | None = None
    option_mass: Finite | None = None
    order_consistency: Share | None = None
    headroom: bool | None = None
    rows: list[_Row] = Field(default_factory=list)

    @field_validator("rows")
    @classmethod
    def _once(cls, value: list[_Row]) -> list[_Row]:
        ids = [row.id for row in value]
        if len(set(ids)) != len(ids):
            raise ValueError("an item's id occurs twice")
        return value


class _Condition(_Read):
    name: str = "base"


class _Run(_Read):
    model: str
    mode: str | None = None
    label: str | None = None
    condition: _Condition
    traits: dict[str, _Trait]


def _checked(runs: list[Any], where: str) -> list[dict[str, Any]]:
    """The runs as they are, if they have the form that a comparison rests on."""
    for run in runs:
        try:
            _Run.model_validate(run)
        except ValidationError as error:
            raise UserError(f"{where}: {explain(error)}; write it again with `evaluate --json` or `run`") from error
    return runs


def study_runs(results: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """The conditions of a study: base, instructed and tuned."""
    found = []
    for condition in ("base", "instructed high", "instructed low", "tuned high", "tuned low"):
        measured = results.get("traits")
        traits = {t: _place(entry, condition) for t, entry in measured.items()} if isinstance(measured, dict) else {}
        if traits and all(traits.values()):
            found.append(
                {
                    "label": f"{name}: {condition}",
                    "model": results.get("model"),
                    "mode": "likelihood",
                    "condition": {"name": condition},
                    "traits": traits,
                }
            )
    return found


def _place(trait: Any, condition: str) -> Any:
    """A condition's measurements within a trait's results; None if it was not measured."""
    kind, _, pole = condition.partition(" ")
    found = trait.get("baseline" if kind == "base" else kind) if isinstance(trait, dict) else None
    return found if kind == "base" or not isinstance(found, dict) else found.get(pole)


def label_of(run: dict[str, Any]) -> str:
    """Model and condition."""
    return f"{run['model']}, {run['condition'].get('name', 'base')}, {run.get('mode', 'likelihood')}"


def compare(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The runs' figures side by side, and each run's difference from the first, paired by item.

    `p_holm` is adjusted over all differences of the comparison. Where two runs did not ask the same items (or keep
    no rows) there is no difference, and `n` is 0.

    Raises:
        UserError: fewer than two runs.
    """
    if len(runs) < 2:
        raise UserError("a comparison needs at least two results; give another file, --model, --instruct or --adapter")
    labels = _distinct([str(run.get("label") or label_of(run)) for run in runs])
    shown = [
        {
            "label": label,
            "model": run["model"],
            "mode": run.get("mode"),
            "condition": run["condition"],
            "traits": {name: {k: trait.get(k) for k in SHOWN} for name, trait in run["traits"].items()},
        }
        for label, run in zip(labels, runs, strict=True)
    ]
    differences: dict[str, dict[str, Any]] = {}
    first = runs[0]["traits"]
    for label, run in list(zip(labels, runs, strict=True))[1:]:
        differences[label] = {
            name: paired_shift(trait.get("rows", []), first[name].get("rows", []))
            for name, trait in run["traits"].items()
            if name in first
        }
    tested = [d for traits in differences.values() for d in traits.values() if d["n"] and d["p_value"] is not None]
    for entry, adjusted in zip(tested, holm([d["p_value"] for d in tested]), strict=True):
        entry["p_holm"] = adjusted
    return {"runs": shown, "against": labels[0], "differences": differences}


def _distinct(labels: list[str]) -> list[str]:
    return [label if labels.count(label) == 1 else f"{label} ({n + 1})" for n, label in enumerate(labels)]

"""The phases that steer: every dose of the trait's own vector, the controls beside it, the response to the dose."""

from __future__ import annotations

from typing import Any

import numpy as np

from llm_persona.analysis.dose import dose_response as fitted_response
from llm_persona.analysis.dose import usable_range
from llm_persona.analysis.paired import differences, paired_shift
from llm_persona.analysis.vectors import PersonaVector, random_like
from llm_persona.domain.condition import Condition, Steer, steered
from llm_persona.instruments.trait_benchmark import TraitBenchmark
from llm_persona.studies.lab import Instrument
from llm_persona.studies.trait_study import TraitStudy
from llm_persona.subject.reuse import KeptBlocks


def steering(study: TraitStudy, others: dict[str, Steer]) -> None:
    """Every dose at the recommended layer, and the controls beside it. `others`: each trait's vector and layer."""
    conditions = steered(study.persona, study.layer, tuple(study.config.doses), study.name)
    kept = KeptBlocks({study.layer, *(steer.layer for steer in others.values())})
    found = study.lab.sweep(study.name, kept, study.layer, conditions, study.instruments("steered"))
    written = study.lab.sweep_samples(study.name, conditions, study.samples)
    for condition, measured, samples in zip(conditions, found, written, strict=True):
        study.measured[condition.name] = {**measured, "samples": samples}
    study.results["steering"] = [_steered(study, c) for c in conditions]
    _controls(study, others, kept)


def dose_response(study: TraitStudy) -> None:
    """Fit the response to the dose over the items scored under every dose."""
    points = [("base", 0.0)] + [(f"steered {d:+g}", d) for d in study.config.doses]
    tables = [{r["id"]: r.get("preference") for r in study.measured[n]["likelihood"].rows} for n, _ in points]
    ids = [i for i in tables[0] if all(t[i] is not None for t in tables)]
    preferences = np.array([[t[i] for i in ids] for t in tables])
    costs = [
        {"dose": p["dose"], "neutral_perplexity": p["perplexity"], "distinct_2": p["distinct_2"]}
        for p in study.results["steering"]
    ]
    base = study.results["baseline"]
    limits = {"neutral_perplexity": base["perplexity"], "distinct_2": base["distinct_2"] or 0.0}
    study.results["dose_response"] = {
        **fitted_response([d for _, d in points], preferences, study.config.seed),
        "usable_range": usable_range(costs, limits),
    }


def _steered(study: TraitStudy, condition: Condition) -> dict[str, Any]:
    dose = condition.steers[0].dose or 0.0
    return {
        "layer": study.layer,
        "coefficient": study.persona.coefficient_for(dose, study.layer),
        "dose": dose,
        **study.summary(condition.name),
        **study.shift(condition.name),
    }


def _controls(study: TraitStudy, others: dict[str, Steer], kept: KeptBlocks) -> None:
    """Random directions at the same layer and dose, and the other traits' vectors at their own layers."""
    dose, count = study.config.sweep_dose, study.config.random_directions
    base = study.measured["base"]["likelihood"].rows
    random = [_control(f"random-{n}", random_like(study.persona, n), study.layer, dose) for n in range(count)]
    moved = [paired_shift(rows, base) for rows in _measured_at(study, kept, study.layer, random)]
    wrong = {}
    for name, steer in others.items():
        if name != study.name:
            pair = [_control(name, steer.vector, steer.layer, d) for d in (-dose, dose)]
            measured = _measured_at(study, kept, steer.layer, pair)
            wrong[name] = [
                {"dose": d, "layer": steer.layer, **paired_shift(rows, base)}
                for d, rows in zip((-dose, dose), measured, strict=True)
            ]
            study.moved_by[name] = {d: differences(rows, base) for d, rows in zip((-dose, dose), measured, strict=True)}
    scored = [s for s in moved if s["n"]]

    def movement(key: str) -> float | None:
        return float(np.mean([abs(s[key]) for s in scored])) if scored else None

    study.results["controls"] = {
        "layer": study.layer,
        "dose": dose,
        "n_random": len(scored),
        "random_score_movement": movement("score_shift"),
        "random_preference_movement": movement("preference_shift"),
        "random": scored,
        "other_traits": wrong,
    }


def _control(name: str, vector: PersonaVector, layer: int, dose: float) -> Condition:
    return Condition(f"control {name} {dose:+g}", steers=(Steer(vector, layer, dose=dose, name=name),))


def _measured_at(
    study: TraitStudy, kept: KeptBlocks, layer: int, conditions: list[Condition]
) -> list[list[dict[str, Any]]]:
    """The test items' rows under each condition that steers at `layer`."""
    benchmark: dict[str, Instrument] = {"likelihood": TraitBenchmark(study.test)}
    return [m["likelihood"].rows for m in study.lab.sweep(study.name, kept, layer, conditions, benchmark)]

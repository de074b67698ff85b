"""Is the effect of two vectors the sum of their effects, and does what all vectors share blur them?"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any, TypeVar

import numpy as np

from llm_persona.analysis.geometry import shared_direction, without
from llm_persona.analysis.paired import paired_means
from llm_persona.analysis.spill import compared_effects
from llm_persona.analysis.stats import mean_estimate
from llm_persona.domain.condition import BASE, Condition, Steer
from llm_persona.instruments.trait_benchmark import TraitBenchmark
from llm_persona.studies.lab import Lab
from llm_persona.studies.trait_study import TraitStudy

T = TypeVar("T")
ITEMS = 12
"""Test items a trait: there are traits x traits x 2 conditions, and means over traits need few items each."""


def measure_arithmetic(lab: Lab, studies: Sequence[TraitStudy], dose: float) -> dict[str, Any]:
    """Sums of vectors and vectors without their shared component, at the middle one of the recommended layers.

    `pairs`: for two traits each measured trait's shift (points of preference) under +a, +b and +a+b (each at half the
    dose), and `excess`: the effect of both less the sum of the effects, paired by item (0 is additive).
    `shared`: by trait, its own shift and the other traits' mean absolute shift under its vector, and under its vector
    without the first principal direction of all the vectors, at the same norm; see `spill.compared_effects`.
    """
    if len(studies) < 2:
        return {}
    layers = sorted(s.layer for s in studies)
    layer = layers[len(layers) // 2]
    return {
        "layer": layer,
        "dose": dose,
        "pairs": [_pair(lab, a, b, layer, dose / 2) for a, b in _pairs(studies)],
        "shared": _shared(lab, studies, layer, dose) if len(studies) > 2 else {},
    }


def arithmetic_stages(traits: int) -> int:
    """How many measurements `measure_arithmetic` asks for (each base is asked for wherever it is compared)."""
    if traits < 2:
        return 0
    shared = 2 * traits * 2 * traits if traits > 2 else 0  # whole and without, each trait's base and shift
    return 8 * len(_pairs(range(traits))) + shared  # two traits a pair: base, either vector, both


def _pairs(studies: Sequence[T]) -> list[tuple[T, T]]:
    """Every pair of up to four traits; each trait with the next one (in a ring) beyond."""
    if len(studies) <= 4:
        return list(combinations(studies, 2))
    return [(s, studies[(n + 1) % len(studies)]) for n, s in enumerate(studies)]


def _preferences(lab: Lab, study: TraitStudy, condition: Condition) -> dict[str, float]:
    found = lab.measure(f"{study.name} arithmetic {condition.name}", condition, TraitBenchmark(study.test[:ITEMS]))
    return {r["id"]: r["preference"] for r in found.rows if r.get("preference") is not None}


def _pair(lab: Lab, a: TraitStudy, b: TraitStudy, layer: int, dose: float) -> dict[str, Any]:
    one, other = (Steer(s.persona, layer, dose=dose, name=s.name) for s in (a, b))
    states = {"a": (one,), "b": (other,), "both": (one, other)}
    measured = {}
    for study in (a, b):
        base = _preferences(lab, study, BASE)
        shifts = {}
        for state, steers in states.items():
            name = f"{' and '.join(s.name for s in steers)} at {layer}, {dose:+g}"
            after = _preferences(lab, study, Condition(name, steers=steers))
            shifts[state] = {i: 100 * (after[i] - base[i]) for i in base if i in after}
        shared = [i for i in shifts["both"] if i in shifts["a"] and i in shifts["b"]]
        sums = [shifts["a"][i] + shifts["b"][i] for i in shared]
        excess = paired_means([shifts["both"][i] for i in shared], sums)
        found = {state: mean_estimate(np.array(list(values.values()))) for state, values in shifts.items() if values}
        measured[study.name] = {
            **{state: mean.value for state, mean in found.items()},
            **{f"{state}_ci": mean.ci for state, mean in found.items()},
            "excess": excess["mean"],
            "excess_ci": excess["ci"],
            "p_value": excess["p_value"],
            "n": excess["n"],
        }
    return {"traits": [a.name, b.name], "dose_each": dose, "measured": measured}


def _shared(lab: Lab, studies: Sequence[TraitStudy], layer: int, dose: float) -> dict[str, Any]:
    vectors = {s.name: s.persona for s in studies}
    direction = shared_direction(vectors, layer)
    found = {}
    for steered in studies:
        whole = Steer(steered.persona, layer, dose=dose, name=steered.name)
        rest = Steer(without(steered.persona, direction, layer), layer, dose=dose, name=steered.name)
        entire = _shifts(lab, studies, steered, "whole", whole)
        parted = _shifts(lab, studies, steered, "without shared", rest)
        found[steered.name] = {
            "cosine_with_shared": float(steered.persona.unit(layer) @ direction),
            **compared_effects(steered.name, entire, parted),
        }
    return found


def _shifts(
    lab: Lab, studies: Sequence[TraitStudy], steered: TraitStudy, kind: str, steer: Steer
) -> dict[str, dict[str, float]]:
    """By measured trait, each item's shift of preference, points."""
    condition = Condition(f"{steered.name} {kind} at {steer.layer}", steers=(steer,))
    moved = {}
    for study in studies:
        base, after = _preferences(lab, study, BASE), _preferences(lab, study, condition)
        moved[study.name] = {i: 100 * (after[i] - base[i]) for i in base if i in after}
    return moved

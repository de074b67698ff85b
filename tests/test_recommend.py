"""Recommendations follow from measured numbers by a fixed rule."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_persona.analysis.vectors import PersonaVector
from llm_persona.studies.findings import findings
from llm_persona.studies.recommend import choose, finer_layers, sweep_layers

VECTOR = PersonaVector(np.ones((10, 4), np.float32), np.full(10, 4.0, np.float32))


def quality(aucs):
    """Layers whose paired difference to the best one is known to within .03."""
    layers = [
        SimpleNamespace(layer=n, auc=a, below_best_ci=[max(aucs) - a - 0.03, max(aucs) - a + 0.03])
        for n, a in enumerate(aucs)
    ]
    return SimpleNamespace(layers=layers, best=max(layers, key=lambda q: q.auc).layer)


def point(layer, effect, cost):
    return {"layer": layer, "dose": 0.2, "effect": effect, "cost": cost, "n": 15}


AUCS = [0.6, 0.7, 0.8, 0.9, 0.95, 0.97, 0.99, 0.98, 0.9, 0.8]


def test_balanced_is_the_largest_effect_of_near_best_auc_at_usable_cost():
    sweep = [point(2, 0.5, 1.2), point(5, 0.2, 1.3), point(6, 0.1, 1.1), point(7, 0.3, 1.7)]
    found = choose(VECTOR, quality(AUCS), sweep, 0.2)
    assert (found.quality, found.effect, found.balanced) == (6, 2, 5)
    assert found.dose == 0.2
    assert found.coefficient == pytest.approx(VECTOR.coefficient_for(0.2, 5))


def test_a_layer_that_the_same_questions_show_to_read_worse_is_not_near_best_however_large_its_effect():
    read = quality(AUCS)
    read.layers[5].below_best_ci = [0.001, 0.04]
    sweep = [point(5, 0.5, 1.2), point(6, 0.1, 1.1), point(7, 0.2, 1.2)]
    assert choose(VECTOR, read, sweep, 0.2).balanced == 7


def test_where_no_layer_is_usable_the_best_read_one_is_given_at_half_the_dose_and_said_so():
    found = choose(VECTOR, quality(AUCS), [point(6, -0.1, 1.1), point(7, 0.3, 1.7)], 0.2)
    assert (found.balanced, found.dose) == (6, 0.1)
    assert "no swept layer" in found.reason


@given(st.integers(2, 100), st.integers(1, 7), st.data())
def test_a_sweep_has_at_most_ten_layers_all_in_the_model(n_layers, count, data):
    best = data.draw(st.integers(0, n_layers - 1))
    coarse = sweep_layers(n_layers, count, best)
    finer = finer_layers([point(x, data.draw(st.floats(-1, 1)), 1.0) for x in coarse])
    assert best in coarse
    assert len(coarse) + len(finer) <= 10
    assert all(0 <= x < n_layers for x in coarse + finer)
    assert not set(coarse) & set(finer)


def trait(slope_ci, moved, random):
    shift = {
        "preference_shift": moved,
        "preference_shift_ci": [moved - 0.01, moved + 0.01],
        "score_shift": 0.0,
        "p_value": 0.001,
    }
    base = {"score": 50.0, "score_ci": [30.0, 70.0], "n": 25, "n_unscored": 0, "headroom": True}
    layer = {"auc": 0.9, "auc_ci": [0.8, 0.95], "p_family": 0.001}
    written = {"shift_in_pole_gaps": 0.1, "shift_in_pole_gaps_ci": [-0.2, 0.4], "n": 8, "p_value": 0.4}
    return {
        "baseline": base,
        "vector": {"recommended": {"balanced": 0}, "layers": [layer], "n_groups": 25, "controls": {"lexical_auc": 0.6}},
        "dose_response": {"slope": sum(slope_ci) / 2, "slope_ci": slope_ci, "usable_range": [-0.2, 0.2]},
        "controls": {"dose": 0.2, "random_preference_movement": random, "n_random": 5},
        "steering": [{"dose": d, "score": 50.0, "shift": shift, "written": written} for d in (-0.2, 0.2)],
        "instructed": {"high": {"shift": shift}, "low": {"shift": shift}},
        "tuned": {},
    }


@pytest.mark.parametrize(
    ("slope_ci", "moved", "random", "evidence"),
    [
        ([-50.0, -30.0], 0.1, 0.01, "absent"),
        ([30.0, 50.0], 0.1, None, "mixed"),
        ([30.0, 50.0], 0.1, 0.01, "shown"),
        ([30.0, 50.0], 0.1, 0.06, "mixed"),
        ([-5.0, 50.0], 0.1, 0.01, "absent"),
    ],
)
def test_sentences_say_what_intervals_and_nulls_allow(slope_ci, moved, random, evidence):
    found = {f["claim"]: f for f in findings({"traits": {"x": trait(slope_ci, moved, random)}})}
    assert found["control"]["evidence"] == evidence
    assert found["writing"]["evidence"] == "absent"
    assert "tuning" not in found

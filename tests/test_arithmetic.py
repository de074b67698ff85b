"""Sums of vectors and vectors without what they share, on effects that are known."""

from __future__ import annotations

import types

import numpy as np
import pytest

from llm_persona.analysis.spill import compared_effects
from llm_persona.analysis.vectors import PersonaVector
from llm_persona.studies import arithmetic
from llm_persona.studies.arithmetic import measure_arithmetic

ITEMS = 12
AXES = np.eye(4)


class Linear:
    """Stands for a laboratory: preference is linear in what is added along the measured trait's axis, plus a bend
    where two vectors are added at once."""

    def __init__(self, bend=0.0):
        self.bend = bend
        self.noise = np.random.default_rng(0).normal(0, 0.002, ITEMS)

    def measure(self, name, condition, instrument):
        axis = instrument.axis
        added = sum((s.vector.unit(s.layer) * s.dose for s in condition.steers), np.zeros(4))
        moved = float(added @ axis) + self.bend * (len(condition.steers) > 1)
        noise = self.noise * bool(condition.steers)
        rows = [{"id": n, "preference": 0.3 + 0.02 * n + moved + noise[n]} for n in range(ITEMS)]
        return types.SimpleNamespace(rows=rows)


def study(name, direction, measured_along):
    vector = PersonaVector(np.asarray(direction, np.float32)[None], np.ones(1, np.float32))
    return types.SimpleNamespace(name=name, persona=vector, layer=0, test=Axis([measured_along] * ITEMS))


class Axis(list):
    """Items of a trait that is measured along one axis."""


@pytest.fixture
def by_axis(monkeypatch):
    monkeypatch.setattr(arithmetic, "TraitBenchmark", lambda items: types.SimpleNamespace(axis=items[0]))


def three(shared=0.0):
    """Three traits, each measured on an axis of its own; every vector leans on what is common to all axes."""
    common = np.array([1.0, 1.0, 1.0, 0.0]) / 3**0.5
    return [study(n, AXES[k] + shared * common, AXES[k]) for k, n in enumerate(("first", "second", "third"))]


def test_effects_that_add_up_have_no_excess_and_a_bend_is_found(by_axis):
    for bend in (0.0, 0.05):
        found = measure_arithmetic(Linear(bend), three()[:2], 0.2)
        assert found["shared"] == {}
        (pair,) = found["pairs"]
        own = pair["measured"]["first"]
        assert (pair["traits"], pair["dose_each"]) == (["first", "second"], 0.1)
        assert own["a"] == pytest.approx(10, abs=0.3)  # a tenth along its own axis, in points
        assert own["b"] == pytest.approx(0, abs=0.3)
        assert own["both"] == pytest.approx(10 + 100 * bend, abs=0.3)
        assert own["excess"] == pytest.approx(100 * bend, abs=0.3)
        assert own["n"] == ITEMS
        assert own["a_ci"][0] < own["a"] < own["a_ci"][1]
        if bend:
            assert own["excess_ci"][0] > 0
            assert own["p_value"] < 0.001
        else:
            assert own["excess_ci"][0] < 0 < own["excess_ci"][1]


@pytest.mark.parametrize(("shared", "helps"), [(4.0, True), (0.5, False)])
def test_what_all_vectors_share_is_taken_out_and_the_interval_says_whether_that_helped(by_axis, shared, helps):
    found = measure_arithmetic(Linear(), three(shared), 0.2)["shared"]
    lean = shared / 3**0.5
    length = np.linalg.norm([1 + lean, lean, lean])
    for row in found.values():
        whole, without = row["whole"], row["without"]
        assert whole["own"] == pytest.approx(20 * (1 + lean) / length, abs=0.2)
        assert whole["others"] == pytest.approx(20 * lean / length, abs=0.2)
        # what is left is (2, -1, -1) / sqrt(6): the others move half as far as its own trait, to the other side
        assert without["own"] == pytest.approx(20 * 2 / 6**0.5, abs=0.2)
        assert without["others"] == pytest.approx(20 / 6**0.5, abs=0.2)
        assert row["ratio_difference"] == pytest.approx(0.5 - lean / (1 + lean), abs=0.02)
        low, high = row["ratio_difference_ci"]
        assert high < 0 if helps else low > 0
        assert whole["own_ci"][0] < whole["own"] < whole["own_ci"][1]
        assert whole["others_ci"][0] < whole["others"] < whole["others_ci"][1]
        assert row["n_items"] == ITEMS


def shifts(own, other, seed=0, spread=1.0):
    rng = np.random.default_rng(seed)
    draw = lambda mean: {n: mean + spread * e for n, e in enumerate(rng.standard_normal(ITEMS))}  # noqa: E731
    return {"own": draw(own), "other": draw(other)}


def test_spill_is_compared_on_the_same_items_and_its_interval_holds_what_is_true():
    found = compared_effects("own", shifts(10, 6), shifts(10, 1))
    assert found["whole"]["ratio"] == pytest.approx(0.6, abs=0.1)
    assert found["ratio_difference"] == pytest.approx(found["without"]["ratio"] - found["whole"]["ratio"])
    assert found["ratio_difference_ci"][1] < 0
    same = compared_effects("own", shifts(10, 6), shifts(10, 6))
    assert same["ratio_difference"] == 0
    assert same["ratio_difference_ci"] == [0, 0]  # paired by item: the same items cannot differ
    apart = compared_effects("own", shifts(10, 6, spread=4), shifts(10, 6, seed=1, spread=4))
    assert apart["ratio_difference_ci"][0] < 0 < apart["ratio_difference_ci"][1]


def test_spill_without_items_or_without_an_own_effect_is_no_number():
    nothing = compared_effects("own", {"own": {}, "other": {1: 2.0}}, {"own": {}, "other": {1: 2.0}})
    assert nothing["whole"]["own"] is nothing["whole"]["ratio"] is nothing["ratio_difference"] is None
    assert nothing["ratio_difference_ci"] == [None, None]
    still = compared_effects("own", {"own": {1: 0.0, 2: 0.0}, "other": {1: 1.0, 2: 1.0}},
                             {"own": {1: 0.0, 2: 0.0}, "other": {1: 1.0, 2: 1.0}})  # fmt: skip
    assert still["whole"]["ratio"] is None
    assert still["whole"]["others"] == 1.0

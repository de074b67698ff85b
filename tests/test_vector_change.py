"""What tuning did to a trait's vector and to the reading along it, with intervals that hold it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tuned_models import PLAN, models

import llm_persona as lp
from llm_persona.analysis.stats import mean_estimate
from llm_persona.analysis.vector_change import cosine_interval, pole_sums, reading_change
from llm_persona.domain.condition import tuned
from llm_persona.domain.items import Items
from llm_persona.domain.traits import load_trait
from llm_persona.studies.audit import audit


def by_hand(folder, name):
    """Base and one tuned model reading the openness items: test and fit activations of both, by hand."""
    subject = lp.load_subject(str(folder / "model"), dtype="float32")
    bank = Items(load_trait("openness").bank, "bank")
    rows = [lp.labelled(bank.split(part)[:6]) for part in ("test", "fit")]
    base = [lp.record(subject, r) for r in rows]
    with subject.under(tuned(str(folder / name))):
        return base, [lp.record(subject, r) for r in rows]


@pytest.fixture(scope="module")
def read_late(tuned_tiny):
    """Read at the last layer, above all that the adapter changes (the one that the tiny model recommends is below)."""
    subject = lp.load_subject(str(tuned_tiny / "model"), dtype="float32")
    rows = lp.labelled(Items(load_trait("openness").bank, "bank").split("fit")[:6])
    vector = lp.fit(lp.record(subject, rows), {"recommended": {"balanced": 3}})
    vector.save(tuned_tiny / "late" / "openness.safetensors")
    plan = replace(PLAN, traits=("openness",), vectors=str(tuned_tiny / "late"))
    return audit(str(tuned_tiny / "model"), models(tuned_tiny)[:1], plan, tuned_tiny / "out-late", "float32")


def test_the_vector_extracted_again_and_its_reading_are_those_computed_by_hand(read_late, tuned_tiny):
    trait = read_late["traits"]["openness"]
    layer, found = trait["layer"], trait["tuned"]["high/seed-0"]
    (base_test, base_fit), (test, fit_rows) = by_hand(tuned_tiny, "high/seed-0")
    before, after = lp.fit(base_fit), lp.fit(fit_rows)
    cosine = float(before.unit(layer) @ after.unit(layer))
    assert found["vector_cosine"] == pytest.approx(cosine, abs=1e-5) and cosine < 0.999
    low, high = found["vector_cosine_ci"]
    assert low < cosine <= high <= 1
    v = found["vector"]
    reads = {"before": (base_test, before), "after": (test, after)}
    for moment, (acts, vector) in reads.items():
        quality = lp.assess(acts, vector, permutations=1).layers[layer]
        assert v[f"auc_{moment}"] == pytest.approx(quality.auc, abs=1e-6)
        assert v[f"auc_{moment}_ci"] == pytest.approx(list(quality.auc_ci), abs=1e-6)
        assert v[f"separation_{moment}"] == pytest.approx(quality.separation, abs=1e-4)
        assert v[f"separation_{moment}_ci"] == pytest.approx(list(quality.separation_ci), abs=1e-4)
    assert v["separation_change"] == pytest.approx(v["separation_after"] - v["separation_before"], abs=1e-4)
    assert v["separation_change_ci"][0] < v["separation_change"] < v["separation_change_ci"][1]
    assert v["auc_change"] == pytest.approx(v["auc_after"] - v["auc_before"], abs=1e-6)
    assert v["auc_change_ci"][0] <= v["auc_change"] <= v["auc_change_ci"][1]
    of_base = lp.assess(test, before, permutations=1).layers[layer]
    assert v["auc_of_the_base_vector_after"] == pytest.approx(of_base.auc, abs=1e-6)
    assert v["auc_of_the_base_vector_after_ci"] == pytest.approx(list(of_base.auc_ci), abs=1e-6)
    assert trait["auc_before_ci"] == pytest.approx(v["auc_before_ci"], abs=1e-6)  # (one vector, the bank's)


def test_fixed_texts_and_the_layer_profile_are_those_computed_by_hand(read_late, tuned_tiny):
    trait = read_late["traits"]["openness"]
    layer, found = trait["layer"], trait["tuned"]["high/seed-0"]
    (base_test, base_fit), (test, _) = by_hand(tuned_tiny, "high/seed-0")
    vector = lp.fit(base_fit)
    shift = np.stack([(test.values[:, k] - base_test.values[:, k]) @ vector.unit(k) for k in range(4)], axis=1)
    profile = found["layer_profile"]
    np.testing.assert_allclose(profile["fixed_texts"], shift.mean(axis=0), atol=1e-4)
    by_item = shift.reshape(6, 4, 4).mean(axis=1)  # four responses an item, in order
    for k, ends in enumerate(profile["fixed_texts_ci"]):
        assert ends == pytest.approx(mean_estimate(by_item[:, k]).ci, abs=1e-4)
    assert np.abs(profile["fixed_texts"]).max() > 0.01
    p = found["projection"]
    assert p["fixed_texts"] == pytest.approx(profile["fixed_texts"][layer], abs=1e-4)
    assert p["fixed_texts_ci"] == pytest.approx(profile["fixed_texts_ci"][layer], abs=1e-4)
    assert profile["own_answers"][layer] == pytest.approx(p["both"], abs=1e-4)
    assert profile["own_answers_ci"][layer] == pytest.approx(p["both_ci"], abs=1e-4)


def test_a_change_that_resampling_cannot_vary_is_not_called_certain():
    rows = [3.0, 2.0, 1.0, 0.0] * 5
    high, groups = [True, True, False, False] * 5, [n // 4 for n in range(20)]
    found = reading_change(rows, rows, high, groups)
    assert (found["auc_before"], found["auc_change"], found["separation_change"]) == (1, 0, 0)
    cap = 0.025 ** (1 / 5)
    assert found["auc_change_ci"] == pytest.approx([cap - 1, 1 - cap])
    assert found["auc_before_ci"] == pytest.approx([cap, 1])
    left = reading_change([None, *rows[1:]], rows, high, groups)
    assert left["separation_before"] == pytest.approx(np.mean([2.0, *[3.0, 2.0] * 4]) - 0.5)
    assert reading_change(rows[:4], rows[:4], high[:4], groups[:4])["auc_change"] is None


def test_the_cosine_of_one_vector_with_itself_is_one_however_it_is_resampled():
    rng = np.random.default_rng(0)
    values = rng.standard_normal((24, 2, 5)).astype(np.float32)
    acts = lp.Activations(values, ["high", "high", "low", "low"] * 6, [n // 4 for n in range(24)])
    sums = pole_sums(acts, 1)
    assert cosine_interval(sums, sums) == pytest.approx([1, 1])
    np.testing.assert_allclose(sums.directions(np.ones((1, 6)))[0], lp.fit(acts).directions[1], atol=1e-6)
    other = pole_sums(lp.Activations(rng.standard_normal((24, 2, 5)), acts.poles, acts.groups), 1)
    low, high = cosine_interval(sums, other)
    assert low < 0 < high  # two vectors of noise


@pytest.mark.parametrize("shift", [0.2, 1.0])
def test_a_cosine_lies_in_its_interval_however_near_to_one_it_is(shift):
    rng = np.random.default_rng(1)
    poles, groups = ["high", "low"] * 40, [n // 2 for n in range(80)]
    direction = rng.standard_normal((1, 1, 300))
    signs = np.where(np.arange(80) % 2, -1, 1)[:, None, None]
    for _ in range(20):
        values = rng.standard_normal((80, 1, 300)) + direction * signs
        first, second = (
            pole_sums(lp.Activations((values + noise).astype(np.float32), poles, groups), 0)
            for noise in (0, shift * rng.standard_normal((80, 1, 300)))
        )
        a, b = (part.directions(np.ones((1, 40)))[0] for part in (first, second))
        low, high = cosine_interval(first, second)
        assert low < a @ b / np.linalg.norm(a) / np.linalg.norm(b) < high < 1

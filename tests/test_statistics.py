"""The mathematics: what it must equal, and what it must never claim."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import kstest
from sklearn.metrics import roc_auc_score

from llm_persona.analysis.activations import Activations
from llm_persona.analysis.dose import dose_response, usable_range
from llm_persona.analysis.paired import paired_shift
from llm_persona.analysis.quality import assess
from llm_persona.analysis.stats import auc, mean_estimate, paired_p_value, proportion_estimate
from llm_persona.analysis.vectors import PersonaVector, fit, projections, random_like
from llm_persona.domain.errors import UserError

POLES = ["high", "low", "high", "low"]


def noise(rng, groups, hidden=800, layers=1, shift=0.0, rows=4):
    """`rows` rows a question; `shift` is planted along the first hidden unit."""
    values = rng.standard_normal((rows * groups, layers, hidden))
    poles = (POLES * (rows // 4)) * groups
    values[[p == "high" for p in poles], :, 0] += shift
    return Activations(values, poles, np.repeat(np.arange(groups), rows))


@given(arrays(float, st.integers(4, 30), elements=st.integers(-3, 3)), st.randoms())
def test_auc_equals_the_library_s_with_ties(scores, random):
    high = np.array([random.random() < 0.5 for _ in scores])
    high[:2] = [True, False]
    assert auc(scores, high) == pytest.approx(roc_auc_score(high, scores))


@given(st.integers(0, 1000))
@settings(max_examples=25)
def test_a_planted_direction_is_recovered(seed):
    rng = np.random.default_rng(seed)
    vector = fit(noise(rng, 40, hidden=200, shift=4.0))
    assert abs(vector.unit(0)[0]) > 0.8
    quality = assess(noise(rng, 25, hidden=200, shift=4.0), vector, permutations=200).layers[0]
    assert quality.band == "excellent"
    assert quality.p_family < 0.01


def test_intervals_of_a_locked_test_cover_chance_on_noise_and_p_values_are_uniform():
    rng = np.random.default_rng(0)
    covered, p_values, bands = 0, [], set()
    for seed in range(500):
        vector = fit(noise(rng, 25, hidden=600))
        layer = assess(noise(rng, 25, hidden=600), vector, permutations=200, seed=seed).layers[0]
        covered += layer.auc_ci[0] <= 0.5 <= layer.auc_ci[1]
        p_values.append(layer.p_value)
        bands.add(layer.band)
    assert 0.92 * 500 <= covered <= 0.98 * 500
    assert "excellent" not in bands
    assert 0.01 <= np.mean(np.array(p_values) <= 0.05) <= 0.09
    assert 0.45 <= np.mean(p_values) <= 0.55


def test_in_sample_auc_would_have_been_perfect_on_the_same_noise():
    acts = noise(np.random.default_rng(1), 25)
    in_sample = auc(projections(acts.values, fit(acts))[:, 0], acts.high)
    assert in_sample == 1.0
    cross_fitted = assess(acts, permutations=100)
    assert cross_fitted.layers[0].auc < 0.65
    assert cross_fitted.conditional_on_fit


def test_the_family_p_value_is_never_below_the_layer_s_own():
    quality = assess(noise(np.random.default_rng(2), 20, layers=6, shift=1.0), permutations=300)
    assert all(layer.p_family >= layer.p_value for layer in quality.layers)


def test_cross_fitting_by_gram_matrices_equals_fitting_each_fold():
    rng = np.random.default_rng(3)
    acts = noise(rng, 15, hidden=40, shift=1.0)
    quality = assess(acts, folds=5, permutations=50, seed=7)
    folds = np.random.default_rng(7 + 2).permutation(15) % 5
    groups = acts.group_index
    scores = np.empty(len(acts))
    for fold in range(5):
        held = folds[groups] == fold
        train = acts.take(~held)
        direction = fit(train).directions[0].astype(float)
        x = acts.values[:, 0]
        middle = (x[~held & acts.high].mean(axis=0) + x[~held & ~acts.high].mean(axis=0)) / 2
        scores[held] = (x[held] - middle) @ direction / np.linalg.norm(direction)
    assert quality.layers[0].auc == pytest.approx(float(auc(scores, acts.high)), abs=1e-6)


def test_copies_of_rows_do_not_shrink_an_interval():
    rng = np.random.default_rng(4)
    vector, once = fit(noise(rng, 30, hidden=50, shift=1.0)), noise(rng, 20, hidden=50, shift=1.0)
    twice = Activations(np.repeat(once.values, 3, axis=0), list(np.repeat(once.poles, 3)), np.repeat(once.groups, 3))
    a, b = assess(once, vector).layers[0], assess(twice, vector).layers[0]
    assert a.auc == pytest.approx(b.auc)
    assert a.auc_ci == pytest.approx(b.auc_ci)


def related_layers(rng, groups=12, hidden=60, layers=5):
    """Noise whose layers resemble one another, as a model's do."""
    acts = noise(rng, groups, hidden, layers)
    common = rng.standard_normal((len(acts), 1, hidden))
    return Activations((0.7 * common + 0.7 * acts.values).astype(np.float32), acts.poles, acts.groups)


def test_the_best_of_several_layers_has_a_uniform_p_value_on_noise():
    rng = np.random.default_rng(10)
    best, alone = [], []
    for seed in range(250):
        quality = assess(related_layers(rng), fit(related_layers(rng)), permutations=199, seed=seed)
        best.append(min(layer.p_family for layer in quality.layers))
        alone.append(min(layer.p_value for layer in quality.layers))
    assert kstest(best, "uniform").pvalue > 0.05
    assert kstest(alone, "uniform").pvalue < 1e-6  # the smallest of five is none: what the family-wise one is for


def test_cross_fitted_p_values_are_uniform_on_noise_and_no_band_is_ever_excellent():
    rng = np.random.default_rng(11)
    one, best, bands = [], [], set()
    for seed in range(250):
        quality = assess(related_layers(rng, hidden=200, layers=3), permutations=199, seed=seed)
        one.append(quality.layers[0].p_value)
        best.append(min(layer.p_family for layer in quality.layers))
        bands |= {layer.band for layer in quality.layers}
        assert quality.conditional_on_fit
    assert kstest(one, "uniform").pvalue > 0.05
    assert kstest(best, "uniform").pvalue > 0.05
    assert "excellent" not in bands


def test_rows_that_resemble_others_of_their_question_do_not_shrink_an_interval():
    rng = np.random.default_rng(12)
    vector, once = fit(noise(rng, 30, hidden=50, shift=1.0)), noise(rng, 20, hidden=50, shift=1.0)
    values = np.repeat(once.values, 6, axis=0)
    values = values + 0.02 * rng.standard_normal(values.shape)  # no copies, but nearly
    poles, groups = list(np.repeat(once.poles, 6)), np.repeat(once.groups, 6)
    a = assess(once, vector).layers[0]
    b = assess(Activations(values, poles, groups), vector).layers[0]
    naive = assess(Activations(values, poles, np.arange(len(poles)) // 2), vector).layers[0]
    width = a.auc_ci[1] - a.auc_ci[0]
    assert b.auc == pytest.approx(a.auc, abs=0.02)
    assert b.auc_ci[1] - b.auc_ci[0] == pytest.approx(width, rel=0.1)
    assert b.separation_ci[1] - b.separation_ci[0] == pytest.approx(a.separation_ci[1] - a.separation_ci[0], rel=0.1)
    assert naive.auc_ci[1] - naive.auc_ci[0] < 0.6 * width  # what rows taken for questions would have claimed


@pytest.mark.parametrize(("questions", "allowed"), [(2, "poor"), (5, "poor"), (8, "good"), (25, "excellent")])
def test_few_questions_cannot_be_excellent_by_luck(questions, allowed):
    rng = np.random.default_rng(5)
    vector = fit(noise(rng, 60, hidden=20, shift=30.0))
    layer = assess(noise(rng, questions, hidden=20, shift=30.0), vector, permutations=100).layers[0]
    assert layer.auc == 1.0
    assert layer.band == allowed


@pytest.mark.parametrize(
    ("poles", "groups", "message"),
    [(["high"] * 4, [0, 1, 2, 3], "both poles"), (["high", "low"] * 2, [0] * 4, "one question")],
)
def test_data_that_cannot_be_judged_is_refused(poles, groups, message):
    with pytest.raises(UserError, match=message):
        assess(Activations(np.random.default_rng(0).standard_normal((4, 1, 8)), poles, groups))


def test_activations_with_nan_are_refused_by_row():
    values = np.zeros((3, 1, 2))
    values[1, 0, 1] = np.nan
    with pytest.raises(UserError, match="row 1 holds NaN"):
        Activations(values, ["high", "low", "high"], [0, 0, 1])


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=9))
def test_the_paired_p_value_is_the_exact_share_of_sign_flips(values):
    flips = list(itertools.product([-1, 1], repeat=len(values)))
    exact = np.mean([abs(sum(s * v for s, v in zip(f, values, strict=True))) >= abs(sum(values)) for f in flips])
    assert paired_p_value(np.array(values, dtype=float)) == pytest.approx(1.0 if sum(values) == 0 else exact)


def test_a_mean_of_one_value_has_no_interval():
    found = mean_estimate(np.array([3.0]))
    assert (found.value, found.low, found.high, found.n) == (3.0, None, None, 1)


@given(st.integers(1, 50), st.integers(0, 50))
def test_a_share_lies_inside_its_interval(n, hits):
    found = proportion_estimate(min(hits, n), n)
    assert 0 <= found.low <= found.value + 1e-9
    assert found.value - 1e-9 <= found.high <= 100 + 1e-9


def test_a_dose_is_the_share_of_the_reference_norm():
    vector = PersonaVector(np.array([[3.0, 4.0]], np.float32), np.array([10.0], np.float32))
    assert vector.dose_per_unit(0) == pytest.approx(0.5)
    assert vector.coefficient_for(-0.2, 0) == pytest.approx(-0.4)
    control = random_like(vector, 1)
    assert control.dose_per_unit(0) == pytest.approx(0.5, rel=1e-5)
    assert abs(float(control.unit(0) @ vector.unit(0))) < 1.0


def test_a_straight_dose_response_is_measured_as_one():
    doses = [-0.2, -0.1, 0.0, 0.1, 0.2]
    preferences = np.array([[0.5 + d, 0.4 + d] for d in doses])
    found = dose_response(doses, preferences)
    assert found["slope"] == pytest.approx(100.0)
    assert found["r2"] == pytest.approx(1.0)
    assert found["spearman"] == pytest.approx(1.0)
    assert found["wrong_way"] == 0.0


def test_the_usable_range_has_no_gap():
    base = {"neutral_perplexity": 10.0, "distinct_2": 0.9}
    points = [
        {"dose": d, "neutral_perplexity": p, "distinct_2": 0.9}
        for d, p in [(-0.2, 15.9), (-0.1, 11.0), (0.1, 17.0), (0.2, 11.0)]
    ]
    assert usable_range(points, base) == [-0.2, 0.0]


def test_shifts_are_paired_by_item_and_unscored_ones_are_counted():
    base = [{"id": n, "preference": 0.2, "high": False} for n in "abcd"]
    after = [{"id": n, "preference": 0.7, "high": True} for n in "abc"] + [{"id": "d", "unscored": "tie"}]
    found = paired_shift(after[::-1], base)
    assert found["n"] == 3
    assert found["n_unpaired"] == 1
    assert found["score_shift"] == 100.0
    assert found["preference_shift"] == pytest.approx(0.5)

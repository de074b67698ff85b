"""Dose-response, cost, layers and geometry: mathematics on known truth."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_persona.analysis.dose import at_equal_cost, composite, dose_response
from llm_persona.analysis.geometry import geometry, mean_cosines, shared_direction, without
from llm_persona.analysis.layers import layer_bands, rank_correlation, read_against_steer
from llm_persona.analysis.paired import perplexity_ratio
from llm_persona.analysis.quality import within_auc
from llm_persona.analysis.stats import corrected_interval, holm, resampled_means
from llm_persona.analysis.vectors import PersonaVector
from llm_persona.studies.comparison import comparison, composites, specificity

DOSES = [-0.4, -0.2, 0.0, 0.2, 0.4]


def items(curve, n=30, seed=0):
    rng = np.random.default_rng(seed)
    return np.array([np.clip(curve(d) + 0.02 * rng.standard_normal(n), 0, 1) for d in DOSES])


def test_a_line_departs_from_linearity_by_nothing_and_a_kink_does():
    line = dose_response(DOSES, items(lambda d: 0.5 + 0.5 * d))
    kink = dose_response(DOSES, items(lambda d: 0.5 + 0.5 * max(d, 0)))
    assert line["departure"] < 0.02 < kink["departure"]
    assert line["curvature_ci"][0] < 0 < line["curvature_ci"][1]
    assert kink["curvature_ci"][0] > 0
    assert kink["slope_above"] == pytest.approx(50, abs=3)
    assert kink["slope_below_ci"][0] < 0 < kink["slope_below_ci"][1]
    assert line["monotone"] == 1.0
    assert line["wrong_way"] == 0.0


def test_a_dose_response_does_not_depend_on_the_order_of_the_doses():
    values = items(lambda d: 0.5 + 0.4 * d)
    order = [3, 0, 4, 1, 2]
    a, b = dose_response(DOSES, values), dose_response([DOSES[k] for k in order], values[order])
    for key in a:
        assert a[key] == pytest.approx(b[key]), key


def test_too_few_doses_give_no_number_but_all_keys():
    few = dose_response([0.0, 0.2], items(lambda d: d)[:2])
    assert few["slope"] is None
    assert few.keys() == dose_response(DOSES, items(lambda d: 0.5 + d)).keys()


@given(st.floats(-1, 1), st.floats(0.01, 1), st.floats(0.5, 3), st.floats(0, 1.2))
def test_the_composite_is_between_nothing_and_one_and_a_collapse_scores_nothing(effect, room, cost, variety):
    value = composite(effect, room, cost, variety)
    assert 0 <= value <= 1
    if cost >= 1.6 or variety < 0.8 or effect <= 0:
        assert value == 0


def test_more_effect_or_less_cost_never_lowers_the_composite():
    assert composite(0.2, 0.5, 1.2, 1.0) < composite(0.3, 0.5, 1.2, 1.0)
    assert composite(0.2, 0.5, 1.3, 1.0) < composite(0.2, 0.5, 1.2, 1.0)
    assert composite(None, 0.5, 1.2, 1.0) is None


def test_the_dose_of_equal_cost_lies_between_the_measured_ones():
    points = [(0.0, 0.0, 1.0), (0.2, 10.0, 1.2), (0.4, 16.0, 1.6)]
    found = at_equal_cost(points, 1.4)
    assert found == {"dose": pytest.approx(0.3), "effect": pytest.approx(13.0)}
    assert at_equal_cost(points, 1.7) is None


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_keeps_the_order_and_only_raises(p):
    adjusted = holm(p)
    assert all(a >= b and a <= 1 for a, b in zip(adjusted, p, strict=True))
    order = np.argsort(p, kind="stable")
    assert all(adjusted[a] <= adjusted[b] for a, b in itertools.pairwise(order))
    assert min(adjusted) == pytest.approx(min(1, len(p) * min(p)))


def test_within_question_auc_sees_what_questions_hide():
    groups = np.repeat(np.arange(10), 2)
    high = np.tile([True, False], 10)
    scores = np.repeat(np.arange(10) * 100.0, 2) + high  # questions differ far more than poles
    assert within_auc(scores, high, groups) == 1.0
    assert within_auc(scores, high, np.arange(20)) is None


def test_bands_average_what_lies_in_them():
    aucs = [0.5] * 10 + [0.9] * 10 + [0.7] * 10
    sweep = [{"layer": 2, "effect": 0.1, "cost": 1.1}, {"layer": 15, "effect": 0.3, "cost": 1.3}]
    found = layer_bands(aucs, sweep)
    assert [found[b]["auc"] for b in ("early", "middle", "late")] == pytest.approx([0.5, 0.9, 0.7])
    assert found["middle"]["effect"] == 0.3
    assert found["late"]["effect"] is None


def test_reading_and_steering_are_ranked_against_one_another():
    aucs = np.linspace(0.5, 1, 10)
    sweep = [{"layer": k, "effect": float(-k), "cost": 1.0} for k in range(10)]
    found = read_against_steer(list(aucs), sweep)
    assert found["spearman"] == pytest.approx(-1)
    assert found["p_value"] < 0.01
    assert read_against_steer(list(aucs), sweep[:3])["spearman"] is None


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=4, max_size=20))
@settings(deadline=None)  # (the first call imports scipy)
def test_the_rank_correlation_is_the_library_s(pairs):
    from scipy.stats import spearmanr

    a, b = np.array(pairs, dtype=float).T
    if np.ptp(a) and np.ptp(b):
        assert rank_correlation(a, b, draws=10)["spearman"] == pytest.approx(spearmanr(a, b).statistic, abs=1e-9)


def test_unrelated_numbers_have_an_interval_around_nothing():
    rng = np.random.default_rng(1)
    found = rank_correlation(rng.standard_normal(40), rng.standard_normal(40))
    assert found["spearman_ci"][0] < 0 < found["spearman_ci"][1]
    assert found["p_value"] > 0.05


def vectors(cosine, hidden=400, layers=2):
    rng = np.random.default_rng(0)
    a, b, c = np.linalg.qr(rng.standard_normal((hidden, 3)))[0].T
    near = cosine * a + np.sqrt(1 - cosine**2) * b
    ones = np.ones(layers, np.float32)
    return {name: PersonaVector(np.tile(v, (layers, 1)).astype(np.float32), ones)
            for name, v in (("a", a), ("near", near), ("far", c))}  # fmt: skip


def test_close_traits_fall_into_one_cluster_and_others_stay_apart():
    found = geometry(vectors(0.8), 1)
    assert found["cosines"][0][1] == pytest.approx(0.8, abs=1e-5)
    assert found["clusters"]["a"] == found["clusters"]["near"] != found["clusters"]["far"]
    assert found["components"][0] == pytest.approx(1.8 / 3, abs=1e-4)
    assert sum(found["components"]) == pytest.approx(1)
    assert mean_cosines(vectors(0.8))[0] == pytest.approx(0.8 / 3, abs=1e-4)


def test_the_cosines_of_every_layer_are_kept():
    traits = vectors(0.8)
    turned = traits["near"].directions.copy()
    turned[0] = -traits["far"].directions[0]
    traits["near"] = traits["near"].with_direction(turned)
    found = geometry(traits, 1)
    assert np.shape(found["cosines_by_layer"]) == (2, 3, 3)
    np.testing.assert_allclose(found["cosines_by_layer"][1], found["cosines"], atol=1e-5)
    np.testing.assert_allclose(found["cosines_by_layer"][0], [[1, 0, 0], [0, 1, -1], [0, -1, 1]], atol=1e-5)
    assert found["by_layer"] == pytest.approx([1 / 3, 0.8 / 3], abs=1e-4)


def test_what_is_shared_can_be_taken_out_without_changing_the_norm():
    traits = vectors(0.8)
    shared = shared_direction(traits, 1)
    rest = without(traits["a"], shared, 1)
    assert abs(rest.unit(1) @ shared) < 1e-6
    assert rest.norms[1] == pytest.approx(traits["a"].norms[1], rel=1e-5)
    np.testing.assert_array_equal(rest.directions[0], traits["a"].directions[0])


def measured(preference, perplexity, dose=None, start=0.5):
    """A condition that moves ten items' preference by `preference` on average, each by a little more or less."""
    shift = {"preference_shift": preference, "preference_shift_ci": [preference - 0.02, preference + 0.02],
             "p_value": 0.01, "n": 25, "dose": dose}  # fmt: skip
    rows = [{"id": str(n), "preference": start + preference + 0.01 * (n - 4.5)} for n in range(10)]
    return {"shift": shift, "perplexity": perplexity, "distinct_2": 0.9, "dose": dose, "rows": rows,
            "cost_ci": [perplexity / 20 - 0.05, perplexity / 20 + 0.05], **shift}  # fmt: skip


def a_trait(scale=1.0):
    steering = [measured(scale * d, 20 * (1 + abs(d)), d) for d in (-0.4, -0.2, 0.2, 0.4)]
    rows = [{"id": str(n), "preference": 0.5} for n in range(10)]
    return {
        "baseline": {"preference": 0.5, "perplexity": 20.0, "distinct_2": 0.9, "rows": rows},
        "steering": steering,
        "dose_response": {"usable_range": [-0.4, 0.4]},
        "instructed": {"high": measured(0.01, 21.0), "low": measured(-0.02, 21.0)},
        "combined": {"high": measured(0.25, 24.0), "low": measured(-0.22, 24.0)},
        "tuned": {"high": measured(0.3, 26.0), "low": measured(-0.3, 26.0)},
        "controls": {"dose": 0.2, "other_traits": {"other": [measured(0.0, 20, -0.2), measured(0.01, 20, 0.2)]}},
    }


def test_conditions_stand_beside_the_steering_that_costs_as_much():
    found = comparison(a_trait())
    rows = {row["condition"]: row for row in found["high"]}
    assert rows["tuned"]["effect"] == pytest.approx(30)
    equal = rows["tuned"]["steering_at_equal_cost"]
    assert (equal["dose"], equal["effect"]) == (pytest.approx(0.3), pytest.approx(30))
    assert equal["effect_ci"][0] < 30 < equal["effect_ci"][1]
    assert (equal["difference"], equal["n"]) == (pytest.approx(0, abs=1e-9), 10)
    assert rows["steered +0.4"]["steering_at_equal_cost"] is None
    low = {row["condition"]: row for row in found["low"]}
    assert low["tuned"]["effect"] == pytest.approx(30)
    assert low["tuned"]["effect_ci"] == pytest.approx([28, 32])


def test_steering_is_set_against_every_other_condition_item_by_item():
    found = comparison(a_trait())
    for pole, instructed, both in (("high", 39, 15), ("low", 38, 18)):
        rows = {row["condition"]: row["steering_less_this"] for row in found[pole]}
        assert rows["instructed"]["difference"] == pytest.approx(instructed)
        assert rows["instructed and steered"]["difference"] == pytest.approx(both)
        assert rows["tuned"]["difference"] == pytest.approx(10)
        assert rows["tuned"]["difference_ci"] == pytest.approx([10, 10])  # every item moves by the same
        assert rows["tuned"]["n"] == 10
        assert rows[f"steered {'+' if pole == 'high' else '-'}0.4"] is None


def test_without_a_usable_dose_there_is_nothing_to_set_against_the_others():
    trait = a_trait()
    trait["dose_response"]["usable_range"] = [0.0, 0.0]
    for row in comparison(trait)["high"]:
        assert row["steering_less_this"] is None


def test_an_item_that_one_side_left_unscored_is_in_no_difference():
    trait = a_trait()
    trait["tuned"]["high"]["rows"][0] = {"id": "0", "unscored": "a tie"}
    trait["steering"][3]["rows"][1] = {"id": "1", "unscored": "a tie"}
    rows = {row["condition"]: row for row in comparison(trait)["high"]}
    assert rows["tuned"]["steering_less_this"]["n"] == 8


def test_the_composite_s_interval_takes_in_that_of_the_effect_and_of_the_cost():
    for row in composites(a_trait()):
        low, high = row["composite_ci"]
        assert 0 < low < row["composite"] < high <= 1
        sign = 1 if row["dose"] > 0 else -1
        assert row["effect"] == pytest.approx(100 * sign * row["dose"])
        room, (least, _), (_, dearest) = 0.5, row["effect_ci"], row["cost_ci"]
        assert low == composite(least / 100, room, dearest, 1.0)
    without = a_trait()
    del without["steering"][0]["cost_ci"]
    assert composites(without)[0]["composite_ci"] == [None, None]


def test_the_ratio_of_a_specific_vector_has_an_interval_near_nothing_and_a_noisy_one_a_wide_one():
    rng = np.random.default_rng(0)
    traits = {"one": a_trait(), "other": a_trait()}
    traits["other"]["controls"]["other_traits"] = {"one": [measured(-0.1, 20, -0.2), measured(0.1, 20, 0.2)]}

    def moved(size, noise):
        return {"other": {"one": {d: list(np.sign(d) * size + noise * rng.standard_normal(40)) for d in (-0.2, 0.2)}}}

    narrow, wide = (specificity(traits, moved(0.1, noise))["ratio_ci"]["one"] for noise in (0.01, 0.3))
    assert 0.4 < narrow[0] < 0.5 < narrow[1] < 0.6
    assert wide[1] - wide[0] > 2 * (narrow[1] - narrow[0])
    assert specificity(traits)["ratio_ci"] == {"one": [None, None], "other": [None, None]}


def test_the_interval_of_an_absolute_mean_is_corrected_for_what_resampling_adds():
    """Resampling adds noise to noise, so that plain percentiles of |mean| lie above it where the mean is near 0."""
    rng, held = np.random.default_rng(3), 0
    for seed in range(100):
        values = 0.5 + rng.standard_normal(30)
        low, high = corrected_interval(np.abs(resampled_means(values, 500, seed)), abs(values.mean()))
        held += low <= 0.5 <= high
    assert held >= 88


def test_a_perplexity_s_ratio_pairs_the_passages():
    base = [{"perplexity": p, "tokens": 10 * k} for k, p in ((1, 10.0), (2, 40.0), (3, 20.0))]
    same = perplexity_ratio([{**row, "perplexity": 1.2 * row["perplexity"]} for row in base], base)
    assert same["ratio"] == pytest.approx(1.2)
    assert same["ci"] == pytest.approx([1.2, 1.2])  # passages differ fourfold, their ratio does not
    other = perplexity_ratio([{**base[0], "perplexity": 20.0}, *base[1:]], base)
    assert other["ratio"] == pytest.approx(2 ** (10 / 60))
    assert other["ci"][0] < other["ratio"] < other["ci"][1]
    left = perplexity_ratio([{"perplexity": None, "tokens": 0, "unscored": "long"}, *base[1:]], base)
    assert left["n"] == 2
    lost = perplexity_ratio([{**base[0], "perplexity": None}, *base[1:]], base)  # infinite, and not left out
    assert lost == {"ratio": None, "ci": [None, None], "n": 3}
    assert perplexity_ratio([], []) == {"ratio": None, "ci": [None, None], "n": 0}


def test_shapes_of_a_dose_response_have_intervals_within_their_bounds():
    clear = dose_response(DOSES, items(lambda d: 0.5 + 0.5 * d))
    assert clear["monotone_ci"] == [1.0, 1.0]
    assert clear["wrong_way_ci"][0] == pytest.approx(0, abs=1e-9)
    assert 0.05 < clear["wrong_way_ci"][1] < 0.2  # none of 30, but 30 are few
    assert 0.9 < clear["r2_ci"][0] <= clear["r2"] <= clear["r2_ci"][1] <= 1
    flat = dose_response(DOSES, items(lambda d: 0.5))
    for name, (low, high) in {"monotone": (0, 1), "r2": (0, 1), "spearman": (-1, 1), "wrong_way": (0, 1)}.items():
        assert low <= flat[f"{name}_ci"][0] <= flat[f"{name}_ci"][1] <= high
    assert flat["monotone_ci"][1] - flat["monotone_ci"][0] >= 0.5
    assert flat["wrong_way_ci"][0] < 0.5 < flat["wrong_way_ci"][1]


def test_specificity_sets_a_vector_s_own_trait_against_the_others():
    traits = {"one": a_trait(), "other": a_trait()}
    traits["other"]["controls"]["other_traits"] = {"one": [measured(-0.1, 20, -0.2), measured(0.1, 20, 0.2)]}
    found = specificity(traits)
    assert found["matrix"]["one"]["other"]["+0.2"]["preference"] == pytest.approx(10)
    assert found["ratio"]["one"] == pytest.approx(0.5)
    assert found["ratio"]["other"] == pytest.approx(0.025)
    assert specificity({"one": a_trait()}) == {}

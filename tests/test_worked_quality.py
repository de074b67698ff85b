"""The quality of a vector held against numbers worked out by hand or by brute force."""

from __future__ import annotations

import numpy as np
import pytest

from llm_persona.analysis import quality
from llm_persona.analysis.activations import Activations
from llm_persona.analysis.quality import Quality, _p, assess, band, within_auc
from llm_persona.analysis.stats import auc, bootstrap_weights, percentile_interval, sign_flips, widened
from llm_persona.analysis.vectors import PersonaVector, fit
from llm_persona.domain.errors import IncompatibleVector, UserError

POLES = ["high", "low", "high", "low", "low", "high", "low"]
GROUPS = ["b", "b", "a", "a", "a", "c", "c"]
SCORES = np.array([[3.0, 1.0], [1.0, 2.0], [2.0, 6.0], [2.0, 0.0], [0.0, 1.0], [5.0, 3.0], [6.0, 4.0]])
VECTOR = PersonaVector(np.array([[2.0], [-3.0]], np.float32), np.array([4.0, 0.0], np.float32), {})
HIGH = np.array([p == "high" for p in POLES])
INDEX = np.array([0, 0, 1, 1, 1, 2, 2])


def acts(values=SCORES, poles=POLES, groups=GROUPS):
    return Activations(np.asarray(values, np.float32)[:, :, None], poles, groups)


def along():
    """Projections: the second layer's direction points down."""
    return SCORES * [1, -1]


def test_every_number_of_a_locked_test_is_the_one_worked_out_by_hand():
    found = assess(acts(), VECTOR, permutations=40, seed=3)
    np.testing.assert_allclose(found.scores, along())
    assert (found.n_high, found.n_low, found.n_groups, found.permutations) == (3, 4, 3, 40)
    assert not found.conditional_on_fit
    first, second = found.layers
    # high 3, 2, 5 against low 1, 2, 0, 6: 3 + 2.5 + 3 wins of 12
    assert (first.layer, first.auc) == (0, pytest.approx(8.5 / 12))
    assert first.auc_within == pytest.approx((1 + 0.75 + 0) / 3)
    assert first.separation == pytest.approx(10 / 3 - 9 / 4)
    assert first.variance_high == pytest.approx(np.var([3, 2, 5], ddof=1))
    assert first.variance_low == pytest.approx(np.var([1, 2, 0, 6], ddof=1))
    pooled = np.sqrt((np.var([3, 2, 5]) + np.var([1, 2, 0, 6])) / 2)
    assert first.effect_size == pytest.approx((10 / 3 - 9 / 4) / pooled)
    assert (first.norm, first.dose_per_unit) == (2.0, 0.5)
    assert first.band == second.band == "poor"
    assert (second.norm, second.dose_per_unit) == (3.0, 0.0)  # nothing was measured there to compare the norm with
    assert second.auc == pytest.approx(float(auc(-SCORES[:, 1], HIGH)))
    assert [layer["layer"] for layer in found.as_json()] == [0, 1]


@pytest.mark.parametrize("poles", [POLES, [*POLES[:5], "high", "high"], [*POLES[:5], "low", "low"]])
def test_p_values_are_the_share_of_flips_that_do_as_well_and_the_family_s_is_by_the_best_layer(poles):
    """Also where the last question has one pole only."""
    found = assess(acts(poles=poles), VECTOR, permutations=40, seed=3)
    null, high = [], np.array([p == "high" for p in poles])
    for signs in sign_flips(3, 40, 3):
        flipped = np.where(signs[INDEX] < 0, ~high, high)
        null.append(np.nan_to_num(auc(along(), flipped), nan=0.5))
    null = np.array(null)
    for layer in found.layers:
        alone, best = null[:, layer.layer], null.max(axis=1)
        assert layer.p_value == pytest.approx((1 + (alone >= layer.auc - 1e-9).sum()) / 41)
        assert layer.p_family == pytest.approx((1 + (best >= layer.auc - 1e-9).sum()) / 41)
    assert _p(np.array([0.1, 0.5, 0.9]), 0.5) == 3 / 4


def test_where_a_flip_leaves_no_row_of_a_pole_it_counts_as_chance():
    values, poles = [[3.0], [1.0], [2.0]], ["high", "low", "low"]
    one = PersonaVector(np.ones((1, 1), np.float32), np.ones(1, np.float32), {})
    found = assess(acts(values, poles, [0, 1, 2]), one, permutations=50).layers[0]
    high, x = np.array([True, False, False]), np.array([3.0, 1.0, 2.0])
    null = []
    for signs in sign_flips(3, 50, 0):
        flipped = np.where(signs < 0, ~high, high)
        null.append(0.5 if flipped.all() or not flipped.any() else float(auc(x, flipped)))
    assert 0.5 in null
    assert quality._flipped_auc(x, high, np.arange(3), sign_flips(3, 50, 0)) == pytest.approx(null)
    assert found.p_value == pytest.approx(_p(np.array(null), 1.0))


def test_intervals_are_the_bootstrap_s_over_questions(monkeypatch):
    """Twelve questions, ties among their scores, and an interval that touches neither end."""
    monkeypatch.setattr(quality, "DRAWS", 200)
    rng = np.random.default_rng(21)
    poles, groups = ["high", "low", "high"] * 12, np.repeat(np.arange(12), 3)
    high = np.array([p == "high" for p in poles])
    x = np.round(rng.standard_normal(36) + 0.5 * high)
    one = PersonaVector(np.ones((1, 1), np.float32), np.full(1, 0.5, np.float32), {})
    found = assess(acts(x[:, None], poles, groups), one, permutations=1, seed=3).layers[0]
    assert found.dose_per_unit == 2.0
    draws, gaps = [], []
    for row in bootstrap_weights(12, 200, 4):
        chosen = np.concatenate([np.repeat(np.flatnonzero(k == groups), int(w)) for k, w in enumerate(row)])
        draws.append(float(auc(x[chosen], high[chosen])))
        gaps.append(x[chosen][high[chosen]].mean() - x[chosen][~high[chosen]].mean())
    low, upper = widened(percentile_interval(np.array(draws)), found.auc, 12)
    assert 0.2 < low < found.auc < upper < 0.95
    assert found.auc_ci == pytest.approx((low, upper))
    assert found.separation_ci == pytest.approx(widened(percentile_interval(np.array(gaps)), found.separation, 12))


def test_a_layer_is_held_against_the_best_one_on_the_same_resamples(monkeypatch):
    """Thirty questions of very different difficulty: each layer's own interval hides what the difference shows."""
    monkeypatch.setattr(quality, "DRAWS", 200)
    rng = np.random.default_rng(4)
    poles, groups = ["high", "low"] * 30, np.repeat(np.arange(30), 2)
    high = np.array([p == "high" for p in poles])
    easy = np.where(high, rng.normal(1.2, 1, 60), 0)
    harder = np.where(high & (rng.random(60) < 0.3), easy - 1.0, easy)
    two = PersonaVector(np.ones((2, 1), np.float32), np.ones(2, np.float32), {})
    found = assess(acts(np.stack([harder, easy], axis=1), poles, groups), two, permutations=1, seed=3)
    worse, best = found.layers
    draws = []
    for row in bootstrap_weights(30, 200, 4):
        chosen = np.concatenate([np.repeat(np.flatnonzero(k == groups), int(w)) for k, w in enumerate(row)])
        draws.append(float(auc(easy[chosen], high[chosen]) - auc(harder[chosen], high[chosen])))
    assert found.best == best.layer
    assert best.below_best_ci == (0.0, 0.0)
    assert worse.below_best_ci == pytest.approx(widened(percentile_interval(np.array(draws)), best.auc - worse.auc, 30))
    assert worse.below_best_ci[0] > 0
    assert worse.auc > best.auc_ci[0]


def test_so_few_questions_show_no_layer_to_be_worse():
    poles, groups = ["high", "low"] * 4, np.repeat(np.arange(4), 2)
    values = np.stack([np.array([0.0, 1.0] * 4), np.array([1.0, 0.0] * 4)], axis=1)
    two = PersonaVector(np.ones((2, 1), np.float32), np.ones(2, np.float32), {})
    worse = assess(acts(values, poles, groups), two, permutations=1).layers[0]
    assert (worse.auc, worse.below_best_ci[0]) == (0.0, 0.0)


def test_where_all_is_won_the_lower_end_is_the_cap_and_where_all_is_lost_the_upper_end():
    values = np.array([[9.0], [1.0]] * 4)
    poles, groups = ["high", "low"] * 4, [n // 2 for n in range(8)]
    up, down = (PersonaVector(np.full((1, 1), s, np.float32), np.ones(1, np.float32), {}) for s in (1, -1))
    cap = 0.025 ** (1 / 4)
    won, lost = (assess(acts(values, poles, groups), v, permutations=1).layers[0] for v in (up, down))
    assert (won.auc, won.auc_ci) == (1.0, (pytest.approx(cap), 1.0))
    assert (lost.auc, lost.auc_ci) == (0.0, (0.0, pytest.approx(1 - cap)))
    assert (won.variance_high, won.effect_size) == (0.0, 0.0)  # no spread to measure the gap by


def test_one_row_of_a_pole_has_no_variance():
    found = assess(acts([[1.0], [2.0], [3.0]], ["high", "low", "low"], [0, 0, 1]),
                   PersonaVector(np.ones((1, 1), np.float32), np.ones(1, np.float32), {}), permutations=1)  # fmt: skip
    assert (found.layers[0].variance_high, found.layers[0].variance_low) == (0.0, 0.5)
    found = assess(acts([[1.0], [2.0], [3.0]], ["low", "high", "high"], [0, 0, 1]),
                   PersonaVector(np.ones((1, 1), np.float32), np.ones(1, np.float32), {}), permutations=1)  # fmt: skip
    assert (found.layers[0].variance_high, found.layers[0].variance_low) == (0.5, 0.0)


@pytest.mark.parametrize(
    ("end", "said"),
    [(0.81, "excellent"), (0.8, "good"), (0.6, "good"), (0.5999, "poor"), (0.0, "poor")],
)
def test_bands_are_read_at_the_bounds_that_are_said(end, said):
    assert band(end) == said


def test_auc_within_leaves_out_questions_of_one_pole():
    scores, high = np.array([1.0, 0.0, 5.0, 9.0, 7.0, 8.0]), np.array([True, False, True, True, False, True])
    assert within_auc(scores, high, np.array([0, 0, 1, 1, 2, 2])) == 1.0
    assert within_auc(scores, high, np.arange(6)) is None


def test_the_best_layer_has_the_highest_auc_and_among_equals_the_larger_separation():
    values = np.array([[9.0, 9.0, 1.0], [1.0, 8.0, 9.0]] * 3 + [[9.5, 9.5, 1.0], [0.5, 7.0, 9.0]])
    vector = PersonaVector(np.ones((3, 1), np.float32), np.ones(3, np.float32), {})
    found = assess(acts(values, ["high", "low"] * 4, [n // 2 for n in range(8)]), vector, permutations=1)
    assert [layer.auc for layer in found.layers] == [1.0, 1.0, 0.0]
    assert found.best == 0
    swapped = Quality(found.layers[::-1], found.scores, 4, 4, 4, 1, False)
    assert swapped.best == 0


def crossed(values, poles, groups, folds, seed, high=None):
    """Each row under the vector of the other folds, one direct fit a fold."""
    index = np.unique(groups, return_inverse=True)[1]
    n_groups = index.max() + 1
    high = np.array([p == "high" for p in poles]) if high is None else high
    fold_of = np.random.default_rng(seed + 2).permutation(n_groups) % folds
    found = np.empty(len(poles))
    for fold in range(folds):
        used = [g for g in range(n_groups) if fold_of[g] != fold and len(set(high[index == g])) == 2]
        tops = np.array([values[(index == g) & high].mean(axis=0) for g in used])
        bottoms = np.array([values[(index == g) & ~high].mean(axis=0) for g in used])
        direction = (tops - bottoms).mean(axis=0)
        middle = ((tops + bottoms) / 2).mean(axis=0)
        held = fold_of[index] == fold
        found[held] = (values[held] - middle) @ direction / np.linalg.norm(direction)
    return found


@pytest.mark.parametrize("scale", [1.0, 1e-3])
@pytest.mark.parametrize("last", [["high"], ["low", "low"]])
def test_cross_fitting_is_what_it_says_in_its_scores_and_in_its_null(last, scale):
    """Six questions of two high and one low row, and one of a single pole."""
    rng = np.random.default_rng(11)
    poles, groups = ["high", "low", "high"] * 6 + last, [n // 3 for n in range(18)] + [6] * len(last)
    noise = rng.standard_normal((len(poles), 2, 5))
    values = scale * (noise + np.array([p == "high" for p in poles])[:, None, None] * 0.7)
    given = Activations(values.astype(np.float32), poles, groups)
    found = assess(given, folds=3, permutations=30, seed=5)
    high = given.high
    assert found.conditional_on_fit
    assert [layer.norm for layer in found.layers] == pytest.approx(fit(given).norms.tolist())
    null = np.empty((2, 30))
    for layer in range(2):
        x = given.values[:, layer].astype(np.float64)
        np.testing.assert_allclose(
            found.scores[:, layer], crossed(x, poles, groups, 3, 5), rtol=1e-6, atol=1e-9 * scale
        )
        for n, signs in enumerate(sign_flips(7, 30, 5)):
            flipped = np.where(signs[given.group_index] < 0, ~high, high)
            null[layer, n] = auc(crossed(x, poles, groups, 3, 5, flipped), flipped)
    for layer in found.layers:
        assert layer.auc == pytest.approx(float(auc(found.scores[:, layer.layer], high)))
        assert layer.p_value == pytest.approx(_p(null[layer.layer], layer.auc))
        assert layer.p_family == pytest.approx(_p(null.max(axis=0), layer.auc))


def test_there_are_no_more_folds_than_questions_and_five_unless_said_otherwise():
    rng = np.random.default_rng(2)
    three = Activations(rng.standard_normal((6, 1, 4)).astype(np.float32), ["high", "low"] * 3, [0, 0, 1, 1, 2, 2])
    np.testing.assert_array_equal(assess(three, permutations=5).scores, assess(three, folds=3, permutations=5).scores)
    many = Activations(rng.standard_normal((24, 1, 4)).astype(np.float32), ["high", "low"] * 12,
                       [n // 2 for n in range(24)])  # fmt: skip
    np.testing.assert_array_equal(assess(many).scores, assess(many, folds=5, seed=0).scores)
    assert assess(many).permutations == 1000
    assert not np.array_equal(assess(many).scores, assess(many, folds=6).scores)


@pytest.mark.parametrize(
    ("poles", "groups", "said"),
    [
        (["high", "neutral"], [0, 1], "assess: give rows of the poles high and low only"),
        (["high", "high"], [0, 1], "assess: 2 high and 0 low rows; both poles are needed"),
        (["low", "low"], [0, 1], "assess: 0 high and 2 low rows; both poles are needed"),
        (["high", "low"], [0, 0], "assess: all rows belong to one question; held-out quality needs at least two"),
        (["high", "low"], [0, 1], "assess: too few questions with both poles for cross-fitting; give a vector instead"),
    ],
)
def test_what_cannot_be_assessed_is_said(poles, groups, said):
    with pytest.raises(UserError) as caught:
        assess(acts([[1.0], [2.0]], poles, groups))
    assert str(caught.value) == said


def test_nothing_at_all_cannot_be_assessed_either():
    with pytest.raises(UserError, match="0 high and 0 low rows"):
        assess(Activations(np.empty((0, 1, 1), np.float32), [], []))


def test_a_vector_of_another_shape_is_refused():
    with pytest.raises(IncompatibleVector):
        assess(acts(), PersonaVector(np.ones((2, 3), np.float32), np.ones(2, np.float32), {}))

"""The statistics of a screening: which rows are read in full, rates, calibration, the forecast."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_persona.analysis import screening
from llm_persona.analysis.stats import auc


@given(st.integers(0, 300), st.integers(0, 400), st.integers(0, 5))
def test_spread_takes_one_row_of_each_stretch(n, count, seed):
    places = np.flatnonzero(screening.spread(n, count, seed))
    k = min(n, count)
    assert len(places) == k
    for number, place in enumerate(places):
        assert number * n // k <= place < (number + 1) * n // k


def test_spread_meets_both_kinds_of_a_file_whose_kinds_alternate():
    assert 0.3 < (np.flatnonzero(screening.spread(10_000, 500)) % 2).mean() < 0.7


SCORED = st.lists(st.tuples(st.integers(-20, 20), st.booleans()), min_size=1, max_size=350)


@given(SCORED)
def test_the_true_positive_rate_is_the_best_that_one_percent_allows(pairs):
    scores, positive = np.array([s for s, _ in pairs], dtype=float), np.array([p for _, p in pairs])
    found = screening.true_positive_rate(scores, positive)
    if positive.all() or not positive.any():
        assert np.isnan(found)
        return
    bars = [-np.inf, *scores]
    allowed = [b for b in bars if (scores[~positive] > b).sum() * 100 <= (~positive).sum()]
    assert found == max((scores[positive] > b).mean() for b in allowed)


def test_the_true_positive_rate_by_hand():
    negatives, positives = np.arange(200.0), np.array([150.0, 197.5, 198.5, 300.0])
    scores, positive = np.r_[negatives, positives], np.r_[np.zeros(200, bool), np.ones(4, bool)]
    found = screening.separation(scores, positive, np.arange(204))
    assert found["false_positives"] == 2  # 198 and 199 may lie above the bar of 197
    assert found["tpr_at_1_fpr"] == 0.75
    assert found["auc"] == pytest.approx(float(auc(scores, positive)))
    assert found["auc_ci"][0] < found["auc"] < found["auc_ci"][1]
    assert (found["n_positive"], found["n_negative"]) == (4, 200)


def test_one_class_alone_gives_no_number():
    found = screening.separation(np.arange(5.0), np.ones(5, bool), np.arange(5))
    assert (found["auc"], found["tpr_at_1_fpr"], found["auc_ci"]) == (None, None, [None, None])


@given(st.floats(-5, 5), st.floats(-5, 5), st.integers(0, 100))
def test_calibration_finds_a_line(slope, intercept, seed):
    cheap = np.random.default_rng(seed).normal(size=30)
    full = np.where(np.arange(30) < 20, intercept + slope * cheap, np.nan)
    found = screening.calibrate(full, cheap)
    assert found.n == 20
    np.testing.assert_allclose(found.full(cheap), intercept + slope * cheap, atol=1e-9)
    assert screening.calibrate(full[15:], cheap[15:]) is None
    assert screening.calibrate(full, np.zeros(30)) is None


def test_the_forecast_names_a_direction_only_where_the_interval_excludes_zero():
    noise = np.random.default_rng(0).normal(size=200)
    groups = np.arange(200)
    for shift, direction, words in ((2.0, "up", "above"), (-2.0, "down", "below"), (0.0, None, "no clear forecast")):
        values = np.r_[noise - noise.mean() + shift, np.nan]
        found = screening.forecast(values, np.r_[groups, 200], 4.0, "openness")
        assert (found["direction"], found["n"]) == (direction, 200)
        assert words in found["sentence"]
        assert found["pole_gaps"] == pytest.approx(shift / 4)
        assert found["mean_ci"][0] < found["mean"] < found["mean_ci"][1]
    one = screening.forecast(np.array([3.0, 3.0]), np.array([0, 0]), 4.0, "openness")
    assert (one["direction"], one["mean_ci"]) == (None, [None, None])


def test_rows_of_one_prompt_are_drawn_together():
    values = np.repeat(np.random.default_rng(0).normal(size=20), 50)
    own, alone = (screening.forecast(values, g, 1.0, "x")["mean_ci"] for g in (np.repeat(np.arange(20), 50),
                                                                             np.arange(1000)))  # fmt: skip
    assert own[1] - own[0] > 4 * (alone[1] - alone[0])

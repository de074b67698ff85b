"""What is asked of a judge, held against numbers worked out by hand or by brute force."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import rankdata, spearmanr

from llm_persona.analysis import judge_checks
from llm_persona.analysis.activations import Activations
from llm_persona.analysis.judge_checks import differences, length_correlation, pole_auc
from llm_persona.analysis.quality import assess
from llm_persona.analysis.stats import bootstrap_weights, mean_estimate, percentile_interval, widened
from llm_persona.analysis.vectors import PersonaVector


def test_the_judge_s_auc_is_that_of_a_vector_of_width_one():
    poles, groups = ["high", "low", "high", "low", "low", "high", "low"], ["b", "b", "a", "a", "a", "c", "c"]
    scores = np.array([3, 1, 2, 2, 0, 5, 6], np.float32)
    one = PersonaVector(np.ones((1, 1), np.float32), np.ones(1, np.float32), {})
    found = assess(Activations(scores[:, None, None], poles, groups), one, permutations=1).layers[0]
    assert pole_auc(scores, poles, groups) == {"value": found.auc, "ci": list(found.auc_ci), "n": 7, "n_items": 3}
    nothing = {"value": None, "ci": None, "n": 2, "n_items": 1}
    assert pole_auc([1, 2], ["high", "low"], ["a", "a"]) == nothing
    assert pole_auc([1, 2], ["low", "low"], ["a", "b"]) == {**nothing, "n_items": 2}
    assert pole_auc([2, 1], ["high", "low"], ["a", "b"])["value"] == 1.0  # two items are enough


def test_differences_of_two_readings_are_told_with_interval_spread_and_correlation():
    a, b = [10, 20, 30, 70], [12, 20, 26, 65]
    found = differences(a, b)
    estimate = mean_estimate(np.array([2.0, 0, 4, 5]))
    assert (found["value"], found["n"]) == (2.75, 4)
    assert found["ci"] == [max(0, estimate.low), estimate.high]
    assert found["sd"] == pytest.approx(np.std([-2, 0, 4, 5], ddof=1))
    assert found["correlation"] == pytest.approx(np.corrcoef(a, b)[0, 1])
    assert differences([], []) == {"value": None, "ci": None, "sd": None, "correlation": None, "n": 0}
    assert differences([3], [5]) == {"value": 2, "ci": None, "sd": None, "correlation": None, "n": 1}
    two = differences([3, 9], [5, 5])
    assert (two["sd"], two["correlation"]) == (pytest.approx(np.std([-2, 4], ddof=1)), None)
    assert differences([3, 9, 4], [5, 5, 5])["correlation"] is None
    assert differences([5, 5, 5], [3, 9, 4])["correlation"] is None
    assert differences([3, 9], [5, 6])["correlation"] is None  # two points always lie on a line
    assert differences([1, 2, 3], [1, 2, 1.5])["correlation"] == pytest.approx(0.5)
    assert differences([0, 0, 0, 50], [0, 0, 0, 0])["ci"][0] == 0.0  # no difference is below none


def test_the_length_correlation_is_over_ranks_within_pole_and_its_interval_over_items(monkeypatch):
    monkeypatch.setattr(judge_checks, "DRAWS", 100)
    rng = np.random.default_rng(8)
    poles, groups = np.array(["high", "low"] * 6), np.array([str(n // 2) for n in range(12)])
    scores, lengths = rng.integers(0, 9, 12).astype(float), rng.integers(0, 9, 12).astype(float)

    def within(chosen):
        x, y = [], []
        for pole in ("high", "low"):
            inside = chosen[poles[chosen] == pole]
            for sink, values in ((x, scores), (y, lengths)):
                ranks = rankdata(values[inside])
                sink.append(ranks - ranks.mean())
        return np.corrcoef(np.concatenate(x), np.concatenate(y))[0, 1]

    found = length_correlation(scores, lengths, poles, groups)
    assert (found["n"], found["n_items"]) == (12, 6)
    assert found["value"] == pytest.approx(within(np.arange(12)))
    draws = []
    for row in bootstrap_weights(6, 100, 0):
        chosen = np.concatenate([np.repeat([2 * k, 2 * k + 1], int(w)) for k, w in enumerate(row)])
        with np.errstate(invalid="ignore", divide="ignore"):
            draws.append(within(chosen))
    low, high = widened(percentile_interval(np.array(draws)), found["value"], 6)
    assert found["ci"] == pytest.approx([max(-1, low), min(1, high)])


def test_the_length_correlation_stays_within_its_bounds_and_needs_two_items(monkeypatch):
    monkeypatch.setattr(judge_checks, "DRAWS", 100)
    rows = ["high"] * 6, [str(n) for n in range(6)]
    up = length_correlation([1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6], *rows)
    down = length_correlation([6, 5, 4, 3, 2, 1], [1, 2, 3, 4, 5, 6], *rows)
    assert (up["value"], up["ci"][1]) == (pytest.approx(1), pytest.approx(1))
    assert up["ci"][1] <= 1
    assert (down["value"], down["ci"][0]) == (pytest.approx(-1), pytest.approx(-1))
    nearly = length_correlation([6, 5, 4, 3, 1, 2], [1, 2, 3, 4, 5, 6], *rows)
    assert nearly["ci"][0] == -1.0 < nearly["value"]
    assert length_correlation([1, 2], [1, 2], ["high"] * 2, ["a", "b"])["value"] == pytest.approx(1)
    assert length_correlation([5, 5], [1, 2], ["high"] * 2, ["a", "b"])["value"] == 0  # it follows nothing
    one = length_correlation([1, 2, 3], [1, 3, 2], ["high"] * 3, ["a"] * 3)
    assert one["value"] == pytest.approx(spearmanr([1, 2, 3], [1, 3, 2]).statistic)
    assert (one["ci"], one["n"], one["n_items"]) == (None, 3, 1)
    two = length_correlation([1, 2, 3, 4], [1, 3, 2, 4], ["high"] * 4, ["a", "a", "b", "b"])
    assert two["ci"] is not None
    nothing = length_correlation([], [], [], [])
    assert (nothing["value"], nothing["ci"], nothing["n"], nothing["n_items"]) == (None, None, 0, 0)

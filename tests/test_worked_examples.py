"""Numbers by hand: small cases whose every figure can be worked out on paper, edges and boundaries among them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from llm_persona.analysis.dose import at_equal_cost, composite, dose_response, usable_range
from llm_persona.analysis.paired import paired_shift
from llm_persona.analysis.shift import Moved, author_and_reader, spread, verdict
from llm_persona.analysis.stats import holm, mean_estimate, paired_p_value, proportion_estimate, sign_flips
from llm_persona.analysis.trait_scoring import classify, letter_row, summarise
from llm_persona.domain.errors import UserError
from llm_persona.domain.items import OPTIONS, TEXT_LIMIT, parse_item

GOOD = {
    "situation": "It rains.", "query": "What now?", "response_high1": "Go out.", "response_high2": "Dance.",
    "response_low1": "Stay in.", "response_low2": "Read.",
}  # fmt: skip


def options(*values):
    return dict(zip(OPTIONS, values, strict=True))


def test_a_bent_dose_response_by_hand():
    found = dose_response([-1, 0, 1, 2], [[0.0, 0.2], [0.1, 0.3], [0.1, 0.3], [0.4, 0.6]])
    means = np.array([10.0, 20.0, 20.0, 50.0])
    line = 25 + 12 * (np.array([-1, 0, 1, 2]) - 0.5)
    assert found["slope"] == pytest.approx(12)
    assert found["r2"] == pytest.approx(1 - ((means - line) ** 2).sum() / ((means - 25) ** 2).sum())
    assert found["departure"] == pytest.approx(math.sqrt(((means - line) ** 2).mean()) / 40)
    assert found["curvature"] == pytest.approx(np.polyfit([-1, 0, 1, 2], means, 2)[0])
    assert (found["slope_below"], found["slope_above"]) == (pytest.approx(10), pytest.approx(15))
    assert found["spearman"] == pytest.approx(scipy_stats.spearmanr([-1, 0, 1, 2], means).statistic)
    assert found["monotone"] == pytest.approx(2 / 3)  # a step of nothing does not rise
    assert (found["wrong_way"], found["n_items"]) == (0.0, 2)
    assert found["slope_ci"] == pytest.approx([12, 12])  # both items move alike, so resampling them changes nothing


def test_items_that_move_against_the_dose_are_counted_and_those_that_stay_are_not():
    found = dose_response([-1, 0, 1], [[0.5, 0.5, 0.501], [0.4, 0.5, 0.5], [0.6, 0.5, 0.495]])
    assert found["wrong_way"] == pytest.approx(1 / 3)
    low, high = found["slope_ci"]
    assert low < found["slope"] < high


def test_three_doses_are_enough_and_one_item_has_no_interval():
    found = dose_response([-1, 0, 1], [[0.0], [0.1], [0.2]])
    assert (found["slope"], found["slope_ci"]) == (pytest.approx(10), [None, None])
    two = dose_response([-1, 0, 1], [[0.0, 0.2], [0.1, 0.1], [0.2, 0.3]])
    assert None not in two["slope_ci"]


@pytest.mark.parametrize(("doses", "rows"), [([0, 1], [[0.1], [0.2]]), ([2, 2, 2], [[0.1]] * 3), ([0, 1, 2], [[]] * 3)])
def test_too_little_gives_no_number(doses, rows):
    found = dose_response(doses, rows)
    assert (found["slope"], found["r2"], found["monotone"]) == (None, None, None)
    assert found["n_items"] == len(rows[0])


def test_a_flat_response_has_no_correlation_and_no_departure():
    found = dose_response([-1, 0, 1], [[0.5, 0.5]] * 3)
    assert (found["r2"], found["spearman"], found["departure"], found["monotone"]) == (None, None, 0.0, 0.0)
    small = dose_response([-1, 0, 1], [[0.500], [0.5001], [0.5002]])
    assert (small["r2"], small["monotone"]) == (pytest.approx(1), 1.0)
    assert small["departure"] == pytest.approx(0, abs=1e-9)


def test_one_side_of_the_base_with_two_doses_has_no_slope_where_it_has_but_one():
    found = dose_response([0, 1, 2], [[0.1, 0.3], [0.2, 0.4], [0.3, 0.5]])
    assert (found["slope_below"], found["slope_below_ci"]) == (None, [None, None])
    assert found["slope_above"] == pytest.approx(10)
    assert found["curvature"] == pytest.approx(
        0, abs=1e-9
    )  # what comes after the missing slope is measured all the same


def test_the_composite_by_hand():
    assert composite(0.2, 0.4, 1.3, 1.0) == pytest.approx(0.5)  # half of the room, half of the allowed cost
    assert composite(0.1, 0.4, 1.0, 0.8) == pytest.approx(2 * 0.25 / 1.25)  # .8 of the variety is still usable
    assert composite(0.2, 0.4, 1.0, 0.79) == 0.0
    assert composite(0.0, 0.4, 1.6, 1.0) == 0.0
    for missing in [(None, 0.4, 1.0, 1.0), (0.2, 0.4, None, 1.0), (0.2, 0.4, 1.0, None), (0.2, 0.0, 1.0, 1.0)]:
        assert composite(*missing) is None


def test_equal_cost_by_hand():
    points = [(-0.4, -8.0, 1.5), (0.0, 0.0, 1.0), (-0.2, -6.0, 1.1)]  # in any order
    assert at_equal_cost(points, 1.3) == {"dose": pytest.approx(-0.3), "effect": pytest.approx(-7.0)}
    assert at_equal_cost(points, 1.0) == {"dose": 0.0, "effect": 0.0}
    assert at_equal_cost(points, 1.5) == {"dose": pytest.approx(-0.4), "effect": pytest.approx(-8.0)}
    assert at_equal_cost(points, 1.6) is None
    assert at_equal_cost([(0.0, 0.0, 1.0), (0.1, 3.0, 1.0)], 1.0) == {"dose": 0.0, "effect": 0.0}


def test_the_usable_range_by_hand():
    base = {"neutral_perplexity": 10.0, "distinct_2": 0.5}

    def point(dose, cost, variety):
        return {"dose": dose, "neutral_perplexity": cost, "distinct_2": variety}

    at_the_bound = [point(0.1, 16.0, 0.5), point(0.2, 16.1, 0.5), point(-0.1, 10.0, 0.4), point(-0.2, 10.0, 0.39)]
    assert usable_range(at_the_bound, base) == [-0.1, 0.1]
    assert usable_range([point(0.1, None, 0.5), point(-0.1, 10.0, None)], base) == [0.0, 0.0]
    assert usable_range([point(0.0, 99.0, 0.0), point(0.1, 10.0, 0.5)], base) == [0.0, 0.1]


def test_a_paired_shift_by_hand():
    def row(name, preference, high):
        return {"id": name, "preference": preference, "high": high}

    before = [row("a", 0.2, False), row("b", 0.4, True), row("c", 0.5, False), {"id": "d", "unscored": "tie"}]
    after = [row("a", 0.6, True), row("b", 0.5, True), row("c", 0.6, True), row("d", 0.9, True), row("e", 0.9, True)]
    found = paired_shift(after, before)
    assert (found["n"], found["n_unpaired"]) == (3, 2)
    assert found["score_shift"] == pytest.approx(200 / 3)
    assert found["score_shift_ci"] == mean_estimate(np.array([100.0, 0.0, 100.0])).ci
    assert found["preference_shift"] == pytest.approx(0.2)
    assert found["preference_shift_ci"] == pytest.approx(mean_estimate(np.array([0.4, 0.1, 0.1])).ci)
    assert found["p_value"] == pytest.approx(0.25)  # two of the eight sign patterns
    assert found["score_p_value"] == pytest.approx(0.5)  # four of them: one item did not change
    nothing = paired_shift([{"id": "z", "unscored": "tie"}], before)
    assert {k: v for k, v in nothing.items() if not k.startswith("n")} == {
        "score_shift": None, "score_shift_ci": [None, None], "preference_shift": None,
        "preference_shift_ci": [None, None], "p_value": None, "score_p_value": None,
    }  # fmt: skip


def test_the_sign_flip_p_value_of_many_pairs_is_that_of_the_drawn_flips():
    differences = np.random.default_rng(5).normal(0.3, 1.0, 20)
    drawn = np.abs(sign_flips(20, 500, 7) @ differences / 20)
    expected = (1 + int((drawn >= abs(differences.mean())).sum())) / 501
    assert paired_p_value(differences, 500, 7) == pytest.approx(expected)
    ones = np.ones(14)  # the first number of pairs that is drawn and not enumerated
    reached = int((np.abs(sign_flips(14, 2000, 0).mean(axis=1)) >= 1).sum())
    assert paired_p_value(ones, 2000, 0) == pytest.approx((1 + reached) / 2001)
    assert paired_p_value(np.ones(13)) == 2 / 2**13
    assert paired_p_value(np.ones(4) * 1e-9) == 2 / 2**4
    assert paired_p_value([]) == 1.0
    assert paired_p_value([1, 1, 1]) == 0.25  # whole numbers too


def test_a_share_has_wilson_s_interval_and_nothing_has_none():
    found = proportion_estimate(3, 10)
    z, p, n = scipy_stats.norm.ppf(0.975), 0.3, 10
    centre, half = (p + z * z / 20) / (1 + z * z / 10), z * math.sqrt(p * (1 - p) / n + z * z / 400) / (1 + z * z / 10)
    assert found.ci == pytest.approx([100 * (centre - half), 100 * (centre + half)])
    assert (found.value, found.n) == (30.0, 10)
    none = proportion_estimate(0, 0)
    assert math.isnan(none.value)
    assert (none.ci, none.n) == ([None, None], 0)
    assert holm([1, 1]) == [1.0, 1.0]


def test_what_a_summary_says_by_hand():
    rows = [
        {"id": "a", "high": True, "preference": 0.8, "option_mass": 0.5, "consistent": True},
        {"id": "b", "high": False, "preference": 0.4, "option_mass": 0.7, "consistent": False},
        {"id": "c", "unscored": "tie", "option_mass": None, "consistent": False},
        {"id": "d", "unscored": "tie"},
    ]
    found = summarise(rows)
    assert (found["n"], found["n_unscored"], found["unscored"]) == (4, 2, {"tie": 2})
    assert (found["score"], found["score_ci"]) == (50.0, proportion_estimate(1, 2).ci)
    assert found["preference"] == pytest.approx(0.6)
    assert found["preference_ci"] == mean_estimate(np.array([0.8, 0.4])).ci
    assert found["option_mass"] == pytest.approx(0.6)
    assert found["order_consistency"] == pytest.approx(1 / 3)
    assert found["headroom"] is True
    empty = summarise([{"id": "a", "unscored": "tie"}])
    assert (empty["score"], empty["score_ci"], empty["preference"], empty["preference_ci"]) == (
        None, [None, None], None, [None, None]
    )  # fmt: skip
    assert (empty["option_mass"], empty["order_consistency"], empty["headroom"]) == (None, None, None)


@pytest.mark.parametrize(("hits", "headroom"), [(0, False), (1, True), (9, True), (10, False)])
def test_headroom_ends_beyond_10_and_90_percent(hits, headroom):
    assert summarise([{"id": str(n), "high": n < hits} for n in range(10)])["headroom"] is headroom
    fine = [{"id": str(n), "high": n < 10 * hits + 5} for n in range(100)]
    assert summarise(fine)["headroom"] is (hits in (1,) or 10 <= 10 * hits + 5 <= 90)


def test_the_largest_option_decides_and_the_high_ones_are_summed():
    found = classify(options(0.5, 0.2, 0.2, 0.1))
    assert found == {"preference": pytest.approx(0.7), "high": True}
    assert classify(options(0.3, 0.4, 0.2, 0.1)) == {"preference": pytest.approx(0.5), "high": False}
    tied = classify(options(0.4, 0.4, 0.1, 0.1))
    assert tied["preference"] == pytest.approx(0.5)
    assert "tie" in tied["unscored"]


def test_a_letter_row_by_hand():
    forward, backward = options(0.4, 0.2, 0.1, 0.1), options(0.1, 0.24, 0.03, 0.03)
    row = letter_row("q", forward, backward)
    assert (row["id"], row["forward"], row["reversed"]) == ("q", forward, backward)
    assert row["option_mass"] == pytest.approx(0.6)
    assert row["preference"] == pytest.approx((0.5 / 0.8 + 0.13 / 0.4) / 2)
    assert (row["high"], row["consistent"]) == (False, False)
    alike = letter_row("q", forward, options(0.2, 0.05, 0.1, 0.05))
    assert (alike["consistent"], alike["high"]) == (True, True)
    tied = letter_row("q", options(0.4, 0.4, 0.0, 0.0), options(0.4, 0.4, 0.0, 0.0))
    assert (tied["consistent"], "unscored" in tied) == (False, True)
    assert letter_row("q", options(0.4, 0.4, 0, 0), options(0.4, 0.4, 0, 0), upstream=True)["high"] is True
    assert letter_row("q", options(0.1, 0.4, 0, 0), options(0.1, 0.4, 0, 0), upstream=True)["high"] is False
    absent = letter_row("q", options(*[math.nan] * 4), backward)
    assert (absent["option_mass"], absent["unscored"]) == (None, "the engine gave no log-probabilities")
    assert letter_row("q", options(0, 0, 0, 0), backward)["unscored"] == "no probability on any option"


def test_the_spread_of_seeds_by_hand():
    found = spread([1, 2, 6])
    assert (found["mean"], found["n_seeds"], found["range"]) == (3.0, 3, [1.0, 6.0])
    half = scipy_stats.t.ppf(0.975, 2) * math.sqrt(7) / math.sqrt(3)
    assert found["ci"] == pytest.approx([3 - half, 3 + half])
    assert spread([1, 3]) == {"mean": 2.0, "n_seeds": 2, "range": [1.0, 3.0], "sd": pytest.approx(math.sqrt(2)),
                              "ci": [None, None]}  # fmt: skip
    assert spread([4]) == {"mean": 4.0, "n_seeds": 1, "range": [4.0, 4.0], "sd": None, "ci": [None, None]}


def test_a_verdict_at_its_bounds():
    at = [Moved(0.1, 0.05)] * 3
    assert verdict(at, [0.0]) == "no shift shown"  # p must lie below, not at
    clear = [Moved(0.1, 0.01)] * 3
    assert verdict(clear, [-0.1]) == "no more than the control"  # further, not as far
    assert verdict(clear, [-0.09]) == "shifted up"


def test_questions_that_nobody_shares_leave_no_number():
    found = author_and_reader({"a": 1.0}, {"b": 1.0}, {"a": 1.0}, {"a": 1.0})
    assert found == {"n": 0, **dict.fromkeys(("both", "author", "reader", "residual", "both_p_value")),
                     **{f"{name}_ci": [None, None] for name in ("both", "author", "reader", "residual")}}  # fmt: skip
    shared = author_and_reader({"a": 1, "b": 2}, {"a": 2, "b": 4}, {"a": 1, "b": 2}, {"a": 3, "b": 4})
    assert shared["author_ci"] == mean_estimate(np.array([1.0, 2.0])).ci
    assert shared["both_p_value"] == pytest.approx(0.5)  # both differences up: two of the four sign patterns


def test_an_item_keeps_everything_that_its_record_says():
    record = {
        **GOOD, "idx": 7, "personality": "Openness", "facet": "f", "domain": "d", "statement": "s", "split": "select",
        "paraphrased_situation": "Rain.", "paraphrased_query": "And now?", "likelihood": {"A": 0.25, "B": 0},
        "likelihood_rev": {"A": 1},
    }  # fmt: skip
    item = parse_item(record, "here:1", "fallback")
    assert (item.id, item.trait, item.facet, item.domain, item.statement) == ("7", "Openness", "f", "d", "s")
    assert (item.split, item.paraphrased_situation, item.paraphrased_query) == ("select", "Rain.", "And now?")
    assert (item.likelihood, item.likelihood_rev) == ({"A": 0.25, "B": 0.0}, {"A": 1.0})
    assert item.paraphrased().prompt == "Rain. And now?"
    ours = parse_item({**record, "id": "own", "trait": "ours"}, "here:1", "fallback")
    assert (ours.id, ours.trait) == ("own", "ours")
    bare = parse_item(GOOD, "here:1", "fallback")
    assert (bare.id, bare.trait, bare.likelihood) == ("fallback", "", None)


@pytest.mark.parametrize(
    ("change", "said"),
    [({"query": 3}, "field 'query' is not a non-empty text"), ({"query": " "}, "field 'query' is not a non-empty text"),
     ({"query": "x" * (TEXT_LIMIT + 1)}, f"has {TEXT_LIMIT + 1} characters"), ({"likelihood": [1]}, "must map"),
     ({"likelihood": {"A": True}}, "must map"), ({"likelihood": {"A": -0.1}}, "must map"),
     ({"likelihood": {"A": "0.1"}}, "must map"), ({"likelihood": {"A": 1.1}}, "must map"),
     ({"likelihood": {"A": math.nan}}, "must map"), ({"statement": "\ud800"}, "surrogate"),
     ({"situation": "half \ud83d"}, "surrogate")],
)  # fmt: skip
def test_a_faulty_field_is_named_with_its_place(change, said):
    with pytest.raises(UserError, match=r"here:1") as raised:
        parse_item({**GOOD, **change}, "here:1", "0")
    assert said in str(raised.value)
    assert next(iter(change)) in str(raised.value)
    if "query" in change and change["query"] == 3:
        assert "every item needs situation, query" in str(raised.value)


def test_texts_at_the_limit_are_read_and_other_records_are_refused_by_what_they_are():
    assert len(parse_item({**GOOD, "query": "x" * TEXT_LIMIT}, "here:1", "0").query) == TEXT_LIMIT
    with pytest.raises(UserError, match="must be an object, not list"):
        parse_item([], "here:1", "0")


def test_an_interval_of_a_mean_is_the_percentile_one_widened_by_t_and_n():
    values = np.array([1.0, 2.0, 4.0, 9.0])
    found = mean_estimate(values, draws=500, seed=3)
    drawn = np.random.default_rng(3).multinomial(4, [0.25] * 4, size=500) @ values / 4
    factor = scipy_stats.t.ppf(0.975, 3) / scipy_stats.norm.ppf(0.975) * math.sqrt(4 / 3)
    low, high = np.percentile(drawn, [2.5, 97.5])
    assert (found.value, found.n) == (4.0, 4)
    assert found.ci == pytest.approx([4 + (low - 4) * factor, 4 + (high - 4) * factor])
    assert mean_estimate(values) == mean_estimate(values, 2000, 0)
    one, none, two = mean_estimate([3]), mean_estimate([]), mean_estimate([1, 2])
    assert (one.value, one.ci, one.n) == (3.0, [None, None], 1)
    assert (math.isnan(none.value), none.ci, none.n) == (True, [None, None], 0)
    assert None not in two.ci
    assert set(np.unique(sign_flips(5, 200, 0))) == {-1.0, 1.0}


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def test_the_first_crossing_of_a_cost_counts_and_the_whole_range_decides_the_way():
    points = [(-0.4, -8.0, 1.2), (-0.2, -6.0, 1.4), (0.0, 0.0, 1.0)]
    assert at_equal_cost(points, 1.3)["dose"] == pytest.approx(-0.15)
    found = dose_response([-1, 0, 1], [[0.5], [0.1], [0.4]])
    assert found["wrong_way"] == 1.0  # up from the base, but down from the lowest dose


def test_the_split_of_an_item_without_one_never_changes():
    """Numbers of a file rest on it: another digest or share would move items from one side to the other."""
    found = [parse_item({**GOOD, "query": f"What now, {n}?"}, "here", "0").split for n in range(8)]
    assert found == ["fit", "select", "fit", "test", "fit", "fit", "select", "fit"]
    assert parse_item({**GOOD, "likelihood": {"A": 1.0005}}, "here", "0").likelihood == {"A": 1.0005}
    with pytest.raises(UserError, match="field 'situation' is missing"):
        parse_item({}, "here", "0")

"""A verdict of the results page follows from intervals by a printed rule."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

from claims import above, aimed, below, every, geometry_claims, random_share, third_party_claims


@pytest.mark.parametrize(
    ("intervals", "verdict", "count"),
    [
        ([(0.85, 0.95), (0.81, 0.99)], "confirmed", "shown for 2 of 2"),
        ([(0.85, 0.95), (0.75, 0.99)], "open", "shown for 1 of 2"),
        ([(0.85, 0.95), (0.60, 0.79)], "refuted", "shown for 1 of 2, the contrary for 1"),
        ([(0.75, 0.95), (None, None)], "open", "shown for 0 of 2"),
        ([], "open", "shown for 0 of 0"),
    ],
)
def test_a_claim_about_every_trait_needs_every_interval_and_falls_with_one_contrary(intervals, verdict, count):
    assert every("claim", [above(ci, 0.8) for ci in intervals], "figure") == ["claim", verdict, f"{count}; figure"]
    mirrored = [(None, None) if None in ci else (-ci[1], -ci[0]) for ci in intervals]
    assert every("claim", [below(ci, -0.8) for ci in mirrored], "")[1:] == [verdict, count]


@pytest.mark.parametrize(
    ("value", "ci", "verdict"),
    [(0.96, (0.93, 0.98), "confirmed"), (0.94, (0.91, 0.97), "open"), (0.92, (0.90, 0.94), "refuted"),
     (None, (None, None), "open"), (0.94, (None, None), "open")],
)  # fmt: skip
def test_a_figure_that_was_aimed_at_is_missed_only_where_its_interval_says_so(value, ci, verdict):
    assert aimed(value, ci, 0.95) == verdict


def transfer(**changed):
    ends = {"doses": [-0.2, 0.2], "score_shift": 40.0, "score_shift_ci": [30.0, 50.0]}
    found = {"n": 125, "layer": 12, "auc": 0.96, "auc_ci": [0.94, 0.98], "p_family": 0.001, "auc_within": 0.97,
             "lexical_auc": 0.8, "lexical_auc_ci": [0.77, 0.83], "ends": ends,
             "random": [1.0, -2.0, 0.5, -1.5, 2.0]}  # fmt: skip
    return found | changed


@pytest.mark.parametrize(
    ("changed", "verdicts"),
    [
        ({}, ["confirmed", "confirmed", "confirmed"]),
        ({"p_family": 0.02}, ["refuted", "confirmed", "confirmed"]),
        ({"auc": 0.94}, ["open", "confirmed", "confirmed"]),
        ({"random": [20.0, -21.0, 19.0]}, ["confirmed", "confirmed", "refuted"]),
        ({"random": [9.0, -12.0, 10.0]}, ["confirmed", "confirmed", "open"]),
    ],
)
def test_third_party_items_are_held_against_what_was_aimed_at(changed, verdicts):
    rows = third_party_claims(transfer(**changed))
    assert [row[1] for row in rows] == verdicts
    assert "layer 12: 0.9" in rows[0][2]
    assert "family-wise p 0.0" in rows[0][2]
    assert "bag of words 0.800 [0.770, 0.830]" in rows[0][2]


def results(excess, spill):
    measured = {str(n): {"excess": e, "excess_ci": ci, "p_value": p} for n, (e, ci, p) in enumerate(excess)}
    shared = {str(n): {"ratio_difference": sum(ci) / 2, "ratio_difference_ci": ci} for n, ci in enumerate(spill)}
    return {"arithmetic": {"pairs": [{"measured": measured}], "shared": shared}}


def test_effects_add_up_only_where_their_intervals_are_narrow_and_none_is_clear_of_zero():
    near, wide, off = (0.1, [-0.5, 0.7], 0.6), (0.1, [-5.0, 5.2], 0.9), (0.5, [0.3, 0.7], 0.001)
    barely = (0.3, [0.01, 0.6], 0.04)
    verdicts = [geometry_claims(results(pairs, []))[0][1] for pairs in
                ([near, near], [near, wide], [near, off], [near, barely])]  # fmt: skip
    assert verdicts == ["confirmed", "open", "refuted", "confirmed"]  # .04 of two tests is .08 after Holm


def test_what_is_shared_blurs_vectors_only_where_the_paired_difference_says_so():
    verdicts = [geometry_claims(results([], spill))[1][1] for spill in
                ([[-0.3, -0.1], [-0.2, -0.05]], [[-0.3, -0.1], [-0.2, 0.05]], [[-0.3, -0.1], [0.05, 0.2]])]  # fmt: skip
    assert verdicts == ["confirmed", "open", "refuted"]


def test_random_movement_is_a_share_of_what_the_vector_does_at_the_same_dose():
    steering = [{"dose": d, "shift": {"preference_shift": d}} for d in (-0.2, 0.2, 0.4)]
    trait = {"controls": {"dose": 0.2, "random": [{"preference_shift": x} for x in (0.01, -0.03, 0.02)]},
             "steering": steering}  # fmt: skip
    value, low, high = random_share(trait)
    assert value == pytest.approx(0.1)
    assert low < 0.1 < high
    trait["controls"]["random"] = []
    assert random_share(trait) == [None, None, None]

"""TRAIT scoring of letters: ours leaves doubt unscored, upstream's counts it as high."""

from __future__ import annotations

import pytest

from llm_persona.analysis.trait_scoring import letter_row, rescore, summarise
from llm_persona.domain.errors import UserError
from llm_persona.domain.item_sources import load_items
from llm_persona.domain.items import OPTIONS
from llm_persona.domain.templates import load_template

EVEN = dict.fromkeys(OPTIONS, 0.25)
NONE = dict.fromkeys(OPTIONS, 0.0)
HIGH = {**dict.fromkeys(OPTIONS, 0.1), "response_high2": 0.6}
LOW = {**dict.fromkeys(OPTIONS, 0.1), "response_low1": 0.6}


@pytest.mark.parametrize(("forward", "backward"), [(EVEN, EVEN), (NONE, HIGH), (NONE, NONE)])
def test_ties_and_zero_mass_are_unscored_by_us_and_high_upstream(forward, backward):
    assert "unscored" in letter_row("x", forward, backward, upstream=False)
    assert letter_row("x", forward, backward, upstream=True)["high"] is True


def test_each_order_counts_alike_whatever_its_mass():
    faint = {name: share / 1000 for name, share in LOW.items()}
    row = letter_row("x", HIGH, faint, upstream=False)
    assert row["preference"] == pytest.approx((0.7 / 0.9 + 0.2 / 0.9) / 2)
    assert row["consistent"] is False


def test_the_summary_counts_what_was_not_scored():
    rows = [letter_row("a", HIGH, HIGH, False), letter_row("b", EVEN, EVEN, False), letter_row("c", LOW, LOW, False)]
    found = summarise(rows)
    assert (found["n"], found["n_unscored"], found["score"]) == (3, 1, 50.0)
    assert found["unscored"] == {"tie between a high and a low option": 1}


def test_recorded_likelihoods_of_the_third_party_file_rescore_as_published(trait_file):
    found = rescore(load_items(path=trait_file)).summary
    assert found["score"] == pytest.approx(63.2)
    assert found["n"] == 125


def test_a_template_needs_its_fields(tmp_path):
    path = tmp_path / "t.txt"
    path.write_text("{situation} {query} {option1} {option2} {option3}", encoding="utf-8")
    with pytest.raises(UserError, match=r"\{option4\} is missing"):
        load_template(str(path))


def test_braces_in_an_item_are_left_alone():
    filled = load_template("1").fill("a {query} b", "why {x}?", ["{0}", "{}", "{option1}", "d"])
    assert "a {query} b" in filled
    assert "{option1}" in filled

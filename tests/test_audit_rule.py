"""The rule of a verdict, and the arithmetic under it: author and reader told apart, seeds, agreement."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_persona.analysis.agreement import matrix_agreement
from llm_persona.analysis.shift import Moved, author_and_reader, spread, verdict

numbers = st.floats(-50, 50, allow_nan=False)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(numbers, numbers, numbers), min_size=2, max_size=12))
def test_where_writing_and_reading_add_up_nothing_is_left_over(rows):
    """With y[reader][author] = start + author + reader the residual is zero and the parts are what was put in."""
    start = {str(n): a for n, (a, _, _) in enumerate(rows)}
    written = {str(n): a + b for n, (a, b, _) in enumerate(rows)}
    read = {str(n): a + c for n, (a, _, c) in enumerate(rows)}
    own = {str(n): a + b + c for n, (a, b, c) in enumerate(rows)}
    found = author_and_reader(start, written, read, own)
    assert found["author"] == pytest.approx(np.mean([b for _, b, _ in rows]), abs=1e-9)
    assert found["reader"] == pytest.approx(np.mean([c for _, _, c in rows]), abs=1e-9)
    assert found["residual"] == pytest.approx(0, abs=1e-9)
    assert found["both"] == pytest.approx(found["author"] + found["reader"], abs=1e-9)


def test_questions_that_one_of_the_four_lacks_are_left_out():
    found = author_and_reader({"a": 0.0, "b": 5.0}, {"a": 1.0}, {"a": 0.0, "b": 0.0}, {"a": 1.0, "b": 9.0})
    assert (found["n"], found["author"]) == (1, 1.0)


CLEAR, UNCLEAR = 0.001, 0.4


@pytest.mark.parametrize(
    ("seeds", "control", "said"),
    [
        ([(0.2, CLEAR)] * 3, [0.01, -0.02], "shifted up"),
        ([(-0.2, CLEAR)] * 3, [0.01], "shifted down"),
        ([(0.2, CLEAR)] * 3, [0.01, -0.25], "no more than the control"),
        ([(0.2, CLEAR), (0.2, CLEAR), (0.05, CLEAR)], [0.06], "no more than the control"),
        ([(0.2, CLEAR)] * 3, None, "indicative: up"),
        ([(-0.2, CLEAR)], [0.01], "indicative: down"),
        ([(0.2, CLEAR), (-0.2, CLEAR), (0.2, CLEAR)], [0.01], "seeds disagree"),
        ([(0.2, CLEAR), (0.1, UNCLEAR), (0.2, CLEAR)], [0.01], "seeds disagree"),
        ([(0.2, UNCLEAR)] * 3, [0.01], "no shift shown"),
    ],
)
def test_a_verdict_follows_the_printed_rule(seeds, control, said):
    assert verdict([Moved(shift, p) for shift, p in seeds], control) == said


def test_the_spread_of_three_seeds_has_the_t_interval_and_of_two_none():
    found = spread([1.0, 2.0, 3.0])
    assert found["mean"] == 2 and found["sd"] == pytest.approx(1)
    assert found["ci"] == pytest.approx([2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5], abs=1e-4)
    assert spread([1.0, 2.0])["ci"] == [None, None]


def test_agreement_is_the_rank_correlation_over_the_cells_that_both_have():
    a = np.arange(12.0).reshape(3, 4)
    b = a**3
    b[0, 0] = np.nan
    found = matrix_agreement(a, b)
    assert found["spearman"] == pytest.approx(1) and found["n"] == 11
    assert matrix_agreement(a, -a)["spearman"] == pytest.approx(-1)
    assert matrix_agreement(a, np.ones((3, 4)))["spearman"] is None


def test_the_interval_of_agreement_knows_that_cells_of_a_row_go_together():
    """Rows that move as one: twelve cells, but only three independent models."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((2, 6, 1))
    a, b = rows[0] + 0.05 * rng.standard_normal((6, 8)), rows[1] + 0.05 * rng.standard_normal((6, 8))
    low, high = matrix_agreement(a, b)["spearman_ci"]
    assert high - low > 0.9

"""A forward ends at the last layer asked for, and gives the numbers of a whole one."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pytest
from conftest import make_subject
from tiny_inputs import FAMILIES, ROWS, random_vector

from llm_persona.analysis.vectors import projections
from llm_persona.domain.errors import UserError
from llm_persona.instruments.projection import Projection
from llm_persona.instruments.projection_difference import ProjectionDifference
from llm_persona.instruments.token_projection import TokenProjection
from llm_persona.subject.packing import Row
from llm_persona.subject.record import POSITIONS, record
from llm_persona.subject.reuse import reusing_below
from llm_persona.subject.steer import steering
from llm_persona.subject.token_reading import read_tokens


@contextmanager
def counted(subject):
    """How often each block is computed inside."""
    calls = [0] * subject.n_layers

    def count_at(layer):
        def count(*_):
            calls[layer] += 1

        return count

    handles = [block.register_forward_pre_hook(count_at(layer)) for layer, block in enumerate(subject.blocks)]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("family", FAMILIES)
def test_some_layers_read_as_they_do_among_all_and_the_blocks_above_are_not_computed(family):
    subject = make_subject(family)
    for position in POSITIONS:
        whole = record(subject, ROWS, position).values
        with counted(subject) as calls:
            some = record(subject, ROWS, position, layers=[2, 0]).values
        np.testing.assert_array_equal(some, whole[:, [2, 0]])
        assert all(calls[:3])
        assert calls[3] == 0
        np.testing.assert_array_equal(record(subject, ROWS, position).values, whole)


def test_the_highest_layer_may_be_asked_for(tiny):
    np.testing.assert_array_equal(record(tiny, ROWS, layers=[3]).values[:, 0], record(tiny, ROWS).values[:, 3])


@pytest.mark.parametrize("layers", [[], [4], [0, -1]])
def test_layers_that_the_subject_does_not_have_are_refused(tiny, layers):
    with pytest.raises(UserError, match="layers 0 to 3"):
        record(tiny, ROWS, layers=layers)


def test_a_steering_above_the_layer_asked_for_is_still_reached(tiny):
    plain = record(tiny, ROWS).values
    with steering(tiny, random_vector(tiny), layer=2, coefficient=1.0) as count, counted(tiny) as calls:
        below = record(tiny, ROWS, layers=[1]).values
        at = record(tiny, ROWS, layers=[2]).values
    np.testing.assert_array_equal(below[:, 0], plain[:, 1])
    assert np.abs(at[:, 0] - plain[:, 2]).max() > 0.1
    assert count.tokens > 0
    assert calls[3] == 0


def test_a_forward_that_ends_early_leaves_shared_layers_usable(tiny):
    whole = record(tiny, ROWS).values
    with reusing_below(tiny, 1):
        for _ in range(2):
            np.testing.assert_allclose(record(tiny, ROWS, layers=[1]).values[:, 0], whole[:, 1], atol=1e-6)
            np.testing.assert_allclose(record(tiny, ROWS).values[:, 1:], whole[:, 1:], atol=1e-6)


def test_an_error_inside_a_block_is_not_taken_for_the_end(tiny, monkeypatch):
    def broken(*_args, **_kwargs):
        raise RuntimeError("a broken block")

    monkeypatch.setattr(tiny.blocks[0], "forward", broken)
    with pytest.raises(RuntimeError, match="a broken block"):
        record(tiny, ROWS, layers=[1])


def test_a_projection_at_one_layer_computes_no_block_above_it(tiny):
    vector = random_vector(tiny)
    expected = projections(record(tiny, ROWS).values, vector)[:, 1]
    with counted(tiny) as calls:
        found = [row["projection"] for row in Projection(ROWS, vector, 1).measure(tiny).rows]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert calls[1] > 0
    assert calls[2:] == [0, 0]


def test_screening_reads_no_block_above_its_layer(tiny):
    vector = random_vector(tiny)
    expected = projections(record(tiny, ROWS).values, vector)[:, 1]
    with counted(tiny) as calls:
        found = ProjectionDifference(vector.unit(1), 1, 4).measure(
            tiny, [Row(r.prompt, r.text) for r in ROWS], [False] * len(ROWS)
        )
    np.testing.assert_allclose([row["projection"] for row in found], expected, rtol=1e-12)
    assert calls[2:] == [0, 0]


def test_tokens_projected_at_one_layer_compute_no_block_above_it(tiny):
    vector, row = random_vector(tiny), ROWS[0]
    ids = list(range(3, 20))
    whole = read_tokens(tiny, ids, 5, [vector])
    with counted(tiny) as calls:
        np.testing.assert_array_equal(read_tokens(tiny, ids, 5, [vector], [2, 1]), whole[:, :, [2, 1]])
        tokens = TokenProjection([row], vector, 2).measure(tiny).rows[0]["tokens"]
    assert "".join(text for text, _ in tokens) == row.text
    assert calls[3] == 0

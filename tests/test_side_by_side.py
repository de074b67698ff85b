"""Two answers to one question: each is what generate writes alone, and its tokens are read as record reads them."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import make_subject

from llm_persona import load_items
from llm_persona.analysis.vectors import PersonaVector, fit, projections
from llm_persona.domain.condition import BASE, Condition, Steer
from llm_persona.domain.errors import UserError
from llm_persona.domain.responses import Response, labelled
from llm_persona.studies.quick_vector import quick_vector
from llm_persona.studies.side_by_side import find_zero, opening_of, side_by_side
from llm_persona.subject.chat import render_prompt, render_response
from llm_persona.subject.generate import generate
from llm_persona.subject.record import record
from llm_persona.subject.token_reading import read_tokens

QUESTION = "What now?"


@pytest.fixture(scope="module")
def subject():
    return make_subject()


@pytest.fixture(scope="module")
def vectors(subject):
    rng = np.random.default_rng(0)
    shape = (subject.n_layers, subject.hidden_size)
    norms = np.full(subject.n_layers, 5.0, np.float32)
    return [PersonaVector(rng.standard_normal(shape).astype(np.float32), norms) for _ in range(2)]


@pytest.fixture(scope="module")
def strong(vectors):
    return Condition("strong", steers=(Steer(vectors[0], 1, dose=3.0),))


@pytest.fixture(scope="module")
def pairs(subject, vectors, strong):
    return list(side_by_side(subject, QUESTION, strong, vectors, 10))


def test_token_readings_average_to_what_record_gives(subject, vectors):
    rendered = render_response(subject, QUESTION, "Read a book.")
    found = read_tokens(subject, rendered.ids, rendered.start, vectors)
    rows = [Response(QUESTION, "Read a book.", "high", "g")]
    for number, vector in enumerate(vectors):
        mean = projections(record(subject, rows).values, vector)[0]
        last = projections(record(subject, rows, "prompt_last").values, vector)[0]
        np.testing.assert_allclose(found[1:, number].mean(axis=0), mean, atol=2e-5)
        np.testing.assert_allclose(found[0, number], last, atol=2e-5)


def test_a_reading_under_steering_sees_exactly_what_is_added_at_that_layer(subject, vectors):
    ids = render_prompt(subject, QUESTION)
    plain = read_tokens(subject, ids, 1, vectors)
    with subject.under(Condition("x", steers=(Steer(vectors[0], 1, coefficient=2.0),))):
        moved = read_tokens(subject, ids, 1, vectors)
    np.testing.assert_allclose(moved[:, 0, 1] - plain[:, 0, 1], 2 * vectors[0].norms[1], atol=1e-4)
    np.testing.assert_array_equal(moved[:, :, 0], plain[:, :, 0])


def test_a_reading_needs_a_prompt_and_vectors_that_fit(subject):
    with pytest.raises(UserError, match="cannot begin at 0"):
        read_tokens(subject, [1, 2], 0, [])
    with pytest.raises(UserError, match="width 3"):
        read_tokens(subject, [1, 2], 1, [PersonaVector(np.ones((4, 3), np.float32), np.ones(4, np.float32))])


def test_both_answers_are_what_generate_writes_in_each_state(subject, strong, pairs):
    last = pairs[-1]
    assert last.base.text.strip() == generate(subject, [QUESTION], 10)[0].text
    with subject.under(strong):
        assert last.other.text.strip() == generate(subject, [QUESTION], 10)[0].text
    assert last.base.text != last.other.text


def test_answers_grow_one_after_the_other_and_the_openings_come_first(pairs):
    first = pairs[0]
    assert not first.base.text
    assert first.base.opening.shape == first.other.opening.shape == (2, 4)
    lengths = [(len(p.base.pieces), len(p.other.pieces)) for p in pairs]
    assert lengths == sorted(lengths)
    assert all(base == 10 for base, other in lengths if other)
    assert pairs[-1].base.finish == pairs[-1].other.finish == "length"


def test_every_token_of_both_answers_is_read_by_its_writer_and_by_the_base(subject, vectors, strong, pairs):
    last = pairs[-1]
    for written in (last.base, last.other):
        assert written.by_base.shape == written.by_itself.shape == (len(written.pieces), 2, 4)
    np.testing.assert_array_equal(last.base.by_base, last.base.by_itself)
    plain = render_prompt(subject, QUESTION)
    answer = last.other.ids[last.other.start :]
    np.testing.assert_array_equal(last.other.by_base, read_tokens(subject, [*plain, *answer], len(plain), vectors)[1:])
    assert np.abs(last.other.by_itself - last.other.by_base)[:, 0, 1].min() > 1


def test_the_gauge_reads_the_prompt_before_a_word_is_written(subject, vectors, strong, pairs):
    np.testing.assert_array_equal(pairs[0].base.opening, opening_of(subject, QUESTION, BASE, vectors))
    added = pairs[0].other.opening[0, 1] - pairs[0].base.opening[0, 1]
    assert added == pytest.approx(3.0 * 5.0, abs=1e-3)  # the dose times the layer's reference norm


def test_a_known_base_answer_is_not_written_again(subject, vectors, strong, pairs):
    again = list(side_by_side(subject, QUESTION, strong, vectors, 10, known=pairs[-1].base))
    assert again[-1].other.text == pairs[-1].other.text
    assert len(again) < len(pairs) - 9
    assert again[0].base is pairs[-1].base


def test_a_condition_that_changes_nothing_has_one_answer(subject, vectors):
    assert list(side_by_side(subject, QUESTION, BASE, vectors, 3))[-1].other is None


def test_stopping_keeps_and_reads_what_was_written(subject, vectors, strong):
    count = 0

    def halted():
        nonlocal count
        count += 1
        return count > 4

    last = list(side_by_side(subject, QUESTION, strong, vectors, 100, halted=halted))[-1]
    assert last.base.finish == "halted"
    assert len(last.base.by_base) == len(last.base.pieces) == 5
    assert not last.other.finish


def test_leaving_early_restores_the_subject(subject, vectors, strong):
    before = generate(subject, [QUESTION], 5)[0].text
    steps = side_by_side(subject, QUESTION, strong, vectors, 10)
    for pair in steps:
        if pair.other.pieces:
            break
    assert subject.steering_layers
    steps.close()
    assert not subject.steering_layers
    assert generate(subject, [QUESTION], 5)[0].text == before


def test_an_empty_question_is_refused(subject):
    with pytest.raises(UserError, match="question is empty"):
        next(side_by_side(subject, " \n", BASE))


def test_the_zero_is_the_middle_of_the_poles_and_one_is_a_pole_gap(subject):
    items = load_items("openness").split("select")[:3]
    acts = record(subject, labelled(items))
    vector = fit(acts)
    zero = find_zero(subject, labelled(items))
    placed = zero.gaps(projections(acts.values, vector)[:, None], [vector], prompt=False)[:, 0]
    np.testing.assert_allclose(placed[acts.high].mean(axis=0), 0.5, atol=1e-4)
    np.testing.assert_allclose(placed[~acts.high].mean(axis=0), -0.5, atol=1e-4)
    assert (zero.n_questions, zero.n_responses) == (3, 12)
    opened = projections(record(subject, labelled(items), "prompt_last").values[::4], vector)
    np.testing.assert_allclose(zero.gaps(opened[:, None], [vector], prompt=True).mean(axis=0)[0], 0, atol=1e-4)
    np.testing.assert_allclose(zero.spread(vector), opened.std(axis=0, ddof=1) / vector.norms, rtol=1e-4)


def test_a_vector_that_is_zero_at_a_layer_has_no_place_there(subject):
    zero = find_zero(subject, labelled(load_items("openness").split("select")[:2]))
    none = PersonaVector(np.zeros((4, 32), np.float32), np.ones(4, np.float32))
    assert np.isnan(zero.gaps(np.zeros((1, 4)), [none], prompt=True)).all()


def test_a_quick_vector_tells_its_progress_and_claims_no_effect(subject):
    steps = list(quick_vector(subject, "openness", n_fit=4, n_select=4))
    assert [done for done, _, _ in steps] == [2, 4, 6, 8]
    assert [made is None for _, _, made in steps] == [True, True, True, False]
    vector = steps[-1][2]
    assert set(vector.meta["recommended"]) == {"quality"}
    items = load_items("openness")
    assert set(vector.meta["items"]) == {*items.split("fit")[:4].ids, *items.split("select")[:4].ids}

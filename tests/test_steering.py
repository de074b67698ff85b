"""Steering tiny random models: exact in float32, adding up, restored in every case, refused where it makes no sense."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import make_subject
from tiny_inputs import FAMILIES, ROWS, random_vector

from llm_persona.analysis.vectors import PersonaVector
from llm_persona.domain.condition import Condition, Steer
from llm_persona.domain.errors import IncompatibleVector, UserError
from llm_persona.subject.generate import generate
from llm_persona.subject.packing import Row
from llm_persona.subject.record import record
from llm_persona.subject.reuse import reusing_below
from llm_persona.subject.score import response_logprobs
from llm_persona.subject.steer import steering


@pytest.mark.parametrize("family", FAMILIES)
def test_steering_meets_the_tensor_that_is_recorded(family):
    subject = make_subject(family)
    vector = random_vector(subject)
    plain = record(subject, ROWS).values
    with steering(subject, vector, layer=1, coefficient=0.5) as count:
        steered = record(subject, ROWS).values
    np.testing.assert_allclose(steered[:, 1] - plain[:, 1], 0.5 * vector.directions[1][None].repeat(4, 0), atol=1e-4)
    np.testing.assert_array_equal(steered[:, 0], plain[:, 0])
    assert count.tokens > 0
    np.testing.assert_array_equal(record(subject, ROWS).values, plain)


def test_steering_agrees_with_and_without_a_cache(tiny):
    with steering(tiny, random_vector(tiny), layer=2, coefficient=0.3):
        cached = generate(tiny, ["Hi", "Hello there"], 12)
        plain = generate(tiny, ["Hi", "Hello there"], 12, use_cache=False)
    assert [a.text for a in cached] == [a.text for a in plain]


def test_coefficient_zero_is_the_base_token_for_token(tiny):
    base = generate(tiny, ["Hi"], 12)
    with steering(tiny, random_vector(tiny), layer=2, coefficient=0.0):
        assert generate(tiny, ["Hi"], 12) == base


def test_a_context_that_touches_no_token_is_an_error(tiny):
    with (
        pytest.raises(UserError, match="touched no token"),
        steering(tiny, random_vector(tiny), layer=0, coefficient=1.0),
    ):
        pass


def test_the_subject_is_restored_when_something_fails_inside(tiny):
    before = record(tiny, ROWS).values
    condition = Condition(system="Be brief.", steers=(Steer(random_vector(tiny), 1, coefficient=2.0),))
    with pytest.raises(ZeroDivisionError), tiny.under(condition):
        record(tiny, ROWS)
        raise ZeroDivisionError
    assert tiny.system is None
    assert tiny.steering_layers == []
    np.testing.assert_array_equal(record(tiny, ROWS).values, before)


def test_nested_steering_adds_up(tiny):
    a, b = random_vector(tiny, 1), random_vector(tiny, 2)
    plain = record(tiny, ROWS).values
    with steering(tiny, a, layer=1, coefficient=0.5), steering(tiny, b, layer=1, coefficient=-0.25):
        both = record(tiny, ROWS).values
    expected = 0.5 * a.directions[1] - 0.25 * b.directions[1]
    np.testing.assert_allclose(both[:, 1] - plain[:, 1], np.tile(expected, (4, 1)), atol=1e-4)


@pytest.mark.parametrize(("shape", "message"), [((4, 16), "width 16"), ((3, 32), "3 layers")])
def test_a_vector_of_another_shape_is_refused(tiny, shape, message):
    vector = PersonaVector(np.ones(shape, np.float32), np.ones(shape[0], np.float32), {"model": "other"})
    with pytest.raises(IncompatibleVector, match=message), steering(tiny, vector, layer=0, coefficient=1.0):
        pass


def test_a_vector_of_another_model_is_a_loud_warning(tiny):
    vector = random_vector(tiny)
    other = PersonaVector(vector.directions, vector.reference_norms, {"model": "another"})
    with pytest.warns(UserWarning, match="made on 'another'"), steering(tiny, other, layer=0, coefficient=1.0):
        record(tiny, ROWS)


@pytest.mark.parametrize("family", FAMILIES)
def test_sharing_the_layers_below_changes_no_number(family):
    subject = make_subject(family)
    vector = random_vector(subject)
    rows = [Row(r.prompt, r.text) for r in ROWS]
    plain = response_logprobs(subject, rows)
    separate = []
    for c in (0.5, -0.5):
        with steering(subject, vector, layer=2, coefficient=c):
            separate.append(response_logprobs(subject, rows))
    with reusing_below(subject, 2):
        for c, expected in zip((0.5, -0.5), separate, strict=True):
            with steering(subject, vector, layer=2, coefficient=c):
                for a, b in zip(response_logprobs(subject, rows), expected, strict=True):
                    np.testing.assert_allclose(a, b, atol=1e-6)
                assert generate(subject, ["Hi"], 3)
        for a, b in zip(response_logprobs(subject, rows), plain, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)
    for a, b in zip(response_logprobs(subject, rows), plain, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_lower_steered_layer_cannot_enter_a_shared_sweep(tiny):
    with (
        pytest.raises(UserError, match="lower steered layer"),
        reusing_below(tiny, 2),
        steering(tiny, random_vector(tiny), layer=1, coefficient=1.0),
    ):
        record(tiny, ROWS)


def test_rows_steered_in_one_batch_write_what_they_write_alone(tiny):
    from llm_persona.subject.steer import steering_rows

    # Each vector points at a token's output row, so that each row has to write its own letter.
    letters = tiny.tokenizer("xyz", add_special_tokens=False)["input_ids"]
    rows = tiny.model.lm_head.weight[letters].detach().numpy()
    vectors = [PersonaVector(np.tile(row, (4, 1)), np.ones(4, np.float32)) for row in rows]
    prompts = ["A rather long question?", "Hi", "What now?"]
    doses = [50.0, 40.0, 60.0]
    with steering_rows(tiny, vectors, 3, doses):
        together = generate(tiny, prompts, 10)
    for prompt, vector, dose, found in zip(prompts, vectors, doses, together, strict=True):
        with steering(tiny, vector, layer=3, dose=dose):
            assert generate(tiny, [prompt], 10) == [found]
    assert [a.text[0] for a in together] == list("xyz")


def test_increments_of_the_layers_sum_to_the_layer_s_own_vector():
    from llm_persona.analysis.vectors import increments

    vector = random_vector(make_subject())
    for first in range(3):
        steps = increments(vector, first)
        np.testing.assert_allclose(steps.directions[first:3].sum(axis=0), vector.directions[2], atol=1e-5)


def test_two_vectors_at_once_add_up_at_one_layer():
    subject = make_subject()
    a, b = random_vector(subject, 1), random_vector(subject, 2)
    plain = record(subject, ROWS).values[:, 1]
    with subject.under(Condition("both", steers=(Steer(a, 1, coefficient=1.0), Steer(b, 1, coefficient=-0.5)))):
        both = record(subject, ROWS).values[:, 1]
    expected = a.directions[1] - 0.5 * b.directions[1]
    np.testing.assert_allclose(both - plain, np.broadcast_to(expected, plain.shape), atol=2e-5)


def test_another_thread_may_not_use_a_subject_that_is_steered():
    import threading

    subject = make_subject()
    vector = random_vector(subject)
    caught = []

    def intrude(steered):
        try:
            if steered:
                with steering(subject, vector, layer=2, coefficient=1.0):
                    record(subject, ROWS)
            else:
                record(subject, ROWS)
        except UserError as error:
            caught.append(str(error))

    with steering(subject, vector, layer=1, coefficient=1.0):
        for steered in (True, False):
            thread = threading.Thread(target=intrude, args=(steered,))
            thread.start()
            thread.join()
        record(subject, ROWS)
    assert len(caught) == 2
    assert all("another thread" in text for text in caught)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"operator": "ablate", "dose": 0.1}, "takes no coefficient"), ({"operator": "cap"}, "needs at least one"),
     ({"operator": "twist", "dose": 1.0}, "choose add, ablate or cap"), ({"dose": 0.1, "floor": 1.0}, "belongs to"),
     ({"operator": "cap", "floor": 2.0, "ceiling": 1.0}, "lies above"), ({"dose": 1, "positions": "x"}, "choose all")],
)  # fmt: skip
def test_steering_that_makes_no_sense_is_refused_before_anything_runs(settings, message):
    subject = make_subject()
    with pytest.raises(UserError, match=message), steering(subject, random_vector(subject), 1, **settings):
        record(subject, ROWS)
    assert not subject.steering_layers

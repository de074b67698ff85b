"""The playground's desk: one thing at a time for every page, stopped, limited in time, and going on after a fault."""

from __future__ import annotations

import threading

import pytest
from conftest import make_subject
from stand_in_runs import a_vector

from llm_persona.domain.condition import Condition, Steer
from llm_persona.domain.errors import UserError
from llm_persona.interfaces.playground.desk import Desk, zero_rows


@pytest.fixture(scope="module")
def vector():
    return a_vector()


@pytest.fixture
def desk():
    made = Desk(lambda name: make_subject(), seconds=60)
    yield made
    made.close()


def strong(vector):
    return Condition("strong", steers=(Steer(vector, 1, dose=3.0),))


def test_questions_of_several_pages_are_answered_as_if_each_were_alone(desk, vector):
    def answers(condition):
        last = list(desk.ask("tiny", "What now?", condition, [vector], 8))[-1]
        return last.base.text, last.other.text if last.other else None

    conditions = [strong(vector), Condition("low", steers=(Steer(vector, 2, dose=-3.0),)), Condition()]
    alone = [answers(c) for c in conditions]
    found = [None] * 9
    threads = [threading.Thread(target=lambda n=n: found.__setitem__(n, answers(conditions[n % 3]))) for n in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == alone * 3


def test_a_page_that_goes_away_frees_the_model(desk, vector):
    steps = desk.ask("tiny", "What now?", strong(vector), [vector], 300)
    next(steps)
    steps.close()
    assert list(desk.stream("tiny", lambda subject, _: (len(subject.steering_layers) for _ in range(1)))) == [0]


def test_stop_ends_the_answer_with_what_is_written(desk, vector):
    stop = threading.Event()
    for pair in desk.ask("tiny", "What now?", strong(vector), [vector], 300, stop):
        if pair.base.pieces:
            stop.set()
    assert pair.base.finish == "halted"
    assert 0 < len(pair.base.by_base) < 300


def test_the_time_limit_ends_an_answer(vector):
    desk = Desk(lambda name: make_subject(), seconds=0.0)
    pairs = list(desk.ask("tiny", "What now?", strong(vector), [vector], 300))
    desk.close()
    assert len(pairs[-1].base.pieces) <= 1


def test_the_last_state_always_arrives_and_the_base_is_written_once(desk, vector):
    first = list(desk.ask("tiny", "What now?", strong(vector), [vector], 6))[-1]
    again = list(desk.ask("tiny", "What now?", strong(vector), [vector], 6))[-1]
    assert first.other.by_base is not None
    assert again.base is first.base


def test_a_fault_reaches_the_page_that_asked_and_the_next_question_is_answered(desk, vector):
    with pytest.raises(UserError, match="exceeds the model's 512"):
        list(desk.ask("tiny", "x" * 600, Condition(), [vector], 8))
    assert list(desk.ask("tiny", "What now?", Condition(), [vector], 2))[-1].base.text


def test_another_model_forgets_the_answers_of_the_first(vector):
    loaded = []
    desk = Desk(lambda name: loaded.append(name) or make_subject(seed=len(loaded)), seconds=60)
    texts = [list(desk.ask(m, "What now?", Condition(), [vector], 8))[-1].base.text for m in ("a", "b", "a")]
    desk.close()
    assert loaded == ["a", "b", "a"]
    assert texts[0] != texts[1]


def test_the_zero_rests_on_every_trait_and_on_both_poles():
    rows = zero_rows()
    groups = {row.group for row in rows}
    assert len(groups) >= 8
    assert {(row.group, row.pole) for row in rows} == {(g, p) for g in groups for p in ("high", "low")}
    assert len(rows) == 2 * len(groups)

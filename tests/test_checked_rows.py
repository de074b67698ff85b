"""The model works on the first rows while the rest are rendered; a row that cannot be rendered still stops it early."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from llm_persona.domain.errors import Shortfall, TooLong, UserError
from llm_persona.domain.responses import Response
from llm_persona.subject import checked_rows, memory, record
from llm_persona.subject.batched import TREE
from llm_persona.subject.checked_rows import CheckedRows
from llm_persona.subject.packing import Row

SOON = 60
"""Seconds after which a wait counts as one for ever."""
WORDS = "abcdefgh"


@pytest.fixture
def in_small_parts(monkeypatch):
    monkeypatch.setattr(record, "FIRST", 2)
    monkeypatch.setattr(record, "RENDERED", 3)


def _responses(count: int, long: tuple[int, ...] = ()) -> list[Response]:
    texts = ["a " * 3000 if n in long else f"{WORDS[n % 5]} b" for n in range(count)]
    return [Response(f"{WORDS[n % 8]} {n}", text, ("high", "low")[n % 2], n // 2) for n, text in enumerate(texts)]


def test_the_first_rows_are_read_before_the_last_is_rendered(tiny, in_small_parts, monkeypatch):
    read, fits = threading.Event(), checked_rows.row_fits
    waited = []

    def rendered(subject, row, number):
        if number == 9:
            waited.append(read.wait(SOON))
        return fits(subject, row, number)

    monkeypatch.setattr(checked_rows, "row_fits", rendered)
    found = record.record(tiny, _responses(10), progress=lambda _count: read.set())
    assert waited == [True]
    assert len(found) == 10


def test_parts_give_the_numbers_of_one_pass(tiny, in_small_parts):
    rows = _responses(11)
    parts = record.record(tiny, rows).values
    with pytest.MonkeyPatch.context() as whole:
        whole.setattr(record, "FIRST", 100)
        assert np.abs(record.record(tiny, rows).values - parts).max() < 1e-5


def test_a_row_that_cannot_be_rendered_stops_the_work_before_its_turn(tiny, in_small_parts, monkeypatch):
    rows = [*_responses(12), Response("x", " ", "high", 99)]
    checking = threading.Event()
    check = CheckedRows._check

    def checked(self):
        check(self)
        checking.set()

    monkeypatch.setattr(CheckedRows, "_check", checked)
    batches = []
    plain = record.read_pooled.dispatch(type(tiny))

    def slow(subject, given, positions, layers, keep):
        assert checking.wait(SOON)  # the thread is through while the model reads the first part
        plain(subject, given, positions, layers, keep)

    monkeypatch.setattr(record, "read_pooled", slow)
    with pytest.raises(UserError, match="row 12: a response is empty"):
        record.record(tiny, rows, progress=batches.append)
    assert batches == []


def test_what_a_template_raises_reaches_the_caller_and_no_thread_stays(tiny, monkeypatch):
    def refuse(*_):
        raise KeyError("strange")

    monkeypatch.setattr(checked_rows, "row_fits", refuse)
    before = set(threading.enumerate())
    with pytest.raises(KeyError, match="strange"):
        record.record(tiny, _responses(4))
    assert set(threading.enumerate()) <= before


def test_a_question_whose_long_row_comes_late_is_left_out_whole(tiny, in_small_parts):
    rows = _responses(10, long=(9,))
    rows[0] = Response(rows[0].prompt, rows[0].text, "high", rows[9].group)  # read long before row 9 is known
    with pytest.warns(Shortfall, match="3 of 10 rows left out: 1 questions"):
        found = record.record(tiny, rows)
    assert [(entry.row, entry.itself) for entry in found.left_out] == [(0, False), (8, False), (9, True)]
    kept = found.kept(rows)
    assert np.abs(record.record(tiny, kept).values - found.values).max() < 1e-5
    assert list(found.groups) == [row.group for row in kept]


def test_nothing_is_left_where_every_row_is_too_long(tiny, in_small_parts):
    with pytest.raises(TooLong, match="4 of 4 rows left out"):
        record.record(tiny, _responses(4, long=(0, 1, 2, 3)))


def test_the_thread_keeps_the_system_turn_under_which_it_began(tiny, monkeypatch):
    """A condition may end while rows are still rendered."""
    seen, fits = [], checked_rows.row_fits
    monkeypatch.setattr(checked_rows, "row_fits", lambda s, row, n: seen.append(row.system) or fits(s, row, n))
    tiny.system = "be brief"
    try:
        checked = CheckedRows(tiny, [Row("a", "b"), Row("a", "c", "be long")], [0, 1])
    finally:
        tiny.system = None
    with checked:
        assert checked.up_to(2) == [True, True]
    assert seen == ["be brief", "be long"]


def test_answers_to_one_prompt_share_it_though_they_come_instruction_by_instruction(tiny, in_small_parts):
    """Three instructions' answers to four questions: more than a part, and no two answers to a question adjacent."""
    asked = ["a b c d e f g h " * 4 + str(n) for n in range(4)]
    rows = [Response(prompt, f"{WORDS[k]} b", ("high", "low")[k % 2], prompt) for k in range(3) for prompt in asked]
    read = []
    hook = tiny.decoder.register_forward_pre_hook(
        lambda _module, _args, given: read.append(given["input_ids"].shape), with_kwargs=True
    )
    try:
        together = record.record(tiny, rows)
    finally:
        hook.remove()
    assert sum(shape[0] for shape in read) == len(asked)
    alone = np.concatenate([record.record(tiny, [row]).values for row in rows])
    assert np.abs(together.values - alone).max() < 1e-5


def test_a_prompt_with_very_many_answers_makes_several_sequences(tiny):
    rows = [Response("a b c d", f"{WORDS[k % 8]} {WORDS[k % 3]} b", "neutral", "q") for k in range(40)]
    whole = record.record(tiny, rows).values
    seen, budget = [], tiny.token_budget
    hook = tiny.decoder.register_forward_pre_hook(
        lambda _module, _args, given: seen.append(given["input_ids"].shape[1]), with_kwargs=True
    )
    tiny.token_budget = 60 // TREE
    try:
        parts = record.record(tiny, rows).values
    finally:
        tiny.token_budget = budget
        hook.remove()
    assert 30 < max(seen) <= 60
    assert np.abs(parts - whole).max() < 1e-5


def test_values_in_a_file_are_moved_up_within_it_where_rows_are_left_out(tiny, in_small_parts, monkeypatch):
    rows = _responses(12, long=(3,))
    with pytest.warns(Shortfall):
        ordinary = record.record(tiny, rows)
    monkeypatch.setattr(memory, "IN_MEMORY", 100)
    taken = []
    monkeypatch.setattr(record, "room", lambda shape: taken.append(shape) or memory.room(shape))
    with pytest.warns(Shortfall):
        stored = record.record(tiny, rows)
    assert len(taken) == 1
    assert isinstance(stored.values, np.memmap)
    assert (np.asarray(stored.values) == ordinary.values).all()

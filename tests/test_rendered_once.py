"""A text is rendered once, whoever asks; what comes next is rendered beside the model; what is kept is bounded."""

from __future__ import annotations

import copy
import pickle
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_persona.domain.errors import UserError
from llm_persona.domain.item_sources import load_items
from llm_persona.instruments.trait_benchmark import TraitBenchmark
from llm_persona.studies.parts import with_next
from llm_persona.subject import chat
from llm_persona.subject.chat import render_prompt, render_response
from llm_persona.subject.rendered_once import RenderedOnce, of_tokenizer


@pytest.fixture
def counted(tiny, monkeypatch):
    """How often the template was filled."""
    calls = []
    original = chat._render
    monkeypatch.setattr(chat, "_render", lambda *given: calls.append(given) or original(*given))
    monkeypatch.delattr(tiny.tokenizer, "_persona_rendered", raising=False)
    return calls


def test_a_row_that_was_rendered_is_not_rendered_again_and_is_the_same(tiny, counted):
    first = render_response(tiny, "a b", "c d", "be brief")
    filled = len(counted)
    assert render_response(tiny, "a b", " c d ", "be brief") == first
    assert len(counted) == filled
    assert render_prompt(tiny, "a b") == render_prompt(tiny, "a b") != render_prompt(tiny, "b a")


def test_another_system_turn_template_or_earlier_turn_is_another_rendering(tiny, counted, monkeypatch):
    plain = render_response(tiny, "a b", "c d").ids
    assert render_response(tiny, "a b", "c d", "x").ids != plain
    assert render_response(tiny, "a b", "c d", None, (("user", "q"), ("assistant", "r"))).ids != plain
    with _system(tiny, "x"):
        assert render_response(tiny, "a b", "c d").ids == render_response(tiny, "a b", "c d", "x").ids
    monkeypatch.setattr(tiny.tokenizer, "chat_template", chat.PLAIN)
    assert render_response(tiny, "a b", "c d").ids != plain


class _system:
    def __init__(self, subject, text):
        self.subject, self.text = subject, text

    def __enter__(self):
        self.before, self.subject.system = self.subject.system, self.text

    def __exit__(self, *_):
        self.subject.system = self.before


def test_a_tokenizer_with_several_templates_is_rendered_by_its_default(tiny, counted, monkeypatch):
    plain = render_prompt(tiny, "a b")
    monkeypatch.setattr(tiny.tokenizer, "chat_template", {"default": tiny.tokenizer.chat_template, "tools": "{{ 1 }}"})
    assert render_prompt(tiny, "a b") == plain


def test_another_end_of_turn_closes_another_way(tiny, counted, monkeypatch):
    assert render_response(tiny, "a", "b").closing
    monkeypatch.setattr(chat, "end_tokens", lambda subject: set())
    assert render_response(tiny, "a", "b").closing == ()


def test_what_is_left_unrendered_is_given_up_at_the_end():
    store, going = RenderedOnce(), threading.Event()
    rendered = []

    def slow(row):
        rendered.append(row)
        going.wait(timeout=60)

    store.beside(slow, range(1000))
    threading.Timer(0.05, going.set).start()
    store.stop()
    assert len(rendered) < 1000


def test_a_change_of_what_came_back_does_not_change_what_is_kept(tiny, counted):
    render_prompt(tiny, "a b").append(99)
    assert 99 not in render_prompt(tiny, "a b")


def test_a_tokenizer_that_keeps_texts_can_be_copied(tiny, counted):
    ids = render_prompt(tiny, "a b")
    other = copy.deepcopy(tiny.tokenizer)
    assert of_tokenizer(other) is not of_tokenizer(tiny.tokenizer)
    assert pickle.loads(pickle.dumps(of_tokenizer(tiny.tokenizer))).get(("k",), lambda: (ids,)) == [ids]


def test_an_error_is_not_kept(tiny, counted, monkeypatch):
    monkeypatch.setattr(tiny.tokenizer, "chat_template", "{{ raise_exception('no') }}")
    with pytest.raises(Exception, match="no"):
        render_prompt(tiny, "a b")
    monkeypatch.undo()
    assert render_prompt(tiny, "a b")


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 400)), max_size=80))
def test_what_is_kept_stays_below_the_limit_and_is_what_was_made(asked):
    store = RenderedOnce(limit=6000)
    for name, length in asked:
        numbers = store.get((name, length, ("q" * length,)), lambda n=name, k=length: ([n] * k, [k]))
        assert numbers == [[name] * length, [length]]
    assert store._bytes <= 6000
    assert store._bytes == sum(504 + 4 * len(a) + sys.getsizeof("q" * len(a)) for a, _ in store._kept.values())


def test_rows_rendered_beside_are_found_by_whoever_asks_and_a_bad_one_costs_only_itself(tiny, counted):
    rows = [("a b", "c"), ("a b", " "), ("a", "d")]
    of_tokenizer(tiny.tokenizer).beside(lambda row: render_response(tiny, *row), rows)
    of_tokenizer(tiny.tokenizer).wait()
    filled = len(counted)
    render_response(tiny, "a", "d")
    assert len(counted) == filled
    with pytest.raises(UserError, match="empty"):
        render_response(tiny, *rows[1])


def test_nothing_piles_up_where_rendering_is_slower_than_the_model(tiny, counted):
    store, going, rendered = of_tokenizer(tiny.tokenizer), threading.Event(), []

    def slow(row):
        going.wait(timeout=60)
        rendered.append(row)

    store.beside(slow, [1])
    store.beside(slow, [2])
    going.set()
    store.wait()
    assert rendered == [1]
    store.beside(slow, [3])
    store.wait()
    assert rendered == [1, 3]


@pytest.mark.parametrize("mode", ["likelihood", "choice"])
def test_a_benchmark_rendered_beside_renders_nothing_when_it_is_measured(tiny, counted, mode):
    benchmark = TraitBenchmark(load_items("openness")[:3], mode)
    benchmark.render_beside(tiny)
    of_tokenizer(tiny.tokenizer).wait()
    filled = len(counted)
    assert filled
    benchmark.measure(tiny)
    assert len(counted) == filled


def test_many_threads_get_the_same_renderings(tiny, counted):
    rows = [(f"p{n}", f"r{n}") for n in range(40)]
    found = [[], []]
    threads = [
        threading.Thread(target=lambda into=into: into.extend(render_response(tiny, *row).ids for row in rows))
        for into in found
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert found[0] == found[1] == [render_response(tiny, *row).ids for row in rows]


@given(st.lists(st.integers()))
def test_each_part_comes_with_the_next(parts):
    found = list(with_next(parts))
    assert [here for here, _ in found] == parts
    assert [following for _, following in found] == [*parts[1:], None][: len(parts)]

"""An adapter is what its files hold: what it is called, and where it lies, decide nothing."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import vllm_stand_in
from chats import kinds, write
from conftest import save_tiny_adapter

import llm_persona as lp
from llm_persona.domain.condition import Condition
from llm_persona.domain.open_questions import own_questions
from llm_persona.studies import open_answers, screen_parts
from llm_persona.studies.open_answers import Sampling, answer_questions
from llm_persona.studies.screen import ScreenPlan, screen, survey


@pytest.fixture(scope="module")
def namesakes(tiny_folders, tmp_path_factory):
    """Folders that are all called `adapter`: two of other weights, one of another scale, one a copy of the first."""
    how = {"one": (0, 64), "other": (1, 64), "scaled": (0, 32), "copy": (0, 64)}
    place = tmp_path_factory.mktemp("namesakes")
    return {k: save_tiny_adapter(place / k / "adapter", tiny_folders[0], *given) for k, given in how.items()}


@pytest.fixture(params=["transformers", "vllm"])
def engine(request, monkeypatch):
    if request.param == "vllm":
        vllm_stand_in.install(monkeypatch)
    return request.param


def test_merged_adapters_of_one_name_are_told_apart_by_their_weights_and_their_scale(tiny_folders, namesakes, engine):
    def identity(name):
        return lp.load_subject(tiny_folders[0], namesakes[name], "float32", "cpu", engine=engine).identity

    found = {name: identity(name) for name in namesakes}
    assert {x["model"] for x in found.values()} == {f"{tiny_folders[0]}+adapter"}
    assert len({x["adapter"] for x in found.values()}) == 3
    assert found["copy"] == found["one"]


def test_both_engines_say_the_same_of_a_merged_adapter(tiny_folders, namesakes, monkeypatch):
    plain = lp.load_subject(tiny_folders[0], namesakes["one"], "float32", "cpu").identity
    vllm_stand_in.install(monkeypatch)
    other = lp.load_subject(tiny_folders[0], namesakes["one"], "float32", "cpu", engine="vllm").identity
    assert other == {**plain, "engine": "vllm 0.30.0"}


def test_an_adapter_that_is_on_for_a_while_is_in_the_state_and_leaves_the_identity_alone(
    tiny_folders, namesakes, engine
):
    subject = lp.load_subject(tiny_folders[0], None, "float32", "cpu", engine=engine)
    before = dict(subject.identity)
    states = {name: Condition(adapter=folder).state for name, folder in namesakes.items()}
    with subject.under(Condition(adapter=namesakes["one"])):
        assert subject.identity == before
    assert "adapter" not in before
    assert states["copy"] == states["one"]
    assert states["other"] != states["one"] != states["scaled"] != states["other"]


@pytest.fixture
def at_one_path(tiny_folders, namesakes, tmp_path, monkeypatch):
    """What a call gives and whether it measured anything, with an adapter of one's choice, always at the same path."""
    monkeypatch.setenv("LLM_PERSONA_CACHE", str(tmp_path / "cache"))
    subject, made = lp.load_subject(tiny_folders[0], None, "float32", "cpu"), []

    def counted(real):
        return lambda *given, **named: (made.append("made"), real(*given, **named))[1]

    monkeypatch.setattr(screen_parts.Screening, "measure", counted(screen_parts.Screening.measure))
    monkeypatch.setattr(open_answers, "generate", counted(open_answers.generate))

    def called(call, name):
        shutil.rmtree(tmp_path / "adapter", ignore_errors=True)
        shutil.copytree(namesakes[name], tmp_path / "adapter")
        made.clear()
        with subject.under(Condition(adapter=str(tmp_path / "adapter"))):
            return call(subject), bool(made)

    return called


def refuses_to_mix(called, call):
    one, other = called(call, "one"), called(call, "other")
    assert one[1]
    assert other[1]
    assert called(call, "one") == called(call, "copy") == (one[0], False)
    assert called(call, "other") == (other[0], False)
    assert one[0] != other[0]


def test_screenings_by_adapters_that_lay_at_one_path_are_told_apart(at_one_path, tmp_path):
    vector = lp.PersonaVector(np.ones((4, 32), np.float32), np.ones(4, np.float32))
    data = survey(write(tmp_path / "d.jsonl", kinds(3)), ScreenPlan(full_rows=0))
    refuses_to_mix(at_one_path, lambda subject: list(screen(subject, data, vector, 1, ScreenPlan(full_rows=0))["rows"]))


def test_open_answers_of_adapters_that_lay_at_one_path_are_told_apart(at_one_path):
    questions, sampling = own_questions().first(2), Sampling(samples=4, max_new_tokens=24)
    refuses_to_mix(at_one_path, lambda subject: answer_questions(subject, [lp.BASE], questions, sampling))


def test_without_an_adapter_nothing_is_on(tiny_folders, namesakes):
    subject = lp.load_subject(tiny_folders[0], None, "float32", "cpu")
    assert subject.adapter_content is None
    with subject.under(Condition(adapter=namesakes["one"])):
        assert subject.adapter_content is not None
    assert subject.adapter_content is None

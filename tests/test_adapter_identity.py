"""An adapter is what its files hold: what it is called, and where it lies, decide nothing."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import vllm_stand_in
from chats import kinds, write
from conftest import save_tiny_adapter

import llm_persona as lp
from llm_persona.domain.condition import Condition, Steer
from llm_persona.domain.errors import UserError
from llm_persona.domain.open_questions import own_questions
from llm_persona.instruments.judging.local import LocalJudge
from llm_persona.instruments.trait_benchmark import TraitBenchmark
from llm_persona.studies import evaluation, open_answers, screen_parts
from llm_persona.studies.open_answers import Sampling, answer_questions
from llm_persona.studies.screen import ScreenPlan, screen, survey
from llm_persona.subject.standing import as_it_stands
from llm_persona.subject.steer import steering_rows
from llm_persona.training.data import from_items


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


def test_what_is_on_is_part_of_what_a_subject_is_as_it_stands(tiny_folders, namesakes, engine):
    subject = lp.load_subject(tiny_folders[0], None, "float32", "cpu", engine=engine)
    vector = lp.PersonaVector(np.ones((4, 32), np.float32), np.ones(4, np.float32))
    states = [
        Condition(system="be brief"), Condition(system=""), Condition(adapter=namesakes["one"]),
        *(Condition(steers=(Steer(vector, layer, dose=dose),)) for layer, dose in ((1, 0.1), (1, 0.2), (2, 0.1))),
    ]  # fmt: skip
    plain, seen = as_it_stands(subject), []
    assert plain == subject.identity
    for state in states:
        with subject.under(state):
            seen.append(as_it_stands(subject)["on"])
            if state.steers:
                lp.generate(subject, ["a b"], 2)  # (steering that touches nothing is refused)
        assert as_it_stands(subject) == plain
    assert len(set(seen)) == len(states)
    with subject.under(Condition(adapter=namesakes["copy"])):
        assert as_it_stands(subject)["on"] == seen[2]
    with lp.steering(subject, vector, 1, dose=0.1):
        assert as_it_stands(subject)["on"] == seen[3]
        lp.generate(subject, ["a b"], 2)


def test_rows_steered_each_its_own_way_are_told_apart_from_others(tiny):
    vectors = [lp.PersonaVector(np.full((4, 32), x, np.float32), np.ones(4, np.float32)) for x in (1, 2)]
    seen = set()
    for doses in ([0.1, 0.2], [0.2, 0.1]):
        with steering_rows(tiny, vectors, 1, doses):
            seen.add(as_it_stands(tiny)["on"])
            lp.generate(tiny, ["a b", "c d"], 2)
    assert len(seen) == 2


def test_an_evaluation_inside_somebody_s_condition_is_not_taken_for_one_outside(tiny_folders, tmp_path, monkeypatch):
    monkeypatch.setenv("LLM_PERSONA_CACHE", str(tmp_path / "cache"))
    subject = lp.load_subject(tiny_folders[0], None, "float32", "cpu")
    vector = lp.PersonaVector(np.ones((4, 32), np.float32), np.ones(4, np.float32))
    sets, conditions = {"openness": lp.load_items("openness")[:3]}, {"openness": lp.BASE}
    plan = evaluation.EvaluationPlan(TraitBenchmark(()))
    monkeypatch.setattr(evaluation, "shutil", SimpleNamespace(rmtree=lambda *_, **__: None))  # as a kill leaves it
    plain = evaluation.evaluate_sets(subject, sets, conditions, plan)
    with lp.steering(subject, vector, 1, dose=3.0):
        inside = evaluation.evaluate_sets(subject, sets, conditions, plan)
    assert inside["traits"]["openness"]["rows"] != plain["traits"]["openness"]["rows"]


def test_a_judge_in_memory_is_what_it_is_when_it_judges(tiny):
    judge = LocalJudge.of(tiny)
    outside = judge.identity
    with tiny.under(Condition(system="be brief")):
        assert judge.identity != outside
    assert judge.identity == outside


def test_a_training_inside_somebody_s_system_turn_is_refused_with_what_to_give_instead(tiny, tmp_path):
    data = from_items(lp.load_items("openness")[:2], "high")
    with tiny.under(Condition(system="be brief")), pytest.raises(UserError, match=r"under=Condition\(system="):
        lp.finetune(tiny, data, tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()

"""Open answers: several samples a question, every one of them kept, asked for alone, and read by what a run left."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import make_subject

from llm_persona.analysis.paired import means_by_group
from llm_persona.domain.condition import BASE, Condition, Steer
from llm_persona.domain.config import make_config
from llm_persona.domain.errors import UserError
from llm_persona.domain.traits import load_trait
from llm_persona.instruments.samples import Samples
from llm_persona.interfaces.cli.main import run
from llm_persona.studies import asking
from llm_persona.studies.asking import AskPlan, ask
from llm_persona.studies.stored_answers import StoredAnswer, read_answers, write_answers

QUESTIONS = load_trait("openness").questions_of("test")[:3]


def test_several_samples_of_a_question_differ_and_are_the_same_again(tiny):
    drawn = Samples(QUESTIONS, 6, samples=3, temperature=1.0, seed=4)
    first, again = drawn.measure(tiny), drawn.measure(tiny)
    assert first == again
    assert [(r["id"], r["sample"]) for r in first.rows] == [(q.id, k) for q in QUESTIONS for k in range(3)]
    assert len({r["text"] for r in first.rows}) > len(QUESTIONS)
    other = Samples(QUESTIONS, 6, samples=3, temperature=1.0, seed=5).measure(tiny)
    assert [r["text"] for r in other.rows] != [r["text"] for r in first.rows]


def test_greedy_answers_keep_their_key_and_are_one_a_question(tiny):
    greedy = Samples(QUESTIONS, 6, seed=9)
    assert greedy.key == Samples(QUESTIONS, 6).key == ["samples", [q.text for q in QUESTIONS], 6]
    assert [r["sample"] for r in greedy.measure(tiny).rows] == [0, 0, 0]
    assert Samples(QUESTIONS, 6, 2, 0.5).key != Samples(QUESTIONS, 6, 3, 0.5).key
    with pytest.raises(UserError, match="temperature above 0"):
        Samples(QUESTIONS, 6, samples=2)


def test_steered_samples_belong_to_their_condition(tiny):
    from llm_persona.analysis.vectors import PersonaVector

    vector = PersonaVector(np.ones((4, 32), np.float32), np.ones(4, np.float32))
    conditions = [Condition(f"steered {d:+g}", steers=(Steer(vector, 1, dose=d),)) for d in (-5.0, 5.0)]
    found = Samples(QUESTIONS, 6, samples=2, temperature=0.7).measure_steered(tiny, conditions)
    assert [m.condition for m in found] == ["steered -5", "steered +5"]
    assert all(len(m.rows) == 6 for m in found)
    assert [r["text"] for r in found[0].rows] != [r["text"] for r in found[1].rows]


def test_settings_refuse_samples_that_cannot_differ():
    with pytest.raises(UserError, match=r"temperature: .*several samples need a temperature above 0"):
        make_config(samples=3)
    assert make_config(samples=3, temperature=0.7).samples == 3
    assert (make_config().samples, make_config().temperature, make_config().judge) == (1, 0.0, None)


def test_answers_to_one_question_are_one_observation():
    assert means_by_group(["b", "a", "b"], [1.0, 5.0, 3.0]) == {"b": 2.0, "a": 5.0}


ANSWERS = [
    StoredAnswer("base", "Q?", "A line\nand another\u2028\x85.", "openness", "q1", 0, 0.7, 5, True, 0.25),
    StoredAnswer("steered +0.2", "Q?", "", "openness", "q1", 1, 0.7, 0, False, None),
]


def test_stored_answers_come_back_as_they_were(tmp_path):
    write_answers(tmp_path / "answers.jsonl", ANSWERS)
    assert read_answers(tmp_path / "answers.jsonl") == ANSWERS
    assert read_answers(tmp_path) == ANSWERS  # a run folder
    assert len((tmp_path / "answers.jsonl").read_text(encoding="utf-8").split("\n")) == 3


@pytest.mark.parametrize(
    ("field", "value"), [("sample", "first"), ("projection", True), ("finished", 1), ("tokens", "many")]
)
def test_a_stored_field_of_the_wrong_kind_is_named(field, value, tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"question": "Q", "answer": "A", field: value}))
    with pytest.raises(UserError, match=f"a.jsonl:1: field '{field}' is of the wrong kind"):
        read_answers(tmp_path / "a.jsonl")


TRAIT = load_trait("openness")
HIGH = Condition("instructed high", TRAIT.instruction("high"))


def asked(subject, out, plan, conditions=(BASE, HIGH)):
    return ask(subject, [{TRAIT.name: c} for c in conditions], [TRAIT], plan, out)


def test_asking_writes_what_judging_reads(tiny, tmp_path):
    out = tmp_path / "answers.jsonl"
    found = asked(tiny, out, AskPlan(3, 2, 0.9, 6))
    assert found == read_answers(out)
    assert [a.condition for a in found] == ["base"] * 6 + ["instructed high"] * 6
    assert [(a.question_id, a.sample) for a in found[:3]] == [(QUESTIONS[0].id, 0), (QUESTIONS[0].id, 1),
                                                              (QUESTIONS[1].id, 0)]  # fmt: skip
    assert {a.temperature for a in found} == {0.9}


def test_asking_again_writes_nothing_twice_and_goes_on_after_an_interruption(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(asking, "BATCH", 2)
    plan = AskPlan(3, 2, 0.9, 6)
    whole = asked(tiny, tmp_path / "whole.jsonl", plan)
    out, calls = tmp_path / "answers.jsonl", []
    real = asking.generate

    def interrupted(subject, prompts, *rest, **given):
        if len(calls) == 4:
            raise KeyboardInterrupt
        calls.append(list(prompts))
        return real(subject, prompts, *rest, **given)

    monkeypatch.setattr(asking, "generate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        asked(tiny, out, plan)
    assert len(read_answers(out)) == 8
    monkeypatch.setattr(asking, "generate", lambda *a, **k: (calls.append(list(a[1])), real(*a, **k))[1])
    assert asked(tiny, out, plan) == whole
    assert out.read_text() == (tmp_path / "whole.jsonl").read_text()
    assert sum(map(len, calls)) == 12
    assert asked(tiny, out, plan) == whole
    assert sum(map(len, calls)) == 12


def test_more_samples_are_new_ones_beside_the_old(tiny, tmp_path):
    out = tmp_path / "answers.jsonl"
    two = asked(tiny, out, AskPlan(2, 2, 1.0, 8), [BASE])
    four = asked(tiny, out, AskPlan(2, 4, 1.0, 8), [BASE])
    assert [a for a in four if a.sample < 2] == two
    assert len({a.answer for a in four}) == 8


def test_answers_made_otherwise_are_not_mixed(tiny, tmp_path):
    out = tmp_path / "answers.jsonl"
    asked(tiny, out, AskPlan(2, 1, 0.0, 6), [BASE])
    before = out.read_text()
    with pytest.raises(UserError, match=r"made otherwise \(max_new_tokens 6\)"):
        asked(tiny, out, AskPlan(2, 1, 0.0, 7), [BASE])
    with pytest.raises(UserError, match=r"made otherwise \(by another model or in another state\)"):
        asked(make_subject(seed=1), out, AskPlan(2, 1, 0.0, 6), [Condition("base", "Be brief.")])
    with pytest.raises(UserError, match="two conditions are called 'x'"):
        asked(tiny, tmp_path / "b.jsonl", AskPlan(2), [Condition("x", "One."), Condition("x", "Two.")])
    assert out.read_text() == before
    (tmp_path / "c.jsonl").write_text('{"question": "Q", "answer": "A"}\n')
    with pytest.raises(UserError, match=r"c\.jsonl:1: not written by `judge ask`"):
        asked(tiny, tmp_path / "c.jsonl", AskPlan(2), [BASE])


def test_asking_from_the_command_line(tiny_folders, tmp_path, capsys):
    out = tmp_path / "answers.jsonl"
    command = ["judge", "ask", "--model", tiny_folders[0], "--questions", "2", "--samples", "2", "--instruct", "none",
               "--instruct", "low", "--max-new-tokens", "6", "--out", str(out)]  # fmt: skip
    assert run(command) == 0
    assert "instructed low: 4 answers" in capsys.readouterr().out
    assert {a.temperature for a in read_answers(out)} == {1.0}
    assert run([*command[:-1], str(tmp_path / "x.json")]) == 2
    assert "ends in .jsonl" in capsys.readouterr().err

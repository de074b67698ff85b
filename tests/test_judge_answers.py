"""Stored answers: read, scored, scored again; nothing is judged twice."""

from __future__ import annotations

import json

import pytest
from judges import COHERENCE, asked, results_json, scripted, steer_json

from llm_persona.domain.errors import UserError
from llm_persona.domain.traits import load_trait
from llm_persona.instruments.judging.opening import open_judge
from llm_persona.interfaces.cli.main import run
from llm_persona.studies.judging import plan_scores, score_answers
from llm_persona.studies.stored_answers import StoredAnswer, read_answers
from llm_persona.studies.verdicts import verdicts

pytestmark = pytest.mark.usefixtures("cache")


def test_answers_are_read_from_steer_a_run_and_lines(tmp_path):
    found = read_answers(steer_json(tmp_path / "s.json"))
    assert [(a.condition, a.answer) for a in found[:2]] == [("base", "plain 0"), ("openness@3 dose +0.2", "steered 0")]
    ran = read_answers(results_json(tmp_path / "run"))
    assert ran == read_answers(tmp_path / "run" / "results.json")
    assert list(dict.fromkeys(a.condition for a in ran)) == [
        "base", "instructed high", "instructed low", "steered -0.2", "steered +0.2", "tuned high"
    ]  # fmt: skip
    assert {a.trait for a in ran} == {"openness"}
    (tmp_path / "a.jsonl").write_text(
        '{"question": "Q", "answer": "A"}\n\n{"prompt": "Q", "text": "B", "condition": "c"}'
    )
    assert [(a.condition, a.answer) for a in read_answers(tmp_path / "a.jsonl")] == [("answers", "A"), ("c", "B")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [("a.jsonl", '{"question": "Q", "answer": "A"}\n{"question": "Q"}', "a.jsonl:2: field 'answer' is missing"),
     ("a.jsonl", "{", "a.jsonl:1: not valid JSON"), ("a.jsonl", "", "holds no answer"),
     ("a.json", "[]", "is no object"),
     ("a.json", "{}", "neither `answers` nor `traits`"), ("a.json", '{"answers": [3]}', r"answers\[0\]: must be"),
     ("a.jsonl", '{"question": "Q", "answer": "A", "trait": 3}', "must be texts")],
)  # fmt: skip
def test_faulty_answers_are_named_by_place(name, content, message, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        read_answers(tmp_path / name)


def test_scores_stand_by_condition_with_reasons_and_the_gate_beside_them(tmp_path):
    answers = [StoredAnswer("base", "Q1", "calm"), StoredAnswer("base", "Q1", "odd"), StoredAnswer("base", "Q2", " "),
               StoredAnswer("high", "Q1", "bold and odd"), StoredAnswer("high", "Q2", "bold")]  # fmt: skip
    plan = plan_scores(answers, [load_trait("openness")])

    def reply(request):
        if request.rubric == "coherence-v1":
            return "REFUSAL" if "odd" in request.answer else 90
        return 80 if "bold" in request.answer else 40

    found = score_answers(scripted(reply), plan)
    rows = {(row["condition"], row["score"]): row for row in found["summary"]}
    assert (rows["base", "openness"]["mean"], rows["base", "openness"]["n"]) == (40, 2)
    assert rows["base", "openness"]["unscored"] == {"empty answer": 1}
    assert rows["base", "coherence"]["unscored"] == {"refusal": 1, "empty answer": 1}
    assert rows["high", "openness"]["ci"] == [80, 80]
    assert rows["high", "openness"]["gate"] == "gate: missing"
    assert found["gates"]["openness"] == {"state": "gate: missing", "passed": None}
    assert [a["answer"] for a in found["answers"]] == [a.answer for a in answers]
    (tmp_path / "scores.json").write_text(json.dumps(found))
    again = score_answers(scripted(lambda r: 10, "other"), plan_scores(read_answers(tmp_path / "scores.json"), [
        load_trait("openness")]))  # fmt: skip
    assert [{**a, "scores": 0} for a in again["answers"]] == [{**a, "scores": 0} for a in found["answers"]]


def test_answers_without_a_trait_ask_for_one():
    with pytest.raises(UserError, match="add --trait"):
        plan_scores([StoredAnswer("base", "Q", "A")])
    assert plan_scores([StoredAnswer("base", "Q", "A")], rubrics=("coherence",)).requests()
    with pytest.raises(UserError, match="no answer was written for it; the file holds openness"):
        plan_scores([StoredAnswer("base", "Q", "A", "openness")], [load_trait("narcissism")])


def test_interrupted_scoring_goes_on_without_asking_again():
    plan = plan_scores([StoredAnswer("base", f"Q{n}", f"A{n}") for n in range(10)], rubrics=("coherence",))
    asked_for = []

    def reply(request):
        if len(asked_for) == 7 and request.answer not in asked_for:
            raise KeyboardInterrupt
        asked_for.append(request.answer)
        return 60

    judge = scripted(reply)
    judge.part = 2
    with pytest.raises(KeyboardInterrupt):
        score_answers(judge, plan)
    kept = list(asked_for[:6])
    asked_for.clear()
    judge._reply = lambda r: (asked_for.append(r.answer), 60)[1]
    found = score_answers(judge, plan)
    assert not set(kept) & set(asked_for)
    assert asked_for == ["A6", "A7", "A8", "A9"]
    assert found["summary"][0]["n"] == 10


def test_equal_requests_are_judged_once():
    asked_for = []
    judge = scripted(lambda r: (asked_for.append(r.answer), 60)[1])
    found = verdicts(judge, [*asked(2), *asked(2)])
    assert [v.score for v in found] == [60] * 4
    assert asked_for == ["Answer 0.", "Answer 1."]


def test_scoring_a_run_by_a_script_from_the_command_line(tmp_path, capsys):
    script = tmp_path / "script.json"
    script.write_text(json.dumps({"trait": {"contains": {"up": 90, "down": "15"}, "otherwise": 50},
                                  "coherence": {"answers": {"up 0": "REFUSAL"}, "otherwise": 80}}))  # fmt: skip
    folder = results_json(tmp_path / "run")
    out = tmp_path / "scores.json"
    command = ["judge", "score", str(folder), "--judge", f"scripted:{script}", "--json", str(out)]
    assert run(command) == 0
    shown = capsys.readouterr().out
    assert "openness: gate: missing" in shown
    assert "instructed high, coherence: 1 unscored: refusal" in shown
    found = json.loads(out.read_text())
    means = {(r["condition"], r["score"]): r["mean"] for r in found["summary"]}
    assert means["instructed high", "openness"] == 90
    assert means["instructed low", "openness"] == 15
    assert means["base", "openness"] == 50
    assert run(["judge", "gate", "--judge", f"scripted:{script}"]) == 0
    assert "gate: failed" in capsys.readouterr().out
    assert run(command) == 0
    assert "openness: gate: failed: AUC" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["score", "{a}", *COHERENCE, "--judge", "oracle:x"], "no such judge"),
        (["score", "{a}", *COHERENCE, "--judge", "openai:"], "no model"),
        (["score", "{a}", *COHERENCE, "--judge", "scripted:none.json"], "none.json: no such"),
        (["score", "{a}", *COHERENCE, "--judge", "scripted:{bad}"], "a script is an object with"),
        (["score", "{a}", *COHERENCE, "--judge", "local", "--base-url", "http://x"], "is the address of an API"),
        (["score", "{a}", *COHERENCE, "--judge", "openai:m", "--price", "x"], "write IN/OUT"),
        (["score", "none.jsonl", "--judge", "openai:m"], "no such file of answers"),
        (["score", "{a}", "--judge", "openai:m"], "add --trait"),
        (["gate", "--trait", "opennes"], "unknown trait"),
    ],
)
def test_bad_input_is_one_line(arguments, said, tmp_path, capsys):
    (tmp_path / "a.jsonl").write_text('{"question": "Q", "answer": "A"}')
    (tmp_path / "bad.json").write_text("[1]")
    filled = [a.replace("{a}", str(tmp_path / "a.jsonl")) for a in arguments]
    filled = [a.replace("{bad}", str(tmp_path / "bad.json")) for a in filled]
    assert run(["judge", *filled]) == 2
    err = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("judge:")]
    assert len(err) == 1
    assert said in err[0]


def test_a_judge_of_another_package_is_found_by_its_kind(monkeypatch):
    class Point:
        name = "oracle"

        def load(self):
            return lambda rest: scripted(lambda r: 7, rest)

    monkeypatch.setattr("llm_persona.instruments.judging.opening.metadata.entry_points", lambda group: [Point()])
    assert open_judge("oracle:delphi").identity["model"] == "delphi"

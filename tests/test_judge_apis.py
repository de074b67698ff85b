"""Judges behind an API: bounded time, nothing lost or paid twice, no key left anywhere."""

from __future__ import annotations

import json
import math

import pytest
from clocks import Told
from judges import QUICK, SECRET, asked, chance, leaning, rendered
from servers import Faulty, completion, running

from llm_persona.domain.errors import UserError
from llm_persona.domain.rubrics import load_rubric
from llm_persona.instruments.judging.protocol import grading
from llm_persona.instruments.judging.remote import anthropic_judge, openai_judge
from llm_persona.instruments.judging.scoring import (
    expectation,
)
from llm_persona.interfaces.cli.main import run
from llm_persona.interfaces.serve.app import make_app
from llm_persona.studies.judge_gate import gate_of, gate_requests, run_gate
from llm_persona.studies.verdicts import verdicts
from llm_persona.subject.remote.caller import Limits

pytestmark = pytest.mark.usefixtures("cache")


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [("429", "HTTP 429"), ("429-after", "HTTP 429"), ("500", "HTTP 500"), ("cut", "connection failed"),
     ("malformed", "malformed reply"), ("empty", "malformed reply")],
)  # fmt: skip
def test_a_faulty_server_takes_bounded_time_loses_nothing_and_is_on_record(trouble, reason):
    good = completion("42", {"42": -0.1, "7": -3.0})
    server = Faulty(good, trouble)
    with running(server) as address:
        judge = openai_judge("m", f"{address}/v1", QUICK)
        judge.caller.clock = clock = Told()
        found = verdicts(judge, asked(3))
        assert clock.limits == [QUICK.seconds] * (1 + 2 * QUICK.attempts)
        assert max(clock.pauses) <= QUICK.longest_pause
        assert found[0].score == pytest.approx(expectation({"42": -0.1, "7": -3.0})[0])
        assert all(v.score is None and v.unscored.startswith("call failed: ") for v in found[1:])
        assert all(reason in v.unscored for v in found[1:])
        assert any(reason in text for text in judge.caller.record.as_json()["failures"])
        server.plan = ["ok"]
        before = len(server.requests)
        again = verdicts(openai_judge("m", f"{address}/v1", QUICK), asked(3))
        assert [v.score for v in again] == pytest.approx([found[0].score] * 3)
        assert len(server.requests) - before == 2


def test_without_log_probabilities_the_text_is_read_and_an_empty_text_is_unscored():
    with running(Faulty(completion("70"), completion(None), completion("REFUSAL"), completion("Hm."))) as address:
        found = verdicts(openai_judge("m", f"{address}/v1", Limits(1)), asked(4))
    assert [(v.score, v.unscored, v.mass) for v in found] == [
        (70, "", None), (None, "no number", None), (None, "refusal", None), (None, "no number", None)
    ]  # fmt: skip


def test_a_server_that_knows_no_log_probabilities_is_asked_without_them():
    server = Faulty("400")
    with running(server) as address:
        with pytest.raises(UserError, match="add --text"):
            verdicts(openai_judge("m", f"{address}/v1", QUICK), asked(2))
        server.plan = [completion("70")]
        assert verdicts(openai_judge("m", f"{address}/v1", QUICK, text_only=True), asked(2))[1].score == 70
    assert server.requests[0][0]["top_logprobs"] == 20
    assert "top_logprobs" not in server.requests[-1][0]


def test_a_server_that_always_says_50_fails_the_gate(openness, tmp_path, capsys):
    server = Faulty(completion("50", {"50": -0.05, "40": -4.0}))
    with running(server) as address:
        out = tmp_path / "gate.json"
        command = ["judge", "gate", "--judge", "openai:m", "--base-url", f"{address}/v1", "--limit", "4"]
        assert run([*command, "--price", "1/2", "--json", str(out)]) == 0
        assert len(server.requests) == 4 * 4 * 3
        shown = capsys.readouterr()
        assert "estimate: 48 calls (0 more are cached)" in shown.err
        assert "at the given rates" in shown.err
        assert "gate: failed: AUC 0.50" in shown.out
        found = json.loads(out.read_text())
        assert found["gates"]["openness"]["passed"] is False
        assert found["calls"]["calls"] == 48
        assert run(command) == 0
        assert len(server.requests) == 48


def test_max_calls_ends_a_gate_and_the_next_run_goes_on(openness):
    server = Faulty(completion("50", {"50": -0.05, "40": -4.0}))
    with running(server) as address:
        few = openai_judge("m", f"{address}/v1", Limits(4, max_calls=20))
        with pytest.raises(UserError, match="28 of 48 readings missing"):
            run_gate(few, openness, limit=4)
        assert gate_of(few, openness, limit=4) is None
        run_gate(openai_judge("m", f"{address}/v1", Limits(4)), openness, limit=4)
    assert len(server.requests) == len(gate_requests(openness, 4)) == 48


def test_the_key_is_in_no_file_that_a_judge_leaves(tmp_path, monkeypatch, cache, capsys):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    echo = completion(f"42 {SECRET}", {"42": -0.1, SECRET: -3.0})
    server = Faulty(echo, "500", {"error": SECRET}, echo)
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"question": "Q", "answer": f"A{n}"}) for n in range(4)))
    with running(server) as address:
        command = ["judge", "score", str(tmp_path / "a.jsonl"), "--judge", "openai:m", "--base-url", f"{address}/v1",
                   "--rubric", "coherence", "--json", str(tmp_path / "out.json")]  # fmt: skip
        assert run(command) == 0
        assert server.requests[0][1][b"authorization"] == f"Bearer {SECRET}".encode()
        server.plan = [{**echo, "choices": [{"oops": SECRET}]}]
    shown = capsys.readouterr()
    assert SECRET not in shown.out + shown.err
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert len(files) > 6
    assert not [p for p in files if SECRET in p.read_text()]
    assert any("[key]" in p.read_text() for p in cache.rglob("*.json"))


def test_a_judge_behind_our_own_server_is_read_and_its_replies_are_kept(tmp_path, tiny_folders, capsys):
    from llm_persona.subject.load import load_subject

    subject = leaning(load_subject(tiny_folders[0]), list("0123456789"), 4.0)
    (tmp_path / "a.jsonl").write_text(
        "\n".join(json.dumps({"question": "Q?", "answer": f"Yes, {n}."}) for n in range(3))
    )
    command = ["judge", "score", str(tmp_path / "a.jsonl"), "--rubric", "coherence", "--judge",
               f"openai:{subject.name}", "--json", str(tmp_path / "out.json")]  # fmt: skip
    with running(make_app(subject, {})) as address:
        assert run([*command, "--base-url", f"{address}/v1"]) == 0
        found = json.loads((tmp_path / "out.json").read_text())
        assert run([*command, "--base-url", f"{address}/v1"]) == 0
        assert json.loads((tmp_path / "out.json").read_text())["answers"] == found["answers"]
        assert json.loads((tmp_path / "out.json").read_text())["calls"]["calls"] == 0
    assert found["calls"]["calls"] == 3
    for answer in found["answers"]:
        verdict = answer["scores"]["coherence"]
        prompt = grading(load_rubric("coherence"), answer["question"], answer["answer"]).prompt
        likeliest = chance(subject, rendered(subject, prompt)).topk(20)
        pairs = zip(likeliest.indices.tolist(), likeliest.values.tolist(), strict=True)
        top = {subject.tokenizer.decode([token]): math.log(p) for token, p in pairs}
        assert verdict["mass"] == pytest.approx(expectation(top)[1], rel=0.05)
        assert verdict["reply"]
        assert verdict["score"] is not None or verdict["unscored"]
    assert "Scores by openai:" in " ".join(capsys.readouterr().out.split())  # (a long name wraps)


def message(text, stop="end_turn"):
    content = [{"type": "text", "text": text}] if text else []
    return {"id": "m", "type": "message", "role": "assistant", "model": "m", "content": content, "stop_reason": stop,
            "stop_sequence": None, "usage": {"input_tokens": 9, "output_tokens": 1}}  # fmt: skip


def test_a_judge_at_anthropic_is_read_from_its_text(monkeypatch):
    with pytest.raises(UserError, match="needs ANTHROPIC_API_KEY"):
        verdicts(anthropic_judge("m", "http://127.0.0.1:9"), asked(1))
    monkeypatch.setenv("ANTHROPIC_API_KEY", SECRET)
    server = Faulty(message("64"), "429-after", message("REFUSAL"), message("", "refusal"), message(f"71 {SECRET}"))
    with running(server) as address:
        judge = anthropic_judge("m", address, Limits(1, longest_pause=0.3))
        found = verdicts(judge, asked(4))
        assert [(v.score, v.unscored) for v in found] == [(64, ""), (None, "refusal"), (None, "refusal"), (71, "")]
        assert found[3].reply == "71 [key]"
        assert judge.caller.record.as_json()["retries"] == {"HTTP 429": 1}
        sent = server.requests[0][0]
        assert sent["messages"] == [{"role": "user", "content": asked(1)[0].prompt}]
        assert not {"temperature", "seed", "logprobs"} & set(sent)
        verdicts(anthropic_judge("m", address), asked(4))
        assert len(server.requests) == 5
        server.plan = ["500"]
        with pytest.raises(UserError, match="HTTP 500"):
            verdicts(anthropic_judge("other", address, QUICK), asked(2))
        server.plan = ["401"]
        with pytest.raises(UserError, match="check ANTHROPIC_API_KEY"):
            verdicts(anthropic_judge("third", address, QUICK), asked(2))


def test_a_missing_sdk_is_one_helpful_line(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "anthropic", None)
    monkeypatch.setenv("ANTHROPIC_API_KEY", SECRET)
    with pytest.raises(UserError, match=r"pip install 'llm-persona\[api\]'"):
        verdicts(anthropic_judge("m"), asked(1))

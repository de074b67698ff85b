"""Models behind an API: bounded in calls, tries and time; nothing is paid twice; what happened is on record."""

from __future__ import annotations

import json
import math

import pytest
from clocks import Told
from conftest import make_subject
from servers import Faulty, completion, running

from llm_persona.domain.condition import Condition
from llm_persona.domain.errors import UserError
from llm_persona.domain.item_sources import load_items
from llm_persona.instruments.trait_benchmark import evaluate
from llm_persona.interfaces.serve.app import make_app
from llm_persona.subject.remote.api_subject import ApiSubject, connect
from llm_persona.subject.remote.caller import Caller, Limits
from llm_persona.subject.remote.openai_api import OpenAIEndpoint
from llm_persona.subject.remote.requests import ChatRequest, Failure, Reply

QUICK = Limits(concurrency=4, attempts=3, longest_pause=0.3)


def requests(count):
    return [ChatRequest((("user", f"question {n}"),), max_tokens=3, top_logprobs=5) for n in range(count)]


def caller(address, folder=None, limits=QUICK, clock=None):
    made = Caller(OpenAIEndpoint("m", f"{address}/v1"), folder, limits)
    made.clock = clock or made.clock
    return made


@pytest.fixture
def keyed(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted-secret-0123456789")


def test_replies_come_in_order_within_the_concurrency_and_are_never_paid_twice(tmp_path):
    server = Faulty("ok")
    with running(server) as address:
        asked = caller(address, tmp_path)
        found = asked.ask_all(requests(12))
        assert all(isinstance(r, Reply) and r.text == "42" for r in found)
        assert [r["messages"][0]["content"] for r, _ in server.requests[:1]] == ["question 0"]
        assert server.most_open <= 4
        again = caller(address, tmp_path)
        assert again.ask_all(requests(12)) == found
        assert len(server.requests) == 12
        assert again.record.as_json()["cached"] == 12


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [("429", "HTTP 429"), ("429-after", "HTTP 429"), ("500", "HTTP 500"), ("cut", "connection failed"),
     ("malformed", "malformed reply"), ("empty", "malformed reply"), ("drip", "no whole reply within")],
)  # fmt: skip
def test_trouble_that_passes_is_tried_again_and_trouble_that_stays_ends_in_bounded_time(trouble, reason, tmp_path):
    clock = Told()
    with running(Faulty("ok", trouble, "ok", dripping=clock.expire)) as address:
        asked = caller(address, tmp_path, clock=clock)
        assert all(isinstance(r, Reply) for r in asked.ask_all(requests(3)))
        assert any(reason in text for text in asked.record.retries)
    clock = Told()
    with running(Faulty("ok", trouble, dripping=clock.expire)) as address:
        asked = caller(address, clock=clock)
        found = asked.ask_all(requests(3))
        assert isinstance(found[0], Reply)
        assert all(isinstance(r, Failure) and reason in r.reason for r in found[1:])
        assert sum(asked.record.failures.values()) == 2
    tries, pauses = 1 + 2 * QUICK.attempts, 2 * (QUICK.attempts - 1)
    assert clock.limits == [QUICK.seconds] * tries  # every try has its limit, and so has every pause
    assert len(clock.pauses) == pauses
    assert 0 < max(clock.pauses) <= QUICK.longest_pause


def test_a_reply_that_drips_in_for_ever_is_given_up_by_the_clock_on_the_wall():
    with running(Faulty("drip")) as address, pytest.raises(UserError, match=r"no whole reply within 0\.2 s"):
        caller(address, limits=Limits(attempts=1, seconds=0.2)).ask_all(requests(1))


@pytest.mark.parametrize(
    ("refusal", "message"), [("401", "key was not accepted"), ("404", "no such model"), ("400", "not accepted")]
)
def test_what_no_retry_can_mend_ends_at_once(refusal, message, keyed):
    server = Faulty(refusal)
    with running(server) as address, pytest.raises(UserError, match=message):
        caller(address).ask_all(requests(20))
    assert len(server.requests) == 1


def test_no_server_is_one_helpful_line():
    with pytest.raises(UserError, match=r"connection failed.*check that the server runs"):
        caller("http://127.0.0.1:9").ask_all(requests(3))


def test_max_calls_is_a_bound_and_the_next_run_goes_on(tmp_path):
    server = Faulty("ok")
    with running(server) as address:
        few = Limits(concurrency=2, attempts=3, max_calls=5)
        found = caller(address, tmp_path, few).ask_all(requests(8))
        assert len(server.requests) == 5
        assert [r.reason for r in found if isinstance(r, Failure)] == ["--max-calls 5 reached"] * 3
        assert all(isinstance(r, Reply) for r in caller(address, tmp_path, few).ask_all(requests(8)))
        assert len(server.requests) == 8


def test_the_estimate_counts_only_what_is_not_known(tmp_path):
    with running(Faulty("ok")) as address:
        asked = caller(address, tmp_path)
        asked.ask_all(requests(3))
        found = asked.estimate(requests(5), rates=(1.0, 2.0))
    assert (found.calls, found.cached, found.completion_tokens) == (2, 3, 6)
    assert found.price == pytest.approx((found.prompt_tokens * 1.0 + 6 * 2.0) / 1e6)


def test_a_damaged_cache_entry_is_asked_for_again(tmp_path):
    server = Faulty("ok")
    with running(server) as address:
        asked = caller(address, tmp_path)
        asked.ask_all(requests(1))
        next(tmp_path.rglob("*.json")).write_text('{"text": ')
        assert isinstance(asked.ask_all(requests(1))[0], Reply)
    assert len(server.requests) == 2


def test_the_key_is_sent_and_is_nowhere_else(tmp_path, keyed):
    server = Faulty("ok", "500", {**completion("x"), "choices": [{"oops": "sk-planted-secret-0123456789"}]})
    with running(server) as address:
        asked = caller(address, tmp_path)
        asked.ask_all(requests(1))
        assert server.requests[0][1][b"authorization"] == b"Bearer sk-planted-secret-0123456789"
        with pytest.raises(UserError) as caught:
            asked.ask_all(requests(3))
        kept = [asked.record.as_json(), asked.endpoint.identity, repr(asked.endpoint.__dict__)]
        said = json.dumps([str(caught.value), *kept])
    assert "planted" not in said
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and "planted" in p.read_text()]


def test_a_key_from_a_dotenv_file_is_found_and_an_official_endpoint_without_one_is_refused(tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLM_PERSONA_CACHE", str(tmp_path / "cache"))
    with pytest.raises(UserError, match="needs OPENAI_API_KEY"):
        connect("openai:some-model").caller.ask_all(requests(1))
    (tmp_path / ".env").write_text("OPENAI_API_KEY=sk-from-the-file-12345\n")
    server = Faulty("ok")
    with running(server) as address:
        caller(address).ask_all(requests(1))
    assert server.requests[0][1][b"authorization"] == b"Bearer sk-from-the-file-12345"


def test_credentials_in_an_address_are_not_recorded():
    assert "pass" not in str(OpenAIEndpoint("m", "http://me:pass@localhost:9/v1").identity)


def test_choice_through_the_api_equals_choice_on_the_model_itself():
    subject = make_subject()
    items = load_items("openness").split("select")[:3]
    short = [type(i)(**{**i.__dict__, "situation": "It rains.", **{n: n[9:] for n in i.responses}}) for i in items]
    with running(make_app(subject, {})) as address:
        behind = ApiSubject("openai:tiny", caller(address, limits=Limits()))
        behind.caller.endpoint.model = subject.name
        for state in (Condition(), Condition("x", system="Be bold.")):
            with subject.under(state), behind.under(state):
                here, there = (evaluate(s, short, mode="generate") for s in (subject, behind))
                assert [r["answers"] for r in here.rows] == [r["answers"] for r in there.rows]


def test_an_api_without_log_probabilities_names_the_other_mode(tmp_path):
    items = load_items("openness").split("select")[:2]
    with running(Faulty({**completion("B")})) as address:
        subject = ApiSubject("openai:m", caller(address))
        with pytest.raises(UserError, match=r"no log-probabilities.*--mode generate"):
            evaluate(subject, items, mode="choice")
        with pytest.raises(UserError, match="--mode choice"):
            evaluate(subject, items, mode="likelihood")
        found = evaluate(subject, items, mode="generate").summary
        assert found["n"] == 2
        with pytest.raises(UserError, match="need a model that runs here"), subject.under(Condition(adapter="x")):
            pass


def test_a_call_that_failed_is_an_unscored_item_with_the_reason(tmp_path):
    items = load_items("openness").split("select")[:2]
    forward = completion("B", {"B": -0.1, " A": -3.0, "A": -3.0, "C": -5.0})
    backward = completion("A", {" A": -0.8, "A": -0.9, "D": -5.0})
    with running(Faulty(forward, backward, forward, "500")) as address:
        found = evaluate(
            ApiSubject("openai:m", caller(address, limits=Limits(1, 2, longest_pause=0.1))), items, mode="choice"
        )
    assert found.summary["n_unscored"] == 1
    assert "no log-probabilities" in next(iter(found.summary["unscored"]))
    assert found.rows[0]["high"] is False
    assert found.rows[0]["reversed"]["response_low1"] == pytest.approx(math.exp(-0.8) + math.exp(-0.9))

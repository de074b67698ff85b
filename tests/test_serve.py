"""The server: an OpenAI client can talk to a steered model, and no request disturbs another."""

from __future__ import annotations

import concurrent.futures
import json

import httpx2
import numpy as np
import openai
import pytest
from conftest import make_subject
from servers import running

from llm_persona.analysis.vectors import PersonaVector
from llm_persona.domain.condition import Condition, Steer
from llm_persona.interfaces.serve.app import ServeLimits, make_app
from llm_persona.interfaces.serve.guard import LOOPBACK
from llm_persona.subject.chat import render_prompt
from llm_persona.subject.decode import decode
from llm_persona.subject.generate import generate

QUESTION = {"role": "user", "content": "What now?"}


def some_vector(subject, seed=0):
    rng = np.random.default_rng(seed)
    directions = rng.standard_normal((subject.n_layers, subject.hidden_size)).astype(np.float32)
    meta = {"recommended": {"balanced": 1}}
    return PersonaVector(directions, np.full(subject.n_layers, 5.0, np.float32), meta)


@pytest.fixture(scope="module")
def subject():
    return make_subject()


@pytest.fixture(scope="module")
def vector(subject):
    return some_vector(subject)


@pytest.fixture(scope="module")
def address(subject, vector):
    limits = ServeLimits(new_tokens=40, body_bytes=20_000, waiting=50, seconds=30)
    with running(make_app(subject, {"v": vector}, limits=limits, hosts=LOOPBACK)) as found:
        yield found


@pytest.fixture
def client(address):
    with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as made:
        yield made


def post(address, body, **headers):
    content = body if isinstance(body, bytes) else json.dumps(body)
    return httpx2.post(f"{address}/v1/chat/completions", content=content, timeout=30,
                       headers={"content-type": "application/json", **headers})  # fmt: skip


def test_the_answer_is_what_generate_gives(client, subject):
    found = client.chat.completions.create(model="tiny-llama", messages=[QUESTION], max_tokens=12, temperature=0)
    own = generate(subject, ["What now?"], 12)[0]
    assert found.choices[0].message.content.strip() == own.text
    assert found.usage.prompt_tokens == len(render_prompt(subject, "What now?"))


def test_steps_join_to_the_answer_and_their_log_probabilities_sum_to_at_most_one(subject):
    steps = list(decode(subject, render_prompt(subject, "What now?"), 12, top_logprobs=5))
    assert "".join(s.text for s in steps).strip() == generate(subject, ["What now?"], 12)[0].text
    for step in steps:
        values = np.array([value for _, value in step.top])
        assert np.exp(values).sum() <= 1 + 1e-5
        assert step.logprob == values[0]


def test_a_persona_field_steers_that_request_alone(client, subject, vector):
    def ask(**extra):
        found = client.chat.completions.create(
            model="", messages=[QUESTION], max_tokens=12, temperature=0, extra_body=extra
        )
        return found.choices[0].message.content.strip()

    plain = ask()
    steered = ask(persona=[{"vector": "v", "dose": 3.0}])
    with subject.under(Condition("x", steers=(Steer(vector, 1, dose=3.0),))):
        assert generate(subject, ["What now?"], 12)[0].text == steered
    assert steered != plain
    assert ask() == plain


def test_concurrent_requests_answer_as_sequential_ones_do(client):
    doses = [0.0, 1.0, -1.0, 2.0, -2.0, 3.0, -3.0, 0.5]

    def ask(dose):
        persona = [{"vector": "v", "dose": dose}] if dose else []
        found = client.chat.completions.create(
            model="", messages=[QUESTION], max_tokens=10, temperature=0, extra_body={"persona": persona}
        )
        return found.choices[0].message.content

    alone = [ask(d) for d in doses]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, doses * 3)) == alone * 3


def test_a_stream_gives_the_same_text_in_pieces(client):
    settings = {"model": "", "messages": [QUESTION], "max_tokens": 12, "temperature": 0}
    whole = client.chat.completions.create(**settings)
    chunks = list(client.chat.completions.create(**settings, stream=True))
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == whole.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    assert len(chunks) > 5


def test_a_stream_that_is_left_early_frees_the_model(client):
    stream = client.chat.completions.create(model="", messages=[QUESTION], max_tokens=40, temperature=0, stream=True)
    next(iter(stream))
    stream.close()
    assert client.chat.completions.create(model="", messages=[QUESTION], max_tokens=2).choices


def test_a_stream_can_end_with_the_numbers_of_tokens(client):
    settings = {"model": "", "messages": [QUESTION], "max_tokens": 6, "temperature": 0}
    whole = client.chat.completions.create(**settings)
    *chunks, last = client.chat.completions.create(**settings, stream=True, stream_options={"include_usage": True})
    assert last.usage == whole.usage
    assert not last.choices
    assert all(c.usage is None for c in chunks)


def test_streams_of_different_steering_at_the_same_time_do_not_mix(client):
    def ask(dose, stream=True):
        settings = {"model": "", "messages": [QUESTION], "max_tokens": 10, "temperature": 0}
        body = {"persona": [{"vector": "v", "dose": dose}]}
        found = client.chat.completions.create(**settings, stream=stream, extra_body=body)
        if not stream:
            return found.choices[0].message.content
        return "".join(c.choices[0].delta.content or "" for c in found)

    doses = [0.0, 3.0, -3.0, 1.5]
    alone = [ask(d, stream=False) for d in doses]
    assert len(set(alone)) > 2
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, doses * 2)) == alone * 2


def test_the_model_can_be_looked_up_as_clients_do(client):
    assert client.models.retrieve("tiny-llama").id == "tiny-llama"
    assert client.models.list().data[0].vectors == ["v"]
    with pytest.raises(openai.NotFoundError, match="no model 'gpt-9' here"):
        client.models.retrieve("gpt-9")


def test_a_sampled_answer_follows_its_seed(client):
    def ask(seed):
        found = client.chat.completions.create(model="", messages=[QUESTION], max_tokens=12, temperature=1, seed=seed)
        return found.choices[0].message.content

    assert ask(1) == ask(1)
    assert len({ask(n) for n in range(4)}) > 1


def test_a_stop_text_ends_the_answer_before_it(client):
    whole = client.chat.completions.create(model="", messages=[QUESTION], max_tokens=12, temperature=0)
    text = whole.choices[0].message.content
    mark = text[3]
    found = client.chat.completions.create(model="", messages=[QUESTION], max_tokens=12, temperature=0, stop=mark)
    assert found.choices[0].message.content == text[: text.index(mark)]
    assert found.choices[0].finish_reason == "stop"


BAD = {
    "no JSON": (b"{oops", "JSON"),
    "no messages": ({}, "messages"),
    "unknown role": ({"messages": [{"role": "ghost", "content": "x"}]}, "role"),
    "last is not the user": ({"messages": [{"role": "assistant", "content": "x"}]}, "the last one"),
    "too many tokens": ({"messages": [QUESTION], "max_tokens": 41}, "at most 40"),
    "not a number": ({"messages": [QUESTION], "temperature": "hot"}, "temperature"),
    "unknown vector": ({"messages": [QUESTION], "persona": [{"vector": "w", "dose": 1}]}, "no vector 'w'"),
    "no strength": ({"messages": [QUESTION], "persona": [{"vector": "v"}]}, "dose or a coefficient"),
    "no such layer": ({"messages": [QUESTION], "persona": [{"vector": "v", "dose": 1, "layer": 9}]}, "layers 0 to 3"),
    "several choices": ({"messages": [QUESTION], "n": 3}, "n"),
    "longer than the model": ({"messages": [{"role": "user", "content": "x" * 2000}]}, "exceed the model's 512"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_request_is_refused_with_a_reason_and_the_server_goes_on(case, address):
    body, message = BAD[case]
    found = post(address, body)
    assert found.status_code == 400
    assert message in found.json()["error"]["message"]
    assert post(address, {"messages": [QUESTION], "max_tokens": 1}).status_code == 200


def test_another_model_or_address_is_not_found(address):
    assert post(address, {"model": "gpt-9", "messages": [QUESTION]}).status_code == 404
    assert httpx2.get(f"{address}/v2/anything").status_code == 404


def test_large_bodies_and_other_origins_are_refused(address):
    assert post(address, {"messages": [{"role": "user", "content": "x" * 30_000}]}).status_code == 413
    assert post(address, {"messages": [QUESTION]}, origin="http://evil.example").status_code == 403
    assert post(address, {"messages": [QUESTION]}, host="evil.example").status_code == 403


def test_a_body_without_a_declared_size_is_cut_off_too(address):
    def parts():
        for _ in range(40):
            yield b" " * 1000

    found = httpx2.post(f"{address}/v1/chat/completions", content=parts(), timeout=30)
    assert found.status_code == 413


def test_a_token_is_asked_for_where_one_is_set(subject):
    with running(make_app(subject, {}, token="secret-token")) as address:
        assert post(address, {"messages": [QUESTION], "max_tokens": 1}).status_code == 401
        good = post(address, {"messages": [QUESTION], "max_tokens": 1}, authorization="Bearer secret-token")
        assert good.status_code == 200
        assert httpx2.get(f"{address}/health").status_code == 200


def test_a_full_line_says_when_to_come_back_and_a_slow_answer_ends(subject):
    with running(make_app(subject, {}, limits=ServeLimits(waiting=1, seconds=60, new_tokens=400))) as address:
        with concurrent.futures.ThreadPoolExecutor(12) as pool:
            body = {"messages": [QUESTION], "max_tokens": 400, "temperature": 1}
            found = list(pool.map(lambda n: post(address, {**body, "seed": n}), range(12)))
        refused = [f for f in found if f.status_code == 429]
        assert refused
        assert all(f.headers["retry-after"] for f in refused)
        assert any(f.status_code == 200 for f in found)
    with running(make_app(subject, {}, limits=ServeLimits(seconds=0.05, new_tokens=400))) as address:
        assert post(address, {"messages": [QUESTION], "max_tokens": 400}).status_code == 504

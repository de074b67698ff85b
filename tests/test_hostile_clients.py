"""Clients that mean harm, or are merely slow: the server refuses, cuts off, and goes on for the others."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from typing import ClassVar
from urllib.parse import urlsplit

import httpx2
import pytest
from clocks import Standing, until
from conftest import make_subject
from servers import running

from llm_persona.domain.condition import Condition
from llm_persona.domain.errors import UserError
from llm_persona.interfaces.serve import slow_clients
from llm_persona.interfaces.serve.app import ServeLimits, make_app
from llm_persona.interfaces.serve.guard import LOOPBACK, checked_token, reaches_beyond
from llm_persona.interfaces.serve.slow_clients import HEAD_SECONDS, TimedProtocol
from llm_persona.interfaces.serve.worker import Gone, Worker

ASKED = {"messages": [{"role": "user", "content": "What now?"}], "max_tokens": 2, "temperature": 0}


@pytest.fixture(scope="module")
def subject():
    return make_subject()


@pytest.fixture(scope="module")
def address(subject):
    """A server with little room."""
    with running(small(subject), http=TimedProtocol, ws="none") as found:
        yield found


def small(subject):
    limits = ServeLimits(new_tokens=400, body_bytes=20_000, waiting=8, seconds=300)
    return make_app(subject, {}, limits=limits, hosts=LOOPBACK)


@pytest.fixture
def standing(subject):
    """The same server on a clock that stands still: its address, and the clock."""

    class Own(Standing):
        timers: ClassVar[list] = []

    with running(small(subject), http=Own, ws="none") as found:
        yield found, Own


def connect(address, buffer=None):
    parts = urlsplit(address)
    made = socket.socket()
    if buffer:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    made.settimeout(120)
    made.connect((parts.hostname, parts.port))
    return made


def head(size, *more):
    lines = ["POST /v1/chat/completions HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json"]
    return "\r\n".join([*lines, f"Content-Length: {size}", *more, "", ""]).encode()


def is_cut(connection):
    """Whether the server ends the connection, after what it still had to say (else reading times out)."""
    try:
        while connection.recv(65536):
            pass
    except ConnectionError:
        pass
    return True


def heads(clock):
    """Heads that are awaited now."""
    return [timer for timer in clock.waiting() if timer.seconds == HEAD_SECONDS]


def still_serves(address):
    return httpx2.post(f"{address}/v1/chat/completions", json=ASKED, timeout=30).status_code == 200


def test_a_head_that_drips_in_is_cut_off(standing):
    address, clock = standing
    with connect(address) as connection:
        connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nX-Slow: ")
        until(lambda: heads(clock))
        clock.pass_time(HEAD_SECONDS)
        assert is_cut(connection)
    assert still_serves(address)


def test_who_connects_and_says_nothing_is_cut_off(standing):
    address, clock = standing
    with connect(address) as connection:
        until(lambda: heads(clock))
        clock.pass_time(HEAD_SECONDS)
        assert is_cut(connection)


def test_the_head_of_a_further_request_has_the_same_limit(standing):
    address, clock = standing
    body = json.dumps(ASKED).encode()
    with connect(address) as connection:
        connection.sendall(head(len(body)) + body)
        assert b"200 OK" in connection.recv(65536)
        assert not heads(clock)
        connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nX-Slow: ")
        until(lambda: heads(clock))
        clock.pass_time(HEAD_SECONDS)
        assert is_cut(connection)


def test_who_was_refused_may_not_send_the_rest_for_ever(standing):
    address, clock = standing
    with connect(address) as connection:
        connection.sendall(head(10**9))
        assert b" 413 " in connection.recv(65536)
        connection.sendall(b"x")
        until(lambda: heads(clock))
        clock.pass_time(HEAD_SECONDS)
        assert is_cut(connection)
    assert still_serves(address)


def test_a_request_that_takes_its_time_within_the_limits_is_answered(standing):
    """The limit is the head's: a body may take longer."""
    address, clock = standing
    body = json.dumps(ASKED).encode()
    with connect(address) as connection:
        connection.sendall(head(len(body)))
        until(lambda: clock.timers and not clock.waiting())  # the head has arrived
        for number in range(4):
            clock.pass_time(HEAD_SECONDS)
            connection.sendall(body[number * len(body) // 4 : (number + 1) * len(body) // 4])
        assert b"200 OK" in connection.recv(65536)


def test_an_answer_that_nobody_reads_is_cut_off(monkeypatch):
    monkeypatch.setattr(slow_clients, "READ_SECONDS", 0.2)  # who reads nothing at all has not read within it either
    size, ended = 64 << 20, threading.Event()

    async def flood(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % size)]})
        for _ in range(size >> 16):
            await send({"type": "http.response.body", "body": bytes(1 << 16), "more_body": True})
        ended.set()

    with running(flood, http=TimedProtocol, lifespan="off") as place, connect(place, buffer=2048) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert ended.wait(300)
        assert sum(len(part) for part in iter(lambda: _rest(connection), b"")) < size


def _rest(connection):
    try:
        return connection.recv(65536)
    except ConnectionError:
        return b""


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "attacker.example"}, 403),
        ({"Host": "127.0.0.1.attacker.example"}, 403),
        ({"Host": "localhost@attacker.example"}, 403),
        ({"Host": "attacker.example#localhost"}, 403),
        ({"Host": ""}, 403),
        ({"Host": "["}, 400),
        ({"Host": "localhost:9999"}, 200),
        ({"Host": "[::1]:8000"}, 200),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://["}, 400),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Origin": "http://attacker.example", "Content-Type": "text/plain"}, 403),
    ],
)
def test_other_origins_and_names_are_refused(address, headers, status):
    found = httpx2.post(f"{address}/v1/chat/completions", content=json.dumps(ASKED), timeout=30,
                        headers={"Content-Type": "application/json", **headers})  # fmt: skip
    assert found.status_code == status
    if status != 200:
        assert found.json()["error"]["message"]
        assert "access-control-allow-origin" not in found.headers


def test_a_page_of_another_origin_gets_no_leave_to_ask(address):
    found = httpx2.options(f"{address}/v1/chat/completions", headers={
        "Origin": "http://attacker.example", "Access-Control-Request-Method": "POST"})  # fmt: skip
    assert found.status_code == 403


@pytest.mark.parametrize(
    "body",
    [b"[" * 15_000, b'{"messages": "\xff"}', b"\x00" * 100, b'"' + b"\\" * 9000, b"9" * 6000, b"null", b"[]"],
)
def test_a_body_that_is_no_request_is_refused_in_the_form_that_clients_read(address, body):
    found = httpx2.post(f"{address}/v1/chat/completions", content=body, timeout=30,
                        headers={"Content-Type": "application/json"})  # fmt: skip
    assert found.status_code == 400
    assert found.json()["error"]["message"]


def test_another_method_is_refused_in_that_form_too(address):
    found = httpx2.get(f"{address}/v1/chat/completions")
    assert found.status_code == 405
    assert "POST" in found.json()["error"]["message"]


def test_who_can_be_reached_needs_a_token_and_a_short_one_is_none():
    assert checked_token(None, exposed=False) is None
    assert len(checked_token(None, exposed=True)) >= 32
    assert checked_token(None, exposed=True) != checked_token(None, exposed=True)
    assert checked_token("0123456789abcdef", exposed=True) == "0123456789abcdef"
    for token in ("", " " * 20, "short"):
        for exposed in (True, False):
            with pytest.raises(UserError, match="at least 16"):
                checked_token(token, exposed)


@pytest.mark.parametrize("arguments", [["--token", ""], ["--host", "0.0.0.0", "--token", "short"]])
def test_a_guessable_token_is_refused_before_a_model_is_loaded(arguments, capsys):
    from llm_persona.interfaces.cli.main import run

    assert run(["serve", "--port", "0", "--model", "/nowhere", *arguments]) == 2
    assert "--token" in capsys.readouterr().err


def test_an_exposed_server_says_the_token_that_it_made(capsys):
    from llm_persona.interfaces.cli.main import run

    assert run(["serve", "--port", "0", "--model", "/nowhere", "--host", "0.0.0.0"]) == 2
    assert "clients need Authorization: Bearer " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("address", "beyond"),
    [("127.0.0.1", False), ("127.3.2.1", False), ("::1", False), ("0.0.0.0", True), ("::", True),
     ("192.168.1.5", True), ("fe80::1%eth0", True)],
)  # fmt: skip
def test_what_counts_is_the_address_that_the_socket_is_bound_to(address, beyond):
    assert reaches_beyond(address) is beyond


def test_the_command_listens_on_loopback_unless_told_otherwise():
    from llm_persona.interfaces.cli.serve import serve

    assert {p.name: p.default for p in serve.params}["host"] == "127.0.0.1"


# the line


def rendered():
    return [1, 2, 3]


def collect(job):
    async def work():
        return [step async for step in job.steps()]

    return work()


def test_a_panic_below_python_costs_its_own_request_alone(subject):
    class Panic(BaseException):
        pass

    def broken():
        raise Panic("index out of bounds, /home/me/secret")

    async def ask():
        worker = Worker(subject, 4, 20)
        try:
            with pytest.raises(RuntimeError, match=r"^Panic while answering$"):
                await collect(worker.start(broken, Condition("x")))
            return await collect(worker.start(rendered, Condition("x"), max_new_tokens=2))
        finally:
            worker.close()

    assert len(asyncio.run(ask())) >= 1


def test_a_client_that_leaves_while_it_waits_is_never_answered(subject):
    asked = []

    async def ask():
        worker = Worker(subject, 4, 20)
        hold, held = threading.Event(), threading.Event()

        def slow():
            held.set()
            hold.wait(300)
            return rendered()

        try:
            first = worker.start(slow, Condition("x"), max_new_tokens=1)
            left = worker.start(lambda: asked.append("left") or rendered(), Condition("x"), max_new_tokens=1)
            last = worker.start(lambda: asked.append("last") or rendered(), Condition("x"), max_new_tokens=1)
            await asyncio.to_thread(held.wait, 300)
            left.give_up()
            hold.set()
            with pytest.raises(Gone):
                await collect(left)
            await collect(first)
            await collect(last)
        finally:
            worker.close()

    asyncio.run(ask())
    assert asked == ["last"]


def test_a_server_that_stops_ends_the_running_answer_and_those_in_line(subject):
    async def ask():
        worker = Worker(subject, 4, 60)
        running_job = worker.start(rendered, Condition("x"), max_new_tokens=400, temperature=2.0)
        waiting = worker.start(rendered, Condition("x"), max_new_tokens=400)
        await anext(running_job.steps())
        await asyncio.to_thread(worker.close)
        with pytest.raises(Gone):
            await collect(waiting)
        return worker

    assert not asyncio.run(ask())._thread.is_alive()

"""The playground's door: the token, what a page may load, and what is out of reach."""

from __future__ import annotations

import httpx2
import pytest
from servers import running
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from llm_persona.interfaces.cli.main import run
from llm_persona.interfaces.playground.door import Door

TOKEN = "a-long-secret"


def a_page(_request):
    return PlainTextResponse("inside")


@pytest.fixture(scope="module")
def doors():
    inner = Starlette(routes=[Route("/{rest:path}", a_page, methods=["GET", "POST"])])
    with running(Door(inner, TOKEN)) as closed, running(Door(inner, None)) as open_:
        yield closed, open_


def test_without_the_token_nothing_is_shown(doors):
    for path in ("/", "/config", "/gradio_api/queue/join", "/?token=wrong", "/?token="):
        found = httpx2.get(f"{doors[0]}{path}")
        assert found.status_code == 401
        assert "inside" not in found.text
    assert httpx2.get(f"{doors[0]}/", cookies={"llm_persona_x": TOKEN}).status_code == 401


def test_the_token_is_brought_once_and_kept_where_scripts_and_other_sites_do_not_get_it(doors):
    with httpx2.Client(base_url=doors[0]) as client:
        entry = client.get(f"/?token={TOKEN}")
        assert entry.status_code == 303
        cookie = entry.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        assert TOKEN not in cookie
        assert client.get("/").text == "inside"


def test_the_page_may_load_nothing_from_elsewhere_and_files_are_out_of_reach(doors):
    found = httpx2.get(f"{doors[1]}/")
    assert found.text == "inside"
    policy = found.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "http" not in policy
    for path in ("/gradio_api/file=/etc/passwd", "/gradio_api/upload", "/gradio_api/proxy=http://a/"):
        assert httpx2.get(f"{doors[1]}{path}").status_code == 404


def test_an_exposed_playground_asks_for_a_token(capsys, monkeypatch):
    monkeypatch.delenv("LLM_PERSONA_TOKEN", raising=False)
    assert run(["playground", "--host", "0.0.0.0"]) == 2
    assert "give --token" in capsys.readouterr().err
    assert run(["playground", "--host", "0.0.0.0", "--token", "short"]) == 2
    assert "at least 16" in capsys.readouterr().err

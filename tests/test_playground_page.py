"""The page as it is served: nothing from elsewhere, no telemetry, nothing that a script could call by name."""

from __future__ import annotations

import re

import httpx2
import pytest
from conftest import make_subject
from servers import running
from stand_in_runs import a_run

from llm_persona.interfaces.playground.app import make_app
from llm_persona.interfaces.playground.desk import Desk
from llm_persona.interfaces.playground.page import Page
from llm_persona.interfaces.playground.shelf import stock
from llm_persona.interfaces.serve.guard import LOOPBACK


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    place = tmp_path_factory.mktemp("playground")
    desk = Desk(lambda name: make_subject(), seconds=60)
    page = Page(stock(str(a_run(place / "first")), [], None, "m"), desk, place / "made")
    with running(make_app(page, None, LOOPBACK)) as address:
        yield page, address
    desk.close()


def test_the_page_names_no_font_script_or_style_of_another_place(served):
    text = httpx2.get(f"{served[1]}/").text
    linked = re.findall(r'(?:src|href)\s*=\s*["\']?(https?:[^"\'\s>]*)', text)
    assert linked == []
    assert "fonts.googleapis" not in text
    theme = httpx2.get(f"{served[1]}/theme.css").text
    assert "@import" not in theme
    assert not re.search(r"url\(['\"]?https?:", theme)


def test_analytics_and_the_list_of_calls_are_off(served):
    config = httpx2.get(f"{served[1]}/config").json()
    assert config["analytics_enabled"] is False
    assert all(d["api_visibility"] == "private" for d in config["dependencies"] if d["targets"][0][1] != "unload")


def test_another_name_or_origin_is_refused(served):
    assert httpx2.get(f"{served[1]}/", headers={"host": "evil.example"}).status_code == 403
    body = {"data": [], "fn_index": 0, "session_hash": "x"}
    found = httpx2.post(f"{served[1]}/gradio_api/queue/join", json=body, headers={"origin": "http://evil.example"})
    assert found.status_code == 403


def test_a_vector_made_on_the_page_gets_a_slider(served):
    page, _ = served
    *_, last = page._make("tiny", "extraversion", ["openness"])
    assert "extraversion: made" in last[0]
    sliders = last[4 : 4 + len(page.doses)]
    assert [s["visible"] for s in sliders[:3]] == [True, True, False]
    assert (page.made / "extraversion.safetensors").is_file()


def test_choosing_vectors_shows_their_sliders_alone(served):
    page, _ = served
    found = page._chosen("tiny", [], "openness")
    assert found[0]["value"] is None
    assert not any(update["visible"] for update in found[1:])

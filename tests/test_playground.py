"""The playground without its page: what is on offer, one thing at a time, escaping, copying, the door."""

from __future__ import annotations

import contextlib
import io
import json
import shlex
import threading
from html.parser import HTMLParser

import httpx2
import numpy as np
import pytest
from conftest import make_subject
from hypothesis import given
from hypothesis import strategies as st
from servers import running
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from llm_persona.analysis.vectors import PersonaVector
from llm_persona.domain.condition import Condition, Steer
from llm_persona.domain.errors import UserError
from llm_persona.interfaces.cli.main import cli, run
from llm_persona.interfaces.playground import paint
from llm_persona.interfaces.playground.desk import Desk, zero_rows
from llm_persona.interfaces.playground.door import Door
from llm_persona.interfaces.playground.recipe import Push, Recipe
from llm_persona.interfaces.playground.settings import NO_ADAPTER, understood
from llm_persona.interfaces.playground.shelf import stock
from llm_persona.interfaces.playground.sliders import dose_slider, marks
from llm_persona.interfaces.playground.view import READERS, Shown, changes, gauge, panes
from llm_persona.studies.side_by_side import Pair, Written, Zero

TOKEN = "a-long-secret"


def a_vector(layers=4, hidden=32, seed=0, **meta):
    rng = np.random.default_rng(seed)
    directions = rng.standard_normal((layers, hidden)).astype(np.float32)
    return PersonaVector(directions, np.full(layers, 5.0, np.float32), {"trait": "openness", **meta})


def a_run(folder, model="tiny", usable=(-0.2, 0.3), trait="openness", adapter=True):
    a_vector(model=model, trait=trait, recommended={"balanced": 2, "quality": 1}).save(
        folder / "vectors" / f"{trait}.safetensors"
    )
    results = {"model": model, "traits": {trait: {"dose_response": {"usable_range": list(usable)}}}}
    (folder / "results.json").write_text(json.dumps(results))
    if adapter:
        place = folder / "adapters" / f"{trait}-high"
        place.mkdir(parents=True)
        (place / "adapter_config.json").write_text("{}")
        (place / "adapter_model.safetensors").write_bytes(b"")
    return folder


# What is on offer


def test_a_run_brings_its_model_vectors_usable_range_layer_and_adapters(tmp_path):
    shelf = stock(str(a_run(tmp_path / "first")), [], None, "default")
    assert shelf.first == "tiny"
    offer = shelf.vectors_of("tiny")[0]
    assert (offer.name, offer.usable, offer.layer, offer.layer_from) == ("openness", (-0.2, 0.3), 2, "recommended")
    assert shelf.adapters_of("tiny") == [str(tmp_path / "first" / "adapters" / "openness-high")]


def test_a_given_file_is_offered_at_its_best_known_layer(tmp_path):
    a_vector(recommended={"quality": 3}).save(tmp_path / "a.safetensors")
    a_vector().save(tmp_path / "b.safetensors")
    found = stock(None, [str(tmp_path / "a.safetensors"), str(tmp_path / "b.safetensors")], None, "m").offers
    assert [o.layer for o in found] == [3, 2]
    assert [o.name for o in found] == ["openness", "openness (b)"]
    assert found[0].usable is None
    assert "effect was not measured" in found[0].layer_from


def test_without_a_run_everything_in_the_runs_folder_is_offered_and_damaged_files_are_left_out(tmp_path):
    a_run(tmp_path / "one")
    a_run(tmp_path / "two", model="other", adapter=False)
    (tmp_path / "two" / "vectors" / "broken.safetensors").write_bytes(b"x")
    shelf = stock(None, [], None, "default", tmp_path)
    assert set(shelf.models) == {"tiny", "other"}
    assert len({o.name for o in shelf.offers}) == 2
    assert stock(None, [], None, "default", tmp_path / "nothing").first == "default"


def test_the_model_asked_for_comes_first(tmp_path):
    shelf = stock(str(a_run(tmp_path / "first")), [], "mine", "default")
    assert shelf.models == ["mine", "tiny"]
    assert shelf.vectors_of("mine") == []


def test_a_run_that_is_none_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(UserError, match="no such run folder; make one with `llm-persona run"):
        stock(str(tmp_path / "none"), [], None, "m")
    with pytest.raises(UserError, match="holds no vectors"):
        stock(str(tmp_path), [], None, "m")


# What the controls say


@pytest.fixture
def shelf(tmp_path):
    return stock(str(a_run(tmp_path / "first")), [], None, "default")


def settings(shelf, dose=0.1, layer=2, chosen=("openness",), **other):
    given = {"model": "tiny", "adapter": NO_ADAPTER, "system": "", "tokens": 16, "question": "Hello?", **other}
    return understood(shelf, chosen=list(chosen), doses=[dose, 0.3], layers=[layer, 1], **given)


def test_what_is_set_is_what_is_copied_and_what_the_model_is_put_into(shelf):
    adapter = shelf.adapters_of("tiny")[0]
    found = settings(shelf, -0.15, 3, system="Be brief.", adapter=adapter)
    steer = found.condition.steers[0]
    push = found.recipe.pushes[0]
    assert (steer.dose, steer.layer) == (push.dose, push.layer) == (-0.15, 3)
    assert found.condition.system == found.recipe.system == "Be brief."
    assert found.condition.adapter == found.recipe.adapter == adapter
    assert found.condition.name == "system turn + adapter openness-high + openness@3 dose -0.15"
    assert changes(found)


def test_a_dose_of_zero_steers_nothing_but_its_vector_is_still_read(shelf):
    found = settings(shelf, 0.0)
    assert not changes(found)
    assert found.recipe.pushes == ()
    assert len(found.vectors) == 1


def test_a_vector_put_away_neither_steers_nor_is_read(shelf):
    found = settings(shelf, 0.2, chosen=())
    assert not changes(found)
    assert found.offers == ()


def test_a_dose_beyond_the_usable_range_is_warned_of(shelf):
    assert settings(shelf, 0.3).warning == ""
    assert "beyond the usable range (-0.2 to +0.3)" in settings(shelf, 0.31).warning
    assert "beyond" in settings(shelf, -0.21).warning


def test_nothing_that_is_not_on_offer_can_be_loaded(shelf):
    with pytest.raises(UserError, match="model is not on offer"):
        settings(shelf, model="/etc")
    with pytest.raises(UserError, match="adapter is not on offer"):
        settings(shelf, adapter="/tmp/elsewhere")


def test_a_slider_goes_beyond_its_usable_range_and_marks_it(shelf, tmp_path):
    offer = shelf.offers[0]
    found = dose_slider(offer, True)
    assert -found["minimum"] == found["maximum"] == pytest.approx(0.45)
    assert "-0.2 to +0.3" in found["info"]
    style = marks(shelf.offers)
    assert "#dose-0 input" in style
    assert f"* {(-0.2 + 0.45) / 0.9:.4f})" in style
    assert f"* {(0.3 + 0.45) / 0.9:.4f})" in style
    a_vector().save(tmp_path / "unmeasured.safetensors")
    other = stock(None, [str(tmp_path / "unmeasured.safetensors")], None, "m")
    assert "not measured" in dose_slider(other.offers[0], True)["info"]
    assert marks(other.offers) == ""


def test_panes_are_coloured_by_the_vector_layer_and_reader_asked_for(shelf):
    offer = shelf.offers[0]
    zero = Zero(np.zeros((4, 32)), np.zeros((4, 32)), np.zeros((2, 4, 32)), 2, 8)
    one = np.arange(4.0).reshape(1, 1, 4) * offer.vector.norms
    base = Written((1, 2), 1, ("Yes",), "stop", by_itself=one, by_base=one)
    other = Written((1, 2), 1, ("No",), "stop", by_itself=-one, by_base=2 * one)
    shown = Shown(Pair("?", Condition("openness@2 dose +0.1"), base, other), (offer,), zero)
    left, right, legend = panes(shown, "openness", 2, READERS[0])
    assert 'data-v="+2.00"' in left
    assert 'data-v="+4.00"' in right
    assert "at layer 2" in legend
    assert "8 high and low responses to 2 questions" in legend
    assert 'data-v="-3.00"' in panes(shown, "openness", 3, READERS[1])[1]
    assert "data-v" not in "".join(panes(shown, None, 0, READERS[0]))


def test_the_gauge_reads_each_vector_at_its_steering_layer(shelf):
    offer = shelf.offers[0]
    zero = Zero(np.zeros((4, 32)), np.zeros((4, 32)), np.random.default_rng(0).standard_normal((3, 4, 32)), 3, 12)
    opening = np.arange(4.0)[None] * offer.vector.norms
    page = gauge(settings(shelf, layer=1), opening, 2 * opening, zero)
    assert "openness, layer 1: base +1.00, with your settings +2.00" in page
    assert "0 is the mean of 3 questions" in page


# One thing at a time


@pytest.fixture(scope="module")
def vector():
    return a_vector()


@pytest.fixture
def desk():
    made = Desk(lambda name: make_subject(), seconds=60)
    yield made
    made.close()


def strong(vector):
    return Condition("strong", steers=(Steer(vector, 1, dose=3.0),))


def test_questions_of_several_pages_are_answered_as_if_each_were_alone(desk, vector):
    def answers(condition):
        last = list(desk.ask("tiny", "What now?", condition, [vector], 8))[-1]
        return last.base.text, last.other.text if last.other else None

    conditions = [strong(vector), Condition("low", steers=(Steer(vector, 2, dose=-3.0),)), Condition()]
    alone = [answers(c) for c in conditions]
    found = [None] * 9
    threads = [threading.Thread(target=lambda n=n: found.__setitem__(n, answers(conditions[n % 3]))) for n in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == alone * 3


def test_a_page_that_goes_away_frees_the_model(desk, vector):
    steps = desk.ask("tiny", "What now?", strong(vector), [vector], 300)
    next(steps)
    steps.close()
    assert list(desk.stream("tiny", lambda subject, _: (len(subject.steering_layers) for _ in range(1)))) == [0]


def test_stop_ends_the_answer_with_what_is_written(desk, vector):
    stop = threading.Event()
    for pair in desk.ask("tiny", "What now?", strong(vector), [vector], 300, stop):
        if pair.base.pieces:
            stop.set()
    assert pair.base.finish == "halted"
    assert 0 < len(pair.base.by_base) < 300


def test_the_time_limit_ends_an_answer(vector):
    desk = Desk(lambda name: make_subject(), seconds=0.0)
    pairs = list(desk.ask("tiny", "What now?", strong(vector), [vector], 300))
    desk.close()
    assert len(pairs[-1].base.pieces) <= 1


def test_the_last_state_always_arrives_and_the_base_is_written_once(desk, vector):
    first = list(desk.ask("tiny", "What now?", strong(vector), [vector], 6))[-1]
    again = list(desk.ask("tiny", "What now?", strong(vector), [vector], 6))[-1]
    assert first.other.by_base is not None
    assert again.base is first.base


def test_a_fault_reaches_the_page_that_asked_and_the_next_question_is_answered(desk, vector):
    with pytest.raises(UserError, match="exceeds the model's 512"):
        list(desk.ask("tiny", "x" * 600, Condition(), [vector], 8))
    assert list(desk.ask("tiny", "What now?", Condition(), [vector], 2))[-1].base.text


def test_another_model_forgets_the_answers_of_the_first(vector):
    loaded = []
    desk = Desk(lambda name: loaded.append(name) or make_subject(seed=len(loaded)), seconds=60)
    texts = [list(desk.ask(m, "What now?", Condition(), [vector], 8))[-1].base.text for m in ("a", "b", "a")]
    desk.close()
    assert loaded == ["a", "b", "a"]
    assert texts[0] != texts[1]


def test_the_zero_rests_on_every_trait_and_on_both_poles():
    rows = zero_rows()
    groups = {row.group for row in rows}
    assert len(groups) >= 8
    assert {(row.group, row.pole) for row in rows} == {(g, p) for g in groups for p in ("high", "low")}
    assert len(rows) == 2 * len(groups)


# Escaping

HOSTILE = ["<script>alert(1)</script>", '<img src=x onerror="alert(1)">', "${alert(1)}", "{{value}}", "a & b", "'\"`"]


class Seen(HTMLParser):
    """Tags and text of a page, as a browser has them."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.tags, self.text = [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, tuple(name for name, _ in attrs)))

    def handle_data(self, data):
        self.text += data


def seen(page):
    found = Seen()
    found.feed(page)
    return found


OURS = {"section", "h3", "div", "p", "span", "b", "i", "br", "small"}


@given(st.one_of(st.sampled_from(HOSTILE), st.text(max_size=40)))
def test_model_text_is_text_wherever_it_is_shown(text):
    values = np.array([0.8])
    drawn = [
        paint.answer(text, Written(pieces=(text,)), None, 1.0, text),
        paint.answer(text, Written(pieces=(text,), finish="stop"), values, 1.0),
        paint.legend(text, 3, 1.0, text),
        paint.gauge([paint.Needle(text, 3, 0.1, 0.5, 0.2)], text),
        paint.warning(text),
    ]
    for page in drawn:
        found = seen(page)
        assert {tag for tag, _ in found.tags} <= OURS
        assert not {a for _, attrs in found.tags for a in attrs if a.startswith("on") or a in ("src", "href")}
        assert not any(mark in page for mark in ("${", "{{", "<script", "<img"))
    for page in drawn[:2]:
        assert "".join(text.split()) in "".join(seen(page).text.split())


def test_a_token_carries_its_number_its_side_and_more_than_a_colour():
    written = Written(pieces=("Yes", ", b", "old", ""), finish="length")
    page = paint.answer("x", written, np.array([1.0, -0.5, 0.01, 3.0]), 1.0)
    assert 'class="lp-t lp-high lp-strong"' in page
    assert 'class="lp-t lp-low"' in page
    assert 'data-v="-0.50"' in page
    assert page.count("data-v") == 3  # a token without a character of its own is not drawn
    assert "4 tokens, cut at the length asked for; mean +0.88 pole gaps" in page


def test_colours_are_full_at_a_round_distance_that_most_tokens_stay_below():
    assert paint.limit_of([np.array([0.1, -0.2])]) == 1.0
    assert paint.limit_of([np.linspace(-2.2, 2.2, 100)]) == 2.5
    assert paint.limit_of([]) == 1.0
    assert paint.limit_of([np.array([np.nan])]) == 1.0


def test_the_gauge_is_readable_without_seeing_it():
    page = paint.gauge([paint.Needle("openness", 17, -0.07, 1.34, 0.1)], "note")
    assert 'aria-label="openness, layer 17: base -0.07, with your settings +1.34"' in page


# Copying

ODD = Recipe("m o d", '-- what\'s "next"?\n$(now)', (Push("o", "a b.safetensors", 3, -0.2),), "-ad", "be <b>", 16)


def parsed(command):
    """The values that the command line makes of a command."""
    words = shlex.split(command)
    assert words[0] == "llm-persona"
    context = cli.make_context("llm-persona", words[1:])
    name, steer, rest = cli.resolve_command(context, [*context.protected_args, *context.args])
    assert name == "steer"
    return steer.make_context("steer", rest).params


@pytest.mark.filterwarnings("ignore:'Context.protected_args'")
def test_the_command_says_what_is_set_whatever_the_texts_are():
    found = parsed(ODD.command())
    assert found["prompts"] == (ODD.prompt,)
    assert found["model"] == "m o d"
    assert (found["vectors"], found["layers"], found["doses"]) == (("a b.safetensors",), ("3",), (-0.2,))
    assert (found["adapter"], found["system"], found["max_new_tokens"]) == ("-ad", "be <b>", 16)


def test_the_python_says_what_is_set_whatever_the_texts_are():
    text = ODD.python()
    compile(text, "copied", "exec")
    assert repr(ODD.prompt) in text
    assert "dose=-0.2" in text


def test_command_and_python_give_the_answers_that_the_page_shows(tiny_folders, tmp_path, monkeypatch, capsys):
    import llm_persona

    monkeypatch.chdir(tmp_path)
    a_vector(model=tiny_folders[0]).save(tmp_path / "v.safetensors")
    recipe = Recipe(tiny_folders[0], "What now?", (Push("openness", "v.safetensors", 1, 3.0),), None, "Be brief.", 8)
    vector = PersonaVector.load("v.safetensors")
    condition = Condition("x", "Be brief.", None, (Steer(vector, 1, dose=3.0),))
    desk = Desk(lambda name: llm_persona.load_subject(name), seconds=60)
    last = list(desk.ask(recipe.model, recipe.prompt, condition, [vector], 8))[-1]
    desk.close()
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(recipe.python(), {})
    assert printed.getvalue() == f"base: {last.base.text.strip()}\nshown: {last.other.text.strip()}\n"
    command = [*shlex.split(recipe.command())[1:], "--json", "out.json"]
    assert run(command) == 0
    answer = json.loads((tmp_path / "out.json").read_text())["answers"][0]
    assert (answer["base"], answer["text"]) == (last.base.text.strip(), last.other.text.strip())
    assert last.base.text != last.other.text


def test_without_settings_the_copies_have_one_answer():
    recipe = Recipe("m", "Hello?")
    assert recipe.command() == "llm-persona steer --model m --max-new-tokens 64 --prompt 'Hello?'"
    assert "under" not in recipe.python()


# The door


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


def test_a_missing_run_is_the_users_error(capsys, tmp_path):
    assert run(["playground", str(tmp_path / "none")]) == 2
    assert "no such run folder" in capsys.readouterr().err

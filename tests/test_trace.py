"""A trace: the rendered chat's own tokens, the numbers that record gives, live as afterwards; text shown as text."""

from __future__ import annotations

import io
import json
from contextlib import nullcontext

import numpy as np
import pytest
from conftest import make_subject
from judges import leaning
from rich.console import Console

import llm_persona as lp
from llm_persona.analysis.activations import Activations
from llm_persona.domain.conversations import read_conversations, turns_of
from llm_persona.domain.errors import UserError
from llm_persona.interfaces.cli import terminal
from llm_persona.interfaces.cli.main import run
from llm_persona.studies.trace_page import page_of
from llm_persona.subject.chat import render_prompt, render_response

QUESTION, ANSWER = "Wie geht's, é?", "so so — an answer"
TALK = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]


def some_vector(subject, seed=0):
    rng = np.random.default_rng(seed)
    directions = rng.standard_normal((subject.n_layers, subject.hidden_size)).astype(np.float32)
    return lp.PersonaVector(directions, np.full(subject.n_layers, 5.0, np.float32), {"recommended": {"balanced": 2}})


@pytest.fixture(scope="module")
def subject():
    return leaning(make_subject(), [*"abcdefgh"], 3.0)  # so that what it writes is text


@pytest.fixture(scope="module")
def vector(subject):
    return some_vector(subject)


def states(subject, vector):
    yield nullcontext()
    for positions in ("all", "prompt", "response"):
        yield lp.steering(subject, vector, 1, dose=0.5, positions=positions)


def test_tokens_are_those_of_the_rendered_chat_and_their_texts_make_it_up(subject, vector):
    talk = [{"role": "system", "content": "user"}, *TALK, {"role": "user", "content": "user"}, TALK[1]]
    found = lp.trace(subject, talk, vector)
    text = subject.tokenizer.apply_chat_template(talk, tokenize=False)
    assert [t.id for t in found.tokens] == subject.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert found.text == text
    assert all(text[t.start : t.end] == t.text for t in found.tokens)
    turns = ["".join(t.text for t in found.tokens if t.turn == n) for n in range(5)]
    assert turns == [m["content"] for m in talk]  # a text that repeats a role's name is not mistaken for it
    assert "".join(t.text for t in found.tokens if t.turn is None).count("<|im_start|>") == 5
    assert found.projections.shape == (len(found.tokens), 1)


def test_means_and_the_last_prompt_token_are_those_of_record_also_under_steering(subject, vector):
    both = [vector, some_vector(subject, 1)]
    for state in states(subject, vector):
        with state:
            found = lp.trace(subject, TALK, both, [2, 3])
            rows = [lp.Response(QUESTION, ANSWER, "neutral", "")]
            for position, value in (("response_mean", found.response_mean), ("prompt_last", found.prompt_last)):
                acts = lp.record(subject, rows, position).values[0].astype(float)
                expected = [acts[2] @ both[0].unit(2), acts[3] @ both[1].unit(3)]
                assert value == pytest.approx(expected, abs=1e-4)
    rendered = render_response(subject, QUESTION, ANSWER)
    assert (found.answer, found.own_answer[-1] + 1) == (rendered.start, rendered.end)


def test_live_numbers_are_those_of_reading_the_finished_conversation_also_under_steering(subject, vector):
    for state in states(subject, vector):
        with state:
            parts = list(lp.trace_live(subject, "Hi?", vector, max_new_tokens=8))
            whole = parts[-1]
            written = "".join(t.text for t in whole.tokens if t.role == "assistant")
            talk = [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": written}]
            again = lp.trace(subject, talk, vector)
            assert lp.generate(subject, ["Hi?"], max_new_tokens=8)[0].text == written.strip()
        n = len(whole.tokens)
        assert [t.id for t in parts[0].tokens] == render_prompt(subject, "Hi?")
        assert [len(p.tokens) for p in parts] == list(range(n - len(parts) + 1, n + 1))
        assert whole.tokens == again.tokens[:n]
        assert whole.projections == pytest.approx(again.projections[:n], abs=1e-4)
        assert whole.response_mean == pytest.approx(again.response_mean, abs=1e-4)
        assert parts[0].prompt_last == pytest.approx(again.prompt_last, abs=1e-4)
        assert whole.finish in ("stop", "length")


def test_an_answer_that_ends_by_itself_ends_with_the_template_s_token(vector):
    ended = leaning(make_subject(), ["<|im_end|>"], 40.0)
    whole = list(lp.trace_live(ended, "Hi?", vector, max_new_tokens=8))[-1]
    assert (whole.tokens[-1].text, whole.tokens[-1].role, whole.finish) == ("<|im_end|>", "template", "stop")
    assert whole.response_mean is None


def test_other_work_between_two_steps_disturbs_no_live_trace(subject, vector):
    alone = list(lp.trace_live(subject, "Hi?", vector, max_new_tokens=4))[-1]
    hooks = [len(block._forward_hooks) for block in subject.blocks]
    parts = []
    for now in lp.trace_live(subject, "Hi?", vector, max_new_tokens=4):
        parts.append(now)
        assert [len(block._forward_hooks) for block in subject.blocks] == hooks
        lp.generate(subject, ["Something else"], max_new_tokens=2)
    assert parts[-1].projections == pytest.approx(alone.projections, abs=1e-5)


def test_zero_lies_midway_between_the_poles_where_the_vector_keeps_that_else_at_the_prompt_s_mean(subject, vector):
    values = np.random.default_rng(3).standard_normal((6, subject.n_layers, subject.hidden_size)) + 2
    fitted = lp.fit(Activations(values, ["high", "low"] * 3, list("aabbcc")))
    along = values[:, 2] @ fitted.unit(2)
    assert fitted.midpoint(2) == pytest.approx((along[::2].mean() + along[1::2].mean()) / 2, abs=1e-5)
    found = lp.trace(subject, TALK, fitted, 2)
    assert found.zeros == pytest.approx([fitted.midpoint(2)])
    gaps = (along - found.zeros[0]) / float(fitted.norms[2])
    assert [gaps[::2].mean(), gaps[1::2].mean()] == pytest.approx([0.5, -0.5], abs=1e-5)
    assert fitted.with_direction(-fitted.directions).midpoint(2) is None
    relative = lp.trace(subject, TALK, vector)
    own = [n for n in range(relative.answer) if relative.tokens[n].turn is not None]
    assert relative.pole_gaps[own].mean() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("messages", "said"),
    [([], "conversation is empty"), ([{"role": "bot", "content": "x"}], "role 'bot'; choose"),
     ([{"role": "user", "content": " "}], r"messages\[0\]: field 'content'"), (["x"], "must be an object"),
     ([{"role": "assistant", "content": "x"}], "must alternate"), ([TALK[0], TALK[0]], r"\[1\]: role 'user'"),
     ([TALK[0], {"role": "system", "content": "x"}], "only come first"),
     ([{"role": "system", "content": "x"}], "turn only")],
)  # fmt: skip
def test_malformed_conversations_are_named_by_place(messages, said):
    with pytest.raises(UserError, match=said):
        turns_of(messages)


def test_conversations_are_read_from_json_and_lines(tmp_path):
    turns = [(m["role"], m["content"]) for m in TALK]
    (tmp_path / "a.json").write_text(json.dumps({"messages": TALK}))
    (tmp_path / "b.json").write_text(json.dumps(TALK))
    (tmp_path / "c.jsonl").write_text(f"{json.dumps({'messages': TALK})}\n\n{json.dumps({'messages': TALK[:1]})}\n")
    assert read_conversations(tmp_path / "a.json") == read_conversations(tmp_path / "b.json") == [turns]
    assert read_conversations(tmp_path / "c.jsonl") == [turns, turns[:1]]
    (tmp_path / "d.jsonl").write_text('{"messages": []}')
    with pytest.raises(UserError, match=r"d\.jsonl:1: messages: the conversation is empty"):
        read_conversations(tmp_path / "d.jsonl")


def test_what_does_not_fit_the_subject_is_refused(subject, vector):
    for arguments, said in (
        (("x" * 600, vector), "exceeds the model's 512"), (("Hi", vector, 9), "layers 0 to 3"),
        (("Hi", []), "0 vectors"),
        (("Hi", lp.PersonaVector(np.ones((4, 5), np.float32), np.ones(4, np.float32)), 1), "has width 5"),
        (("Hi", vector.with_direction(vector.directions * 0), 1), "zero at layer 1"),
        (("Hi", lp.PersonaVector(vector.directions, vector.reference_norms)), "no recommended layer"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=said):
            lp.trace(subject, *arguments)
    with pytest.raises(UserError, match="ends with an answer"):
        next(lp.trace_live(subject, TALK, vector))
    with subject.under(lp.Condition("x", system="Be brief.")), pytest.raises(UserError, match="system turn"):
        lp.trace(subject, [{"role": "system", "content": "Be long."}, *TALK], vector)


def test_the_page_shows_model_text_as_text(subject, vector):
    evil = '<script>alert(1)</script><img src=x onerror="alert(2)"> & \x1b[31m"'
    talk = [{"role": "user", "content": evil}, {"role": "assistant", "content": f"{evil} yes"}]
    page = page_of([lp.trace(subject, talk, vector).as_json()], {"model": "<b>m</b>", "condition": "base"})
    assert page.count("<script>") == 1  # the page's own, which the policy names by its digest
    assert "<img" not in page
    assert "<b>m" not in page
    assert "&lt;" in page
    assert "http" not in page.replace("http-equiv", "")
    assert "tabindex" in page and "last prompt token" in page


def saved(vector, path):
    vector.save(path)
    return str(path)


@pytest.fixture
def command(tiny_folders, tmp_path):
    rng = np.random.default_rng(0)
    small = 0.01 * rng.standard_normal((4, 32)).astype(np.float32)  # so that the tokens lie many pole gaps apart
    made = lp.PersonaVector(small, np.full(4, 5.0, np.float32))
    return ["trace", "--model", tiny_folders[0], "--read", saved(made, tmp_path / "v.safetensors"), "--read-layer", "2"]


def test_given_and_written_answers_from_the_command_line(command, tmp_path, capsys):
    (tmp_path / "m.jsonl").write_text(f"{json.dumps({'messages': TALK})}\n{json.dumps({'messages': TALK[:1]})}\n")
    paths = ["--json", str(tmp_path / "t.json"), "--html", str(tmp_path / "t.html")]
    assert run([*command, "--messages", str(tmp_path / "m.jsonl"), "--max-new-tokens", "3", *paths]) == 0
    assert "\x1b" not in capsys.readouterr().out
    given, written = json.loads((tmp_path / "t.json").read_text())["conversations"]
    assert (given["answer"], given["finish"]) == (ANSWER, "")
    assert written["finish"] in ("stop", "length")
    token = given["tokens"][given["answer_at"]]
    assert set(token) == {"id", "text", "start", "end", "role", "turn", "projection", "pole_gaps"}
    assert (tmp_path / "t.html").read_text().startswith("<!doctype html>")
    steer = ["--vector", command[4], "--layer", "1", "--dose", "0.5"]
    assert run([*command, "--prompt", QUESTION, "--answer", ANSWER, *steer, "--json", str(tmp_path / "s.json")]) == 0
    found = json.loads((tmp_path / "s.json").read_text())
    assert found["condition"]["steering"][0]["dose"] == 0.5
    assert found["conversations"][0]["vectors"][0]["prompt_last"] != given["vectors"][0]["prompt_last"]


def test_a_terminal_shows_colours_unless_they_are_not_wanted_and_never_the_model_s_control_sequences(
    command, monkeypatch, capsys
):
    evil = "red \x1b[31malert\x07 [bold]not markup[/bold]"
    for no_color in (False, True):
        made = Console(file=io.StringIO(), force_terminal=True, color_system="truecolor", no_color=no_color, width=500)
        monkeypatch.setattr(terminal, "out", made)
        assert run([*command, "--prompt", evil, "--answer", evil]) == 0
        shown = made.file.getvalue()
        assert (";2;" in shown) is not no_color  # a colour in 24 bits
        assert "\x1b[31m" not in shown and "\x07" not in shown
        if no_color:
            assert "[bold]not markup[/bold]" in shown
    capsys.readouterr()


@pytest.mark.parametrize(
    ("extra", "said"),
    [([], "give a conversation"), (["--prompt", " "], "is empty"),
     (["--prompt", "a", "--answer", "b", "--answer", "c"], "1 --prompt and 2 --answer"),
     (["--messages", "no.json"], "no such file of messages"),
     (["--messages", "no.json", "--prompt", "a"], "one of the"),
     (["--prompt", "a", "--read-layer", "3"], "give one for all"), (["--prompt", "a", "--dose", "1"], "to a --vector")],
)  # fmt: skip
def test_bad_input_is_one_line(extra, said, command, capsys):
    assert run([*command, *extra]) == 2
    shown = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("loading")]
    assert len(shown) == 1
    assert said in shown[0]

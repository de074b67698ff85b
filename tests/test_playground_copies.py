"""What the playground lets one copy: a command and a piece of Python that give the answers shown."""

from __future__ import annotations

import contextlib
import io
import json
import shlex

import pytest
from stand_in_runs import a_vector

from llm_persona.analysis.vectors import PersonaVector
from llm_persona.domain.condition import Condition, Steer
from llm_persona.interfaces.cli.main import cli, run
from llm_persona.interfaces.playground.desk import Desk
from llm_persona.interfaces.playground.recipe import Push, Recipe

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

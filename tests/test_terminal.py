"""The terminal: counts that hold, silence on request, no control codes in a pipe, completion by the shell."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest

from llm_persona.interfaces.cli import terminal
from llm_persona.interfaces.cli.main import run

MAIN = "from llm_persona.interfaces.cli.main import main; main()"


def called(*arguments, **environment):
    """The command line in a process of its own, without a terminal."""
    return subprocess.run([sys.executable, "-c", MAIN, *arguments], capture_output=True, text=True, timeout=120,
                          env={**os.environ, **environment})  # fmt: skip


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_script_is_generated(shell):
    done = called(_LLM_PERSONA_COMPLETE=f"{shell}_source")
    assert done.returncode == 0
    assert "_LLM_PERSONA_COMPLETE" in done.stdout


def test_the_shell_completes_commands_and_options():
    done = called(_LLM_PERSONA_COMPLETE="bash_complete", COMP_WORDS="llm-persona ev", COMP_CWORD="1")
    assert done.stdout.splitlines() == ["plain,evaluate"]
    done = called(_LLM_PERSONA_COMPLETE="bash_complete", COMP_WORDS="llm-persona run --pre", COMP_CWORD="2")
    assert "plain,--preset" in done.stdout.splitlines()


def test_help_says_how_completion_is_switched_on(capsys):
    assert run(["--help"]) == 0
    assert "_LLM_PERSONA_COMPLETE=bash_source" in capsys.readouterr().out


def test_a_pipe_gets_no_control_codes():
    done = called("traits", "list")
    assert done.returncode == 0
    assert "\x1b" not in done.stdout + done.stderr


def test_every_command_can_be_quiet(capsys):
    for command in (["run"], ["evaluate"], ["vectors", "extract"], ["report", "compare"], ["judge", "gate"]):
        assert run([*command, "--help"]) == 0
        assert "--quiet" in capsys.readouterr().out, command


def test_quiet_leaves_results_and_errors(tmp_path, capsys):
    assert run(["traits", "list", "--quiet", "--json", str(tmp_path / "t.json")]) == 0
    assert capsys.readouterr().out == ""
    assert json.loads((tmp_path / "t.json").read_text())
    assert run(["traits", "show", "opennes", "-q"]) == 2
    assert "unknown trait" in capsys.readouterr().err
    assert run(["traits", "list"]) == 0  # (the wish holds for one command)
    assert "openness" in capsys.readouterr().out


def test_json_may_go_to_standard_output_alone(capsys):
    assert run(["traits", "list", "--json", "-"]) == 0
    shown = capsys.readouterr()
    assert {"name", "title"} <= json.loads(shown.out)[0].keys()
    assert "openness" in shown.err


def test_a_count_never_passes_its_total():
    with terminal.Count("x", 2) as count:
        for _ in range(3):
            count.step()
            assert count.done <= count.total
    assert (count.done, count.total) == (3, 3)


def test_what_was_there_already_does_not_make_the_rest_look_fast(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    with terminal.Count("x", 100) as count:
        count.step(89, reused=True)
        assert count.left == ""
        now[0] += 60
        count.step()
        assert count.left == "about 10 min 00 s left"


def test_what_an_earlier_run_left_is_said_once_and_not_in_every_line(capsys):
    with terminal.counting("rows", 100) as step:
        step.keep(50)
        step.keep(30)
        step(10)
        step(10)
    assert capsys.readouterr().err.splitlines() == ["rows", "80 of 100 were there from an earlier run"]
    with terminal.counting("rows", 100, shown=False) as step:
        step.keep(50)
    assert capsys.readouterr().err == ""


def test_where_nothing_is_left_to_do_what_an_earlier_run_left_is_said_too(capsys):
    with terminal.counting("rows", 2) as step:
        step.keep(2)
    assert capsys.readouterr().err.splitlines()[-1] == "2 of 2 were there from an earlier run"


def test_a_count_in_a_pipe_speaks_now_and_then(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    with terminal.counting("rows", 1000) as step:
        for _ in range(100):
            now[0] += 1
            step(10)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "rows"
    assert 3 <= len(lines) <= 8
    assert re.fullmatch(r"rows: \d+ of 1000, about .* left", lines[1])


def test_a_study_s_lines_count_up_to_the_total(tiny_folders, tmp_path, capsys):
    out = tmp_path / "v.safetensors"
    command = ["vectors", "extract", "--trait", "openness", "--limit", "3", "--sweep-layers", "1", "--out", str(out)]
    assert run([*command, "--model", tiny_folders[0]]) == 0
    counts = [tuple(map(int, m)) for m in re.findall(r"^\[(\d+)/(\d+)\]", capsys.readouterr().err, flags=re.MULTILINE)]
    assert counts
    assert all(done <= total for done, total in counts)


ARGUMENTS = [[], ["--mode", "choice"], ["--mode", "generate"], ["--reliability", "--mode", "choice"]]


@pytest.mark.parametrize("arguments", ARGUMENTS)
def test_evaluating_counts_up_to_the_total(arguments, tiny_folders, monkeypatch):
    made = []
    monkeypatch.setattr(terminal.Count, "__exit__", lambda self, *_: made.append((self.done, self.total)))
    assert run(["evaluate", "--trait", "openness", "--limit", "2", "--model", tiny_folders[0], *arguments]) == 0
    assert made and all(done == total for done, total in made)

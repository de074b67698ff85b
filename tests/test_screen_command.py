"""The command that screens: result, export, going on after a kill, what is wrong in one line."""

from __future__ import annotations

import json

import numpy as np
import pytest
from chats import kinds, planted, write
from conftest import save_tiny_model
from schemas import check_schema

from llm_persona.analysis.vectors import PersonaVector
from llm_persona.instruments.projection_difference import ProjectionDifference
from llm_persona.interfaces.cli.main import run
from llm_persona.studies import screen_parts as module


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LLM_PERSONA_CACHE", str(tmp_path / "cache"))


def test_the_command_screens_exports_and_resumes(tmp_path, capsys, monkeypatch):
    folder = str(save_tiny_model(tmp_path / "model"))
    from llm_persona import load_subject

    subject = load_subject(folder)
    vector = planted(subject, {"recommended": {"balanced": 1}})
    vector.save(tmp_path / "v.safetensors")
    data = write(tmp_path / "d.jsonl", [*kinds(12), {"text": 1}])
    out, kept = tmp_path / "r.json", tmp_path / "kept.jsonl"
    command = ["screen", "--data", str(data), "--vector", str(tmp_path / "v.safetensors"), "--model", folder]
    monkeypatch.setattr(module, "PART", 5)
    measured, original = [], ProjectionDifference.measure

    def counted(self, subject, rows, wanted):
        if len(measured) == 2:
            measured.append("killed")
            raise KeyboardInterrupt
        measured.append(rows[0].prompt)
        return original(self, subject, rows, wanted)

    monkeypatch.setattr(ProjectionDifference, "measure", counted)
    whole = [*command, "--max-new-tokens", "4", "--json", str(out), "--export", str(kept)]
    assert run(whole) == 130
    said = capsys.readouterr().err
    assert "the same command goes on" in said
    assert "earlier run" not in said
    assert not out.exists() and not kept.exists()
    assert run(whole) == 0
    assert measured == ["q0", "q5", "killed", "q10"]  # the third part alone was left to do
    found = json.loads(out.read_text())
    check_schema("screen", found)
    assert {"trait", "layer", "rows", "forecast", "approximation", "ranking", "skipped"} <= found.keys()
    assert found["layer"] == 1
    assert {"row", "projection_difference", "projection", "prompt_last", "flagged"} <= found["rows"][0].keys()
    lines = data.read_bytes().splitlines(keepends=True)
    flagged = {row["row"] for row in found["rows"] if row["flagged"]}
    assert kept.read_bytes() == b"".join(line for n, line in enumerate(lines) if n not in flagged)
    printed, said = capsys.readouterr()
    assert said.splitlines().count("10 of 12 were there from an earlier run") == 1
    assert "forecast: the answers lie" in printed
    assert "1 rows cannot be used; the first: row 12" in printed
    assert run([*command, "--max-new-tokens", "4", "--flag-at", "3"]) == 0
    assert "12 of 12 were there from an earlier run" in capsys.readouterr().err
    labelled = write(tmp_path / "l.jsonl", kinds(12))
    command[2] = str(labelled)
    assert run([*command, "--layer", "2", "--max-new-tokens", "4", "--labels", "bad", "--direction", "both"]) == 0
    assert "TPR at 1% FPR" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "says"),
    [({"--data": "none.jsonl"}, "no such data file"), ({"--vector": "none"}, "no such vector file"),
     ({"--layer": "9"}, "has layers 0 to 3"), ({"--layer": "auto"}, "no recommended layer"),
     ({"--layer": "x"}, "not a number"), ({"--export": "d.jsonl"}, "the data file itself"),
     ({"--labels": "good"}, "no field 'good'"), ({"--full-rows": "2"}, "cannot be calibrated"),
     ({"--flag-at": "0"}, "--flag-at")],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_line_before_a_model_is_loaded(change, says, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "d.jsonl", kinds(12))
    PersonaVector(np.ones((4, 8), np.float32), np.ones(4, np.float32)).save(tmp_path / "v.safetensors")
    options = {"--data": "d.jsonl", "--vector": "v.safetensors", "--layer": "1", "--model": "no/such-model", **change}
    assert run(["screen", *(part for pair in options.items() for part in pair)]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert says in error[-1]

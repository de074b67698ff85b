"""One study over several models: a folder each, and one comparison."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llm_persona import UserError
from llm_persona.interfaces.cli.main import run
from llm_persona.studies.many import folder_names

STUDY = Path(__file__).resolve().parents[1] / "benchmarks" / "tiny_study.yaml"


def test_folder_names_are_readable_and_differ():
    assert folder_names(["a/b", "smollm2-135m", "./x/b/", "m.gguf"]) == ["b-1", "smollm2-135m", "b-3", "m.gguf"]


def test_models_that_would_share_a_run_folder_are_refused(tmp_path, capsys):
    with pytest.raises(UserError, match="two of the models would be written to b-1; rename one's folder"):
        folder_names(["x/b", "y/b", "z/b-1"])
    models = [part for name in ("x/b", "y/b", "z/b-1") for part in ("--model", name)]
    assert run(["run", str(STUDY), *models, "--out", str(tmp_path / "all")]) == 2
    assert "would be written to b-1" in capsys.readouterr().err
    assert not (tmp_path / "all").exists()


def test_several_models_give_a_run_each_and_a_comparison_paired_by_item(tmp_path, tiny_folders, capsys):
    models = [part for folder in tiny_folders for part in ("--model", folder)]
    out = tmp_path / "both"
    assert run(["run", str(STUDY), *models, "--out", str(out), "--json", str(tmp_path / "j.json")]) == 0
    assert (out / "tiny-0" / "report.html").is_file()
    assert (out / "tiny-1" / "results.json").is_file()
    assert (out / "comparison.png").is_file()
    found = json.loads((out / "comparison.json").read_text())
    assert found["against"] == "tiny-0: base"
    shift = found["differences"]["tiny-1: base"]["openness"]
    assert shift["n"] + shift["n_unpaired"] > 0
    capsys.readouterr()
    both = [str(out / "tiny-0"), str(out / "tiny-1")]
    assert run(["report", "compare", *both, "--json", str(tmp_path / "c.json")]) == 0
    assert json.loads((tmp_path / "c.json").read_text())["differences"] == found["differences"]

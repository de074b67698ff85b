"""Commands over grids, in pieces: seeds, traits, sources; the results are those of the single commands."""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path

import pytest
from clusters import Here

from llm_persona import PersonaVector, StudyConfig, UserError
from llm_persona.domain.store import file_digest
from llm_persona.interfaces.cli.main import run
from llm_persona.studies import many
from llm_persona.studies.executors import on_ray
from llm_persona.studies.seeds import SeedPiece
from llm_persona.training.data import from_items
from llm_persona.training.recipe import Recipe

SMALL = ["--limit", "2", "--samples", "3", "--sweep-layers", "1", "--max-new-tokens", "32", "--dtype", "float32"]


@pytest.fixture
def here(monkeypatch):
    """`--executor ray` is this process."""

    @contextmanager
    def executor(*_):
        yield Here()

    monkeypatch.setattr(on_ray, "ray_executor", executor)


def test_seeds_of_a_study_have_a_folder_each(monkeypatch, tmp_path, tiny_folders):
    seen: list[StudyConfig] = []

    def runs(configs, *_):
        seen.extend(configs)
        raise UserError("enough")

    monkeypatch.setattr(many, "run_models", runs)
    models = [part for folder in tiny_folders for part in ("--model", folder)]
    assert run(["run", "--preset", "smoke", "--seed", "0", "--seed", "5", *models, "--out", str(tmp_path / "x")]) == 2
    assert [(c.model, c.seed) for c in seen] == [(m, s) for m in tiny_folders for s in (0, 5)]
    assert many.run_names(seen) == ["tiny-0-seed-0", "tiny-0-seed-5", "tiny-1-seed-0", "tiny-1-seed-5"]
    assert many.run_names(seen[::2]) == ["tiny-0", "tiny-1"]


def test_seeds_trained_by_workers_are_the_adapters_of_one_process(here, tmp_path, tiny_folders, capsys):
    command = ["finetune", "--trait", "openness", "--pole", "high", "--limit", "2", "--max-steps", "2", "--seeds", "2",
               "--model", tiny_folders[0], "--dtype", "float32"]  # fmt: skip
    found = {}
    for name, more in (("alone", []), ("workers", ["--executor", "ray"])):
        result = tmp_path / f"{name}.json"
        assert run([*command, *more, "--out", str(tmp_path / name), "--json", str(result)]) == 0
        found[name] = json.loads(result.read_text())["seeds"]
        for seed in found[name]:
            assert Path(seed.pop("folder")) == tmp_path / name / f"seed-{seed['seed']}"
    assert found["alone"] == found["workers"]
    for seed in (0, 1):
        alone, workers = (tmp_path / n / f"seed-{seed}" / "adapter_model.safetensors" for n in ("alone", "workers"))
        assert file_digest(alone) == file_digest(workers)


def test_a_worker_that_does_not_see_the_adapters_folder_says_so(tmp_path):
    data = from_items([], "high")
    with pytest.raises(UserError, match="a worker does not see"):
        SeedPiece(("x", "float32", "cpu"), data, tmp_path / "nowhere" / "seed-0", Recipe(), 0).make()


def test_vectors_of_a_grid_are_those_of_single_commands_and_are_made_once(tmp_path, tiny_folders, capsys):
    grid = ["vectors", "extract", "--trait", "openness", "--trait", "narcissism", "--source", "labelled", "--source",
            "prompted", "--model", tiny_folders[0], *SMALL, "--out", str(tmp_path / "grid")]  # fmt: skip
    assert run([*grid, "--json", str(tmp_path / "grid.json")]) == 0
    cells = json.loads((tmp_path / "grid.json").read_text())
    assert [(c["trait"], c["source"]) for c in cells] == [
        (t, s) for t in ("openness", "narcissism") for s in ("labelled", "prompted")
    ]
    single = ["vectors", "extract", "--trait", "narcissism", "--source", "prompted", "--model", tiny_folders[0], *SMALL]
    assert run([*single, "--out", str(tmp_path / "v.safetensors"), "--json", str(tmp_path / "v.json")]) == 0
    assert cells[-1]["result"] == json.loads((tmp_path / "v.json").read_text())
    assert PersonaVector.load(cells[-1]["vector"]).digest == PersonaVector.load(tmp_path / "v.safetensors").digest
    capsys.readouterr()
    Path(cells[0]["vector"]).write_bytes(b"spoilt")
    assert run(grid) == 0
    said = capsys.readouterr().err
    assert said.count("was there") == 3
    assert "openness, labelled: extracted" in said
    assert PersonaVector.load(cells[0]["vector"]).meta["source"] == "labelled"


def test_a_grid_s_adapters_are_named_by_trait_and_its_output_is_a_folder(tmp_path, capsys):
    assert run(["vectors", "extract", "--trait", "openness", "--trait", "narcissism", "--out",
                str(tmp_path / "v.safetensors")]) == 2  # fmt: skip
    assert "give a folder" in capsys.readouterr().err
    assert run(["vectors", "extract", "--trait", "openness", "--trait", "narcissism", "--source", "tuned",
                "--high-adapter", str(tmp_path / "{trait}-high"), "--low-adapter", str(tmp_path / "{trait}-low"),
                "--out", str(tmp_path / "grid")]) == 2  # fmt: skip
    assert "openness-high" in capsys.readouterr().err

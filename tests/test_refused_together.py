"""Options that do not go together are refused, with what to leave out, before any model is loaded."""

from __future__ import annotations

import json
from contextlib import contextmanager
from importlib import resources

import numpy as np
import pytest

from llm_persona import PersonaVector
from llm_persona.domain.config import make_config
from llm_persona.domain.errors import UserError
from llm_persona.interfaces.cli.main import run
from llm_persona.studies.executors import on_ray
from llm_persona.studies.study import run_study


@pytest.fixture(autouse=True)
def idle(monkeypatch):
    """A cluster on which nothing may run."""

    @contextmanager
    def executor(*_):
        yield Idle()

    monkeypatch.setattr(on_ray, "ray_executor", executor)


class Idle:
    def run(self, pieces, done):
        raise AssertionError("work was begun")

    def stream(self, maker, given):
        raise AssertionError("work was begun")


@pytest.fixture
def copied_trait(tmp_path):
    """The file of an installed trait, so that two are called openness."""
    path = tmp_path / "mine.yaml"
    path.write_text((resources.files("llm_persona.domain") / "data" / "traits" / "openness.yaml").read_text())
    return str(path)


@pytest.mark.parametrize("command", ["run", "evaluate", "vectors extract", "screen"])
def test_workers_run_transformers_so_another_engine_is_refused(command, tmp_path, tiny_folders, capsys):
    vector, chat = tmp_path / "v.safetensors", tmp_path / "chat.jsonl"
    PersonaVector(np.ones((4, 32), np.float32), np.ones(4, np.float32), {"trait": "openness"}).save(vector)
    turns = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Why not."}]
    chat.write_text(json.dumps({"messages": turns}) + "\n")
    own = {
        "run": ["--preset", "smoke", "--out", str(tmp_path / "run")],
        "evaluate": ["--limit", "2"],
        "vectors extract": ["--trait", "openness", "--out", str(tmp_path / "vectors")],
        "screen": ["--data", str(chat), "--vector", str(vector), "--layer", "1"],
    }[command]
    cluster = ["--model", tiny_folders[0], "--executor", "ray", "--engine", "vllm"]
    assert run([*command.split(), *own, *cluster]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "--engine" in said
    assert "workers of --executor ray run transformers; leave one of them out" in said


def test_an_executor_under_accelerate_launch_is_refused(monkeypatch, tmp_path, tiny_folders, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    command = ["finetune", "--trait", "openness", "--pole", "high", "--limit", "2", "--model", tiny_folders[0]]
    assert run([*command, "--executor", "ray", "--out", str(tmp_path / "adapter")]) == 2
    assert "start the command once, without accelerate launch" in capsys.readouterr().err
    assert not (tmp_path / "adapter").exists()


@pytest.mark.parametrize("executor", [None, Idle()])
def test_a_study_of_two_traits_of_one_name_is_refused(executor, copied_trait, tmp_path, tiny_folders):
    config = make_config(model=tiny_folders[0], preset="smoke", traits=["openness", copied_trait])
    with pytest.raises(UserError, match="two of the traits are called openness; rename one of them"):
        run_study(config, tmp_path / "run", executor=executor)


@pytest.mark.parametrize("more", [[], ["--executor", "ray"]])
def test_a_grid_in_which_two_traits_would_be_one_file_is_refused(more, copied_trait, tmp_path, tiny_folders, capsys):
    grid = ["vectors", "extract", "--model", tiny_folders[0], "--trait", "openness", "--trait", copied_trait]
    assert run([*grid, *more, "--out", str(tmp_path / "grid")]) == 2
    assert "two traits would be written to tiny-0/openness-labelled; rename one of them" in capsys.readouterr().err
    assert not (tmp_path / "grid").exists()

"""What is wrong with a command is said before Ray is started for it."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pytest
from chats import kinds, write
from clusters import Here

from llm_persona import PersonaVector
from llm_persona.interfaces.cli.main import run
from llm_persona.studies.executors import on_ray
from llm_persona.studies.executors.at_need import at_need

EVALUATE = ["evaluate", "--limit", "2"]
EXTRACT = ["vectors", "extract", "--trait", "openness", "--limit", "2", "--out", "grid"]
TUNED = [*EXTRACT, "--source", "tuned"]
FINETUNE = ["finetune", "--limit", "2", "--max-steps", "1", "--out", "adapter"]
OF_A_TRAIT = [*FINETUNE, "--trait", "openness", "--pole", "high"]
SCREEN = ["screen", "--vector", "v.safetensors", "--layer", "1"]


@pytest.fixture
def place(tmp_path, tiny_folders, monkeypatch):
    """A folder to work in, with a model, a vector and chat rows, where Ray may not be started."""

    @contextmanager
    def started(*_):
        raise AssertionError("Ray was started")
        yield

    monkeypatch.setattr(on_ray, "ray_executor", started)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").symlink_to(tiny_folders[0])
    PersonaVector(np.ones((4, 32), np.float32), np.ones(4, np.float32), {"trait": "openness"}).save(
        tmp_path / "v.safetensors"
    )
    write(tmp_path / "chat.jsonl", kinds(12))
    return tmp_path


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ([*EVALUATE, "--items", "none.json"], "none.json"),
        ([*EVALUATE, "--template", "none.txt"], "none.txt"),
        ([*EVALUATE, "--adapter", "absent"], "no adapter_config.json there"),
        ([*EVALUATE, "--vector", "none.safetensors@1"], "none.safetensors"),
        ([*EVALUATE, "--model", "./none"], "no such folder"),
        ([*EVALUATE, "--model", "model", "--model", "./none"], "no such folder"),
        ([*EVALUATE, "--model", "model", "--model", "openai:x"], "is behind an API"),
        ([*EXTRACT, "--items", "none.json"], "none.json"),
        ([*EXTRACT, "--trait", "none.yaml"], "none.yaml"),
        ([*EXTRACT, "--against", "none.safetensors"], "none.safetensors"),
        ([*EXTRACT, "--position", "prompt_last"], "use response_mean, or --source prompted"),
        ([*EXTRACT, "--judge", "local"], "a labelled contrast has none"),
        ([*EXTRACT, "--text"], "speak of a judge"),
        ([*EXTRACT, "--model", "./none"], "no such folder"),
        (TUNED, "needs --high-adapter DIR and --low-adapter DIR"),
        ([*TUNED, "--high-adapter", "none", "--low-adapter", "none"], "no adapter_config.json there"),
        ([*FINETUNE, "--data", "none.jsonl"], "none.jsonl"),
        ([*OF_A_TRAIT, "--model", "./none"], "no such folder"),
        ([*OF_A_TRAIT, "--model", "model", "--watch", "none.yaml"], "none.yaml"),
        ([*OF_A_TRAIT, "--vector", "none.safetensors@1"], "none.safetensors"),
        ([*SCREEN, "--data", "none.jsonl"], "no such data file"),
        ([*SCREEN, "--data", "chat.jsonl", "--labels", "good"], "no field 'good'"),
        ([*SCREEN, "--data", "chat.jsonl", "--model", "./none"], "no such folder"),
    ],
)
def test_ray_is_not_started_for_what_is_refused(place, command, says, capsys):
    assert run([*command, "--executor", "ray"]) == 2
    assert says in capsys.readouterr().err.strip().splitlines()[-1]


def test_ray_is_not_started_for_a_folder_that_holds_another_training(place, capsys):
    command = [*OF_A_TRAIT, "--model", "model", "--dtype", "float32"]
    assert run(command) == 0
    assert run([*command, "--epochs", "3", "--executor", "ray"]) == 2
    assert "holds a training with other data or settings" in capsys.readouterr().err


def test_ray_is_started_for_the_first_piece_of_work(place, capsys):
    assert run([*EVALUATE, "--model", "model", "--executor", "ray"]) == 1
    assert "AssertionError: Ray was started" in capsys.readouterr().err


class Squared:
    name = "squaring"

    def make(self, given=3):
        return given * given


def test_what_is_opened_at_need_is_opened_once_and_closed_and_else_never():
    seen = []

    @contextmanager
    def opened():
        seen.append("opened")
        yield Here()
        seen.append("closed")

    with at_need(opened):
        pass
    assert seen == []
    with at_need(opened) as executor:
        executor.run([Squared()], lambda _, made: seen.append(made))
        assert dict(executor.stream(Squared(), [2])) == {0: 4}
    assert seen == ["opened", 9, "closed"]

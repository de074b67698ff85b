"""Long measurements as streams over a cluster of two nodes: the same numbers, and a lost worker loses its part only."""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from clusters import Here
from conftest import save_tiny_model
from ray import cloudpickle

from llm_persona import PersonaVector, UserError, load_items
from llm_persona.domain.condition import Condition, Steer
from llm_persona.domain.errors import IncompatibleVector
from llm_persona.instruments.trait_benchmark import TraitBenchmark
from llm_persona.interfaces.cli.main import run
from llm_persona.studies import evaluation_parts, screen_parts
from llm_persona.studies.evaluation import EvaluationPlan, evaluate_sets, evaluate_sets_by
from llm_persona.studies.executors import on_ray
from llm_persona.studies.lab import Lab
from llm_persona.studies.same_machines import check_workers
from llm_persona.studies.screen import ScreenPlan, screen, screen_by, survey
from llm_persona.studies.stages import Stages
from llm_persona.subject.load import load_subject

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers have no tests on their path
ROWS = 43


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LLM_PERSONA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(screen_parts, "PART", 10)
    monkeypatch.setattr(evaluation_parts, "PART", 2)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(save_tiny_model(tmp_path_factory.mktemp("model") / "tiny"))


@pytest.fixture(scope="module")
def vector():
    directions = np.random.default_rng(0).standard_normal((4, 32)).astype(np.float32)
    return PersonaVector(directions, np.ones(4, dtype=np.float32), {"trait": "openness"})


@pytest.fixture(scope="module")
def chat(tmp_path_factory):
    """Rows with blank lines, unusable ones and repeated prompts among them."""
    path = tmp_path_factory.mktemp("data") / "chat.jsonl"
    lines = []
    for n in range(ROWS):
        turns = [{"role": "user", "content": f"Question {n % 7}?"}, {"role": "assistant", "content": f"I would {n}."}]
        lines += [json.dumps({"messages": turns})] + [""] * (n % 5 == 0) + ['{"messages": []}'] * (n % 9 == 0)
    path.write_text("\n".join(lines) + "\n")
    return path


@dataclass
class Squares:
    """Squares numbers; its worker is killed at `deadly`, the first time or every time."""

    folder: Path
    deadly: int = -1
    always: bool = False
    name: str = "squaring"

    def make(self, given: int) -> int:
        with (self.folder / f"begun-{given}").open("a") as file:
            file.write("x")
        if given == self.deadly and (self.always or not (self.folder / "killed").exists()):
            (self.folder / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if given < 0:
            raise IncompatibleVector(f"{given}: no such number")
        return given * given

    def begun(self, given: int) -> int:
        return len((self.folder / f"begun-{given}").read_text())


@dataclass
class Meetings:
    """Each part waits until all have begun, which needs as many workers; False after two minutes alone."""

    folder: Path
    parts: int
    name: str = "meeting"

    def make(self, given: int) -> bool:
        import time

        (self.folder / f"there-{given}").touch()
        ends = time.monotonic() + 120
        while len(list(self.folder.glob("there-*"))) < self.parts:
            if time.monotonic() > ends:
                return False
            time.sleep(0.05)
        return True


def test_as_many_parts_as_workers_are_made_at_the_same_time(cluster, tmp_path):
    """Whichever worker is ready first takes one, not all."""
    with on_ray.ray_executor(cluster.address) as executor:
        assert executor.workers == 2
        assert dict(executor.stream(Meetings(tmp_path, 2), [0, 1])) == {0: True, 1: True}


def test_a_worker_killed_in_the_middle_loses_its_part_only(cluster, tmp_path):
    maker = Squares(tmp_path, deadly=5)
    with on_ray.ray_executor(cluster.address) as executor:
        found = dict(executor.stream(maker, list(range(12))))
    assert found == {n: n * n for n in range(12)}
    assert [maker.begun(n) for n in range(12)] == [2 if n == 5 else 1 for n in range(12)]


def test_a_part_that_kills_every_worker_is_given_up_and_the_others_are_kept(cluster, tmp_path):
    maker, found = Squares(tmp_path, deadly=2, always=True), {}
    with on_ray.ray_executor(cluster.address) as executor, pytest.raises(UserError, match=r"part 2: .* lost 4 times"):
        for number, value in executor.stream(maker, list(range(4))):
            found[number] = value
    assert maker.begun(2) == on_ray.RETRIES + 1
    assert found.items() <= {0: 0, 1: 1, 3: 9}.items()
    assert 0 in found


def test_a_part_s_error_keeps_its_class_and_text(cluster, tmp_path):
    with on_ray.ray_executor(cluster.address) as executor, pytest.raises(IncompatibleVector, match=r"^-3: no such"):
        list(executor.stream(Squares(tmp_path), [1, -3]))


def test_screening_on_two_nodes_gives_the_numbers_of_one_process(cluster, chat, vector, model, tmp_path, monkeypatch):
    vector.save(tmp_path / "v.safetensors")
    command = ["screen", "--model", model, "--dtype", "float32", "--data", str(chat), "--layer", "2",
               "--vector", str(tmp_path / "v.safetensors"), "--max-new-tokens", "4", "--full-rows", "31"]  # fmt: skip
    monkeypatch.setenv("LLM_PERSONA_CACHE", str(tmp_path / "local"))
    assert run([*command, "--json", str(tmp_path / "local.json")]) == 0
    monkeypatch.setenv("LLM_PERSONA_CACHE", str(tmp_path / "ray"))
    cluster_options = ["--executor", "ray", "--address", cluster.address]
    assert run([*command, *cluster_options, "--json", str(tmp_path / "ray.json")]) == 0
    assert (tmp_path / "ray.json").read_bytes() == (tmp_path / "local.json").read_bytes()
    stages = [sorted(p.name for p in (tmp_path / place).rglob("rows*.json")) for place in ("local", "ray")]
    assert stages[0] == stages[1]
    assert len(stages[0]) == 5


def test_an_evaluation_on_two_nodes_gives_the_numbers_of_one_process(cluster, vector, model):
    items = load_items("openness").split("test")
    sets = {"openness": items[:5], "narcissism": load_items("narcissism").split("test")[:3]}
    conditions = {"openness": Condition("told", "Be bold."),
                  "narcissism": Condition("moved", steers=(Steer(vector, 2, coefficient=0.5, name="x"),))}  # fmt: skip
    plan = EvaluationPlan(TraitBenchmark((), "choice"), reliability=True)
    alone = evaluate_sets(load_subject(model, dtype="float32"), sets, conditions, plan)
    with on_ray.ray_executor(cluster.address) as executor:
        assert evaluate_sets_by(executor, model, sets, conditions, plan, "float32") == alone


def test_nothing_is_made_twice_and_the_model_is_not_loaded_here(chat, vector, model, monkeypatch):
    plan = ScreenPlan(max_new_tokens=2)
    data = survey(chat, plan)
    counted: list[int] = []
    whole = screen_by(Here(), model, data, vector, 1, plan, "float32", progress=counted.append)
    assert sum(counted) == ROWS

    def never(*_, **__):
        raise AssertionError("loaded")

    monkeypatch.setattr("llm_persona.studies.lab.load_subject", never)
    counted.clear()
    assert screen_by(Here(), model, data, vector, 1, plan, "float32", progress=counted.append) == whole
    assert sum(counted) == ROWS
    kept: list[int] = []
    screen_by(Here(), model, data, vector, 1, plan, "float32", progress=never, kept=kept.append)
    assert sum(kept) == ROWS
    monkeypatch.undo()


def test_a_stream_stopped_in_the_middle_keeps_the_parts_it_has(chat, vector, model, monkeypatch):
    plan = ScreenPlan(max_new_tokens=2)
    data = survey(chat, plan)

    def stopped(rows: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        screen_by(Here(), model, data, vector, 1, plan, "float32", progress=stopped)
    made: list[str] = []
    value = Stages.value
    monkeypatch.setattr(
        Stages, "value", lambda s, name, key, make: value(s, name, key, lambda: made.append(name) or make())
    )
    found = screen_by(Here(), model, data, vector, 1, plan, "float32")
    assert sorted(made) == ["rows 0", "rows 10", "rows 20", "rows 30"]  # the last one was made first, and kept
    assert found == screen(load_subject(model, dtype="float32"), data, vector, 1, plan)


@pytest.mark.parametrize("text", ["", "another"])
def test_a_worker_that_does_not_see_the_data_says_so(text, chat, vector, model, tmp_path):
    path = tmp_path / "copy.jsonl"
    path.write_bytes(chat.read_bytes())
    data = survey(path, ScreenPlan())
    path.unlink()
    if text:
        path.write_text(text)
    with pytest.raises(UserError, match=r"copy.jsonl: a worker .* that all nodes share"):
        screen_parts.ScreenMaker(
            None, screen_parts.Screening(path, data.sha256, ROWS, vector, 1, 0, 4, [{}])  # type: ignore[arg-type]
        ).make([0, [False]])  # fmt: skip


def test_workers_that_run_the_model_otherwise_are_refused(model):
    class Elsewhere(Here):
        def run(self, pieces, done):
            for piece in pieces:
                done(piece, {**piece.make(), "device": "cuda"})

    check_workers(Here(), [(model, "float32", "cpu")])
    with pytest.raises(UserError, match="device cuda, here cpu"):
        check_workers(Elsewhere(), [(model, "float32", "cpu")])


def test_a_worker_that_differs_from_the_machine_that_asks_makes_no_part(model, tmp_path, monkeypatch):
    lab = Lab(model, "float32", "cpu", Stages(tmp_path))
    assert lab.same_here() is lab
    lab.identity = {**lab.identity, "dtype": "bfloat16"}  # as it came from a machine that computes in it
    with pytest.raises(UserError, match="dtype float32, there bfloat16"):
        lab.same_here()


def test_a_model_behind_an_api_is_not_for_workers(cluster, capsys):
    assert run(["evaluate", "--model", "openai:x", "--base-url", "http://127.0.0.1:1/v1", "--mode", "generate",
                "--executor", "ray", "--address", cluster.address]) == 2  # fmt: skip
    assert "behind an API" in capsys.readouterr().err


def test_options_of_a_cluster_without_one_are_refused(capsys, chat, tmp_path):
    assert run(["evaluate", "--task-gpus", "1"]) == 2
    assert "add --executor ray" in capsys.readouterr().err

"""Pieces of a study on a Ray cluster of two nodes: the same numbers, and a lost worker loses its task only."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from clusters import Here
from conftest import save_tiny_model

from llm_persona import StudyConfig, UserError, run_study
from llm_persona.interfaces.cli.main import run
from llm_persona.studies.executors import on_ray
from llm_persona.studies.grid import StudyPiece, make, make_ahead, waves

SMALL = {
    "preset": "smoke", "traits": ["openness", "narcissism"], "dtype": "float32", "fit_items": 4, "test_items": 3,
    "transfer_items": 0, "random_directions": 1, "questions": 1, "max_new_tokens": 4, "choice_conditions": [],
}  # fmt: skip


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return StudyConfig(**SMALL, model=str(save_tiny_model(tmp_path_factory.mktemp("model") / "tiny")))


@pytest.fixture(scope="module")
def alone(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone") / "run"
    run_study(config, folder)
    return folder


def numbers(folder: Path) -> bytes:
    return (folder / "results.json").read_bytes()


def test_a_study_makes_nothing_that_its_pieces_have_made(config, alone, tmp_path):
    made = []
    make_ahead([config], [tmp_path / "run"], Here(), lambda piece, count: made.append((piece.trait, piece.step, count)))
    assert [m[:2] for m in made] == [("openness", "own"), ("narcissism", "own"), ("openness", "others"),
                                     ("narcissism", "others")]  # fmt: skip
    assert all(count > 0 for *_, count in made)
    run_study(config, tmp_path / "run")
    assert numbers(tmp_path / "run") == numbers(alone)
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["stages_made"] == 0


def test_two_nodes_give_the_numbers_of_one_process(config, alone, cluster, tmp_path):
    done = []
    with on_ray.ray_executor(cluster.address) as executor:
        run_study(config, tmp_path / "run", executor=executor, said=done.append)
    assert numbers(tmp_path / "run") == numbers(alone)
    assert len(done) == 4
    assert not [p for p in (tmp_path / "run").rglob(".*") if p.name != ".lock"]


def test_a_worker_killed_in_the_middle_loses_only_its_task(config, alone, cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(on_ray, "_piece", dies_once_at("openness", "instructed"))
    made: dict[tuple[str, str], int] = {}
    with on_ray.ray_executor(cluster.address) as executor:
        make_ahead([config], [tmp_path / "run"], executor,
                   lambda piece, count: made.update({(piece.trait, piece.step): count}))  # fmt: skip
    assert (tmp_path / "run" / "killed").is_file()
    assert (
        0 < made["openness", "own"] < made["narcissism", "own"]
    )  # what was finished before the kill was not made again
    run_study(config, tmp_path / "run")
    assert numbers(tmp_path / "run") == numbers(alone)


def dies_once_at(trait: str, phase: str):
    """A task whose worker is killed, the first time, where that trait's phase begins."""

    def piece(one: StudyPiece, home: Path) -> int:
        from llm_persona.studies import trait_conditions
        from llm_persona.studies.grid import make as really

        if not isinstance(one, StudyPiece):
            return one.make()
        mark, method = one.folder / "killed", getattr(trait_conditions, phase)

        def deadly(study) -> None:
            if study.name == trait and not mark.exists():
                mark.write_text("by SIGKILL")
                os.kill(os.getpid(), signal.SIGKILL)
            method(study)

        setattr(trait_conditions, phase, deadly)
        try:
            return really(one)
        finally:
            setattr(trait_conditions, phase, method)

    return piece


def test_a_user_s_error_in_a_worker_is_the_user_s_error_here(config, cluster, tmp_path):
    lost = config.model_copy(update={"model": str(tmp_path / "nowhere")})
    with on_ray.ray_executor(cluster.address) as executor, pytest.raises(UserError, match="nowhere"):
        make_ahead([lost], [tmp_path / "run"], executor, lambda piece, count: None)


def test_a_piece_that_no_node_can_hold_is_refused(cluster):
    with pytest.raises(UserError, match="no node has 64 CPU"), on_ray.ray_executor(cluster.address, cpus=64):
        pass


def test_a_worker_that_does_not_see_the_run_says_so(config, tmp_path):
    with pytest.raises(UserError, match="every node shares"):
        make(StudyPiece(config, tmp_path / "elsewhere", "openness", "own"))


def test_a_single_trait_has_no_second_wave(config, tmp_path):
    one = config.model_copy(update={"traits": ["openness"]})
    assert [[p.step for p in wave] for wave in waves([one, one], [tmp_path / "a", tmp_path / "b"])] == [["own", "own"]]


def test_the_command_runs_on_a_cluster(config, alone, cluster, tmp_path, capsys):
    study = tmp_path / "study.yaml"
    import yaml

    study.write_text(yaml.safe_dump(config.model_dump()))
    code = run(["run", str(study), "--executor", "ray", "--address", cluster.address, "--out", str(tmp_path / "run")])
    assert code == 0, capsys.readouterr().err
    assert numbers(tmp_path / "run") == numbers(alone)


def test_an_address_where_nobody_answers_is_one_line(capsys, tmp_path):
    assert run(["run", "--executor", "ray", "--address", "127.0.0.1:1", "--out", str(tmp_path / "run")]) == 2
    assert "no Ray cluster answers" in capsys.readouterr().err


def test_without_ray_the_message_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(UserError, match=r"llm-persona\[ray\]"), on_ray.ray_executor(None):
        pass

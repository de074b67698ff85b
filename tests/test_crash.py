"""Killed in the middle, two at once, no room, no right to write, a cache that goes away, a clock that moves."""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from pathlib import Path

import pytest
from conftest import make_subject
from failpoints import Point, killed
from reader_inputs import ITEM

from llm_persona.analysis.vectors import PersonaVector, fit
from llm_persona.domain import store
from llm_persona.domain.condition import BASE
from llm_persona.domain.errors import UserError
from llm_persona.domain.items import Items, parse_item
from llm_persona.domain.responses import Response
from llm_persona.domain.store import appearing, read_json, write_json
from llm_persona.instruments.judging.scripted import ScriptedJudge
from llm_persona.instruments.trait_benchmark import TraitBenchmark
from llm_persona.interfaces.cli.main import run
from llm_persona.studies import evaluation, evaluation_parts, screen_parts
from llm_persona.studies.audit import AuditPlan, TunedModel, audit
from llm_persona.studies.folder import working_in
from llm_persona.studies.judging import plan_scores, score_answers
from llm_persona.studies.screen import ScreenPlan, screen, survey
from llm_persona.studies.stages import Stages
from llm_persona.studies.stored_answers import StoredAnswer
from llm_persona.subject.record import record
from llm_persona.training.data import Example, TrainingData
from llm_persona.training.finetune import finetune
from llm_persona.training.recipe import Recipe

forked = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked here")
pytestmark = pytest.mark.usefixtures("cache")
DATA = TrainingData([Example(f"Question {n // 2}?", f"Answer number {n}.") for n in range(12)], [], "test")
RECIPE = Recipe(rank=2, alpha=4, epochs=2, prompts_per_step=2, learning_rate=5e-3)


def hidden(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob(".*") if p.name != ".lock")


@forked
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_write_killed_anywhere_leaves_the_old_file_whole_and_the_next_writing_nothing_else(tmp_path, number):
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})
    place = ("half", "rename")[number % 2]
    was_killed, _ = killed(lambda: write_json(path, {"new": "x" * 1000}), Point(place, 1))
    assert was_killed
    assert read_json(path) == {"old": 1}
    assert hidden(tmp_path) == [".a.json.tmp"]
    write_json(path, {"new": 2})
    assert read_json(path) == {"new": 2}
    assert hidden(tmp_path) == []


def test_two_writers_of_one_file_do_not_share_their_temporary_file(tmp_path):
    path = tmp_path / "a.json"
    with appearing(path) as first, appearing(path) as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"  # the outer one ends last
    assert hidden(tmp_path) == []


def test_a_temporary_file_that_is_a_link_is_not_followed(tmp_path):
    target = tmp_path / "other.txt"
    target.write_text("kept")
    (tmp_path / ".a.json.tmp").symlink_to(target)
    write_json(tmp_path / "a.json", 1)
    assert target.read_text() == "kept"
    assert read_json(tmp_path / "a.json") == 1


@forked
@pytest.mark.parametrize(
    "point", [Point("checkpoint", 2), Point("adapter", 2), Point("half", 2), Point("removal", 1)], ids=str
)
def test_a_fine_tuning_killed_anywhere_ends_like_an_undisturbed_one(tmp_path, point):
    def train(folder: str) -> None:
        finetune(make_subject(), DATA, tmp_path / folder / "tuned", RECIPE)

    train("whole")
    log = tmp_path / "log"
    was_killed, _ = killed(lambda: train("killed"), point, log)
    assert was_killed
    killed(lambda: train("killed"), log=log)
    whole, other = (tmp_path / name / "tuned" for name in ("whole", "killed"))
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (whole / name).read_bytes() == (other / name).read_bytes()
    assert read_json(whole / "llm-persona.json")["result"]["losses"] == read_json(other / "llm-persona.json")[
        "result"]["losses"]  # fmt: skip
    assert hidden(tmp_path / "killed") == []


@forked
def test_an_audit_killed_at_a_stage_and_in_a_write_ends_like_an_undisturbed_one(tmp_path, tiny_folders):
    finetune(make_subject(), DATA, tmp_path / "unused", RECIPE)
    plan = AuditPlan(("openness",), items=3, fit_items=4, questions=2, max_new_tokens=3)
    models = [TunedModel("other", "other", model=tiny_folders[1])]

    def work(folder: str) -> None:
        audit(tiny_folders[0], models, plan, tmp_path / folder, "float32")

    log = tmp_path / "log"
    _, passed = killed(lambda: work("whole"), log=log)
    for point in (Point("stage", 4), Point("half", 3)):
        assert killed(lambda: work("killed"), point, log)[0]
    before = len(list((tmp_path / "killed" / "stages").glob("*.json")))
    _, after = killed(lambda: work("killed"), log=log)
    assert before + after["stage"] == passed["stage"]
    assert read_json(tmp_path / "whole" / "audit.json") == read_json(tmp_path / "killed" / "audit.json")
    assert hidden(tmp_path / "killed") == []


@forked
def test_a_screening_killed_in_a_write_ends_like_an_undisturbed_one(tmp_path, tiny, monkeypatch):
    monkeypatch.setattr(screen_parts, "PART", 4)
    rows = [Response(f"q{n}", text, pole, str(n)) for n in range(3) for pole, text in (("high", "!?"), ("low", "a b"))]
    vector = fit(record(tiny, rows), {"trait": "badness", "model": tiny.name})
    turns = [[{"role": "user", "content": f"q{n}"}, {"role": "assistant", "content": f"a {n}"}] for n in range(14)]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps({"messages": t}) + "\n" for t in turns))
    plan = ScreenPlan(max_new_tokens=2)
    data = survey(tmp_path / "d.jsonl", plan)

    def work(name: str) -> None:
        write_json(tmp_path / f"{name}.json", screen(tiny, data, vector, 2, plan))

    log = tmp_path / "log"
    assert killed(lambda: work("a"), Point("half", 2), log)[0]
    assert hidden(tmp_path / "cache")
    _, after = killed(lambda: work("a"), log=log)
    assert after["rename"] == 4  # of five files one was there
    assert hidden(tmp_path / "cache") == []
    shutil.rmtree(tmp_path / "cache")
    killed(lambda: work("b"), log=log)
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


@forked
def test_scoring_killed_in_a_write_asks_only_for_what_is_missing(tmp_path):
    plan = plan_scores([StoredAnswer("base", f"Q{n}", f"A{n}") for n in range(6)], rubrics=("coherence",))
    asked = tmp_path / "asked"

    def reply(request) -> int:
        with asked.open("a") as sink:
            sink.write(request.answer + "\n")
        return 60

    def work() -> None:
        judge = ScriptedJudge(reply, "script")
        judge.part = 2
        write_json(tmp_path / "scores.json", score_answers(judge, plan))

    assert killed(work, Point("half", 4), tmp_path / "log")[0]
    kept = asked.read_text().split()[:3]
    asked.write_text("")
    killed(work, log=tmp_path / "log")
    assert asked.read_text().split() == [f"A{n}" for n in range(6) if f"A{n}" not in kept]
    assert read_json(tmp_path / "scores.json")["summary"][0]["n"] == 6
    assert hidden(tmp_path / "cache") == []


@pytest.mark.parametrize("what", ["running a study", "auditing", "comparing preventions"])
def test_a_second_process_in_one_folder_is_refused_with_a_clear_word(tmp_path, what):
    refused = pytest.raises(UserError, match=f"another process is {what} there; wait")
    with working_in(tmp_path / "run", what), refused, working_in(tmp_path / "run", what):
        pytest.fail("both work there")
    with working_in(tmp_path / "run", what):
        pass  # free again


def test_a_second_fine_tuning_into_one_folder_is_refused_and_the_first_goes_on(tmp_path):
    def second(step: int, _total: int) -> None:
        if step == 1:
            with pytest.raises(UserError, match="another process is training there"):
                finetune(make_subject(), DATA, tmp_path / "a", RECIPE)

    done = finetune(make_subject(), DATA, tmp_path / "a", RECIPE, progress=second)
    assert done.steps and hidden(tmp_path) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES], ids=errno.errorcode.get)
def test_no_room_or_no_right_is_one_line_that_names_the_file_and_leaves_the_old_one(tmp_path, monkeypatch, number):
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})

    def refuse(_handle: int) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(store.os, "fsync", refuse)
        with pytest.raises(UserError, match=f"a.json: cannot be written .{os.strerror(number)}.; free some space or"):
            write_json(path, {"new": 2})
    assert read_json(path) == {"old": 1}
    assert hidden(tmp_path) == []


def test_a_study_on_a_full_disk_is_one_line_and_goes_on_when_there_is_room(tiny_run, tmp_path, monkeypatch, capsys):
    folder, command = tiny_run.copied(tmp_path)
    expected = (folder / "results.json").read_bytes()
    stages = sorted((folder / "stages").glob("*tune*.json"))
    for stage in stages[:1]:
        stage.unlink()
    real = os.fsync

    def full(handle: int) -> None:
        if "tune" in str(Path(f"/proc/self/fd/{handle}").readlink()):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    with monkeypatch.context() as patched:
        patched.setattr(store.os, "fsync", full)
        assert run(command) == 2
    shown = [line for line in capsys.readouterr().err.splitlines() if line.startswith("llm-persona:")]
    assert len(shown) == 1 and "tune" in shown[0] and "No space left on device" in shown[0]
    assert run(command) == 0
    assert (folder / "results.json").read_bytes() == expected
    assert read_json(folder / "manifest.json")["stages_made"] == 1
    assert hidden(folder) == []


@pytest.mark.parametrize(
    ("name", "number"),
    [("results.json", errno.ENOSPC), ("results.json", errno.EROFS), ("report.html", errno.ENOSPC),
     ("manifest.json", errno.ENOSPC), ("openness.safetensors", errno.ENOSPC)],
)  # fmt: skip
def test_a_study_that_may_not_write_one_file_names_it_and_ends_the_same_when_it_may(
    tiny_run, tmp_path, monkeypatch, capsys, name, number
):
    folder, command = tiny_run.copied(tmp_path)
    path = next(folder.rglob(name))
    expected = contents(path)
    path.unlink()
    real = os.fsync

    def refuse(handle: int) -> None:
        if name in Path(f"/proc/self/fd/{handle}").readlink().name:
            raise OSError(number, os.strerror(number))
        real(handle)

    with monkeypatch.context() as patched:
        patched.setattr(store.os, "fsync", refuse)
        assert run(command) == 2
    shown = [line for line in capsys.readouterr().err.splitlines() if line.startswith("llm-persona:")]
    assert len(shown) == 1 and name in shown[0] and os.strerror(number) in shown[0]
    assert not path.exists()
    assert run(command) == 0
    assert read_json(folder / "manifest.json")["stages_made"] == 0
    if name != "manifest.json":  # (which tells the time that this run took)
        assert contents(path) == expected
    assert hidden(folder) == []


def contents(path: Path) -> object:
    """What a file says (the order of a tensor file's metadata is no part of that)."""
    return PersonaVector.load(path).digest if path.suffix == ".safetensors" else path.read_bytes()


def test_a_place_where_no_folder_can_be_made_is_one_line_before_a_model_is_loaded(
    tiny_run, tmp_path, monkeypatch, capsys
):
    command = tiny_run.command(tmp_path / "read-only" / "run")
    real = Path.mkdir

    def refuse(self: Path, *given: object, **more: object) -> None:
        if "read-only" in str(self):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(self))
        real(self, *given, **more)

    monkeypatch.setattr(Path, "mkdir", refuse)
    monkeypatch.setattr("llm_persona.studies.lab.load_subject", None)
    assert run(command) == 2
    said = capsys.readouterr().err
    assert "cannot be written (Read-only file system); choose a writable folder" in said


@forked
def test_a_study_in_a_folder_where_another_process_works_is_refused_and_goes_on_when_that_has_ended(
    tiny_run, tmp_path, capsys
):
    folder, command = tiny_run.copied(tmp_path)
    (folder / "results.json").unlink()
    (told, tell), (asked, ask) = os.pipe(), os.pipe()
    other = os.fork()
    if other == 0:
        try:
            with working_in(folder, "running a study"):
                os.write(tell, b"in")
                os.read(asked, 1)
        finally:
            os._exit(0)
    try:
        assert os.read(told, 2) == b"in"
        assert run(command) == 2
        said = capsys.readouterr().err
        assert f"--out {folder}: another process is running a study there; wait or choose another folder" in said
        assert not (folder / "results.json").exists()
    finally:
        os.write(ask, b"x")
        os.waitpid(other, 0)
    assert run(command) == 0
    assert (folder / "results.json").read_bytes() == (tiny_run.folder / "results.json").read_bytes()


def test_a_stage_survives_the_removal_of_its_folder_in_the_middle(tmp_path):
    stages = Stages(tmp_path / "cache")

    def make() -> dict[str, int]:
        shutil.rmtree(tmp_path / "cache")
        return {"x": 1}

    stages.value("first", 0, lambda: 1)
    assert stages.value("second", 0, make) == {"x": 1}
    assert Stages(tmp_path / "cache").has("second", 0)


def test_an_evaluation_survives_the_removal_of_the_cache_in_the_middle(tiny, cache, monkeypatch):
    monkeypatch.setattr(evaluation_parts, "PART", 2)
    items = Items([parse_item({**ITEM, "query": f"What {n}?"}, "here", str(n)) for n in range(6)], "here")
    plan = evaluation.EvaluationPlan(TraitBenchmark(()))
    undisturbed = evaluation.evaluate_sets(tiny, {"x": items}, {"x": BASE}, plan)
    done: list[int] = []

    def gone(count: int) -> None:
        done.append(count)
        shutil.rmtree(cache)

    assert evaluation.evaluate_sets(tiny, {"x": items}, {"x": BASE}, plan, gone) == undisturbed
    assert done == [2, 2, 2]


def test_a_clock_set_back_and_files_from_the_future_change_nothing(tiny_run, tmp_path, monkeypatch):
    folder, command = tiny_run.copied(tmp_path)
    expected = (folder / "results.json").read_bytes()
    future = time.time() + 10 * 365 * 86400
    for path in folder.rglob("*"):
        os.utime(path, (future, future))
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    assert run(command) == 0
    assert (folder / "results.json").read_bytes() == expected
    found = read_json(folder / "manifest.json")
    assert found["stages_made"] == 0
    assert found["seconds_this_run"] >= 0


@forked
def test_a_training_goes_on_from_its_checkpoint_whatever_the_files_times_are(tmp_path):
    finetune(make_subject(), DATA, tmp_path / "whole" / "a", RECIPE)
    assert killed(lambda: finetune(make_subject(), DATA, tmp_path / "b" / "a", RECIPE), Point("checkpoint", 3))[0]
    for path in (tmp_path / "b").rglob("*"):
        os.utime(path, (4e9, 4e9))
    finetune(make_subject(), DATA, tmp_path / "b" / "a", RECIPE)
    whole, other = (tmp_path / n / "a" / "adapter_model.safetensors" for n in ("whole", "b"))
    assert whole.read_bytes() == other.read_bytes()

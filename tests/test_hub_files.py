"""Weights in the layout of the Hub's cache: a file that is not what its name says is refused before it is used."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import llm_persona as lp
from llm_persona.domain.errors import UserError
from llm_persona.interfaces.cli.main import run
from llm_persona.subject import file_digests
from llm_persona.subject.hub_files import check_hub_files

COMMIT = "c" * 40
pytestmark = pytest.mark.usefixtures("cache")


def in_hub_layout(model: Path, place: Path) -> Path:
    """A model's folder as the Hub's cache keeps it: weights by SHA-256, the rest by git's SHA-1."""
    repo = place / "models--some--tiny"
    snapshot = repo / "snapshots" / COMMIT
    for folder in (repo / "blobs", repo / "refs", snapshot):
        folder.mkdir(parents=True)
    (repo / "refs" / "main").write_text(COMMIT)
    for file in model.iterdir():
        content = file.read_bytes()
        large = file.suffix == ".safetensors"
        name = (hashlib.sha256(content) if large else hashlib.sha1(b"blob %d\0" % len(content) + content)).hexdigest()
        (repo / "blobs" / name).write_bytes(content)
        (snapshot / file.name).symlink_to(Path("..", "..", "blobs", name))
    return snapshot


@pytest.fixture
def snapshot(tiny_folders, tmp_path):
    return in_hub_layout(Path(tiny_folders[0]), tmp_path / "hub")


def alter(link):
    """One bit of the last weight, the size as it was."""
    blob = link.resolve()
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(content)
    return blob


def cut(link):
    blob = link.resolve()
    blob.write_bytes(blob.read_bytes()[:-100])
    return blob


def test_a_whole_snapshot_is_loaded(snapshot):
    assert lp.load_subject(str(snapshot), dtype="float32").n_layers == 4


@pytest.mark.parametrize("spoil", [alter, cut])
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_an_altered_or_truncated_file_of_a_snapshot_is_refused_by_name_with_the_remedy(snapshot, name, spoil, capsys):
    blob = spoil(snapshot / name)
    assert run(["evaluate", "--model", str(snapshot), "--limit", "1"]) == 2
    said = capsys.readouterr().err
    assert f"{name} is not what its digest says" in said
    assert f"delete {blob} and fetch it again" in said


def test_a_file_that_is_gone_from_the_blobs_is_named(snapshot):
    (snapshot / "model.safetensors").resolve().unlink()
    with pytest.raises(UserError, match=r"model\.safetensors is gone"):
        check_hub_files(snapshot, "model")


def test_the_verdict_on_large_files_is_remembered_until_they_change(snapshot, monkeypatch):
    monkeypatch.setattr(file_digests, "LARGE_FILE", 1)
    check_hub_files(snapshot, "model")
    with monkeypatch.context() as patch:
        patch.setattr(file_digests, "file_digest", lambda _: pytest.fail("read again"))
        check_hub_files(snapshot, "model")
    alter(snapshot / "model.safetensors")
    with pytest.raises(UserError, match=r"model\.safetensors is not what its digest says"):
        check_hub_files(snapshot, "model")


def test_a_folder_of_another_kind_is_left_alone(tiny_folders, tmp_path):
    shutil.copytree(tiny_folders[0], tmp_path / "plain")
    check_hub_files(tmp_path / "plain", "model")
    named = tmp_path / "blobs" / "weights-of-mine"  # a link to a folder called blobs, whose files carry no digest
    named.parent.mkdir()
    named.write_bytes(b"x")
    (tmp_path / "plain" / "extra.txt").symlink_to(named)
    check_hub_files(tmp_path / "plain", "model")


def test_an_adapter_in_that_layout_is_checked_too(snapshot):
    from llm_persona.subject.adapt import check_adapter

    (snapshot / "model.safetensors").rename(snapshot / "adapter_model.safetensors")
    (snapshot / "config.json").rename(snapshot / "adapter_config.json")
    check_adapter(snapshot)
    alter(snapshot / "adapter_model.safetensors")
    with pytest.raises(UserError, match=r"adapter_model\.safetensors is not what its digest says"):
        check_adapter(snapshot)


def test_a_model_by_its_hub_id_is_checked_in_the_hub_s_cache(snapshot, tmp_path):
    """In a process of its own: the Hub's client reads where its cache lies when it is imported."""
    code = "import sys; from llm_persona.interfaces.cli.main import run; sys.exit(run(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "evaluate", "--model", "some/tiny", "--limit", "1", "--trait", "openness"]
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}

    def evaluated():
        return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)

    assert evaluated().returncode == 0
    alter(snapshot / "model.safetensors")
    done = evaluated()
    assert done.returncode == 2
    assert "model 'some/tiny': model.safetensors is not what its digest says" in done.stderr

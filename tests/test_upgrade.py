"""Files of older versions are read, those of an unknown newer one are refused with a clear word."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from conftest import make_subject
from safetensors.numpy import save_file

from llm_persona.analysis.activations import Activations
from llm_persona.analysis.vectors import PersonaVector
from llm_persona.domain.adapters import adapter_fault, adapter_record
from llm_persona.domain.config import read_config
from llm_persona.domain.errors import UserError
from llm_persona.domain.formats import VERSIONS, format_of, version_in
from llm_persona.domain.store import digest, read_json, write_json
from llm_persona.interfaces.cli.main import run
from llm_persona.studies.audit_page import write_audit_page
from llm_persona.studies.compare import read_runs
from llm_persona.studies.folder import refuse_newer
from llm_persona.studies.judge_gate import gate_of, trial_of
from llm_persona.studies.report import read_results
from llm_persona.studies.stages import Stages
from llm_persona.subject import smollm2
from llm_persona.subject.remote.requests import Reply
from llm_persona.training.data import Example, TrainingData
from llm_persona.training.finetune import finetune
from llm_persona.training.recipe import Recipe

pytestmark = pytest.mark.usefixtures("cache")
NEWER = r"written by a newer llm-persona \(this one reads .* files up to version 1\); update llm-persona"
ONES = np.ones((2, 3), np.float32)


def newer(kind: str) -> str:
    return f"llm-persona.{kind}.{VERSIONS[kind] + 1}"


@pytest.mark.parametrize("kind", sorted(VERSIONS))
def test_every_kind_of_file_has_a_version_and_refuses_a_newer_one(kind):
    assert version_in(format_of(kind), kind, "x") == VERSIONS[kind]
    assert version_in(None, kind, "x") == 0
    with pytest.raises(UserError, match=f"^some/file: format {newer(kind)} was {NEWER}"):
        version_in(newer(kind), kind, "some/file")
    for wrong in ("llm-persona.other.1", f"llm-persona.{kind}.x", f"llm-persona.{kind}.-1", 3, ["x"]):
        with pytest.raises(UserError, match=r"its format is .*; give another file"):
            version_in(wrong, kind, "some/file")


# Layouts as version 0.1.0 wrote them, before files had digests (and, most of them, before they had a format).


def test_vectors_and_activations_of_0_1_0_are_read(tmp_path):
    meta = {"format": "llm-persona.vector.1", "layers": "l", "meta": json.dumps({"trait": "openness"})}
    save_file({"directions": ONES, "reference_norms": ONES[:, 0].copy()}, tmp_path / "v", metadata=meta)
    assert PersonaVector.load(tmp_path / "v").meta == {"trait": "openness"}
    meta = {"format": "llm-persona.activations.1", "poles": '["high", "low"]', "groups": '["a", "b"]'}
    save_file({"values": np.ones((2, 1, 3), np.float32)}, tmp_path / "a", metadata=meta)
    assert Activations.load(tmp_path / "a").poles == ["high", "low"]


def test_stages_of_0_1_0_are_taken_over(tmp_path):
    stages = Stages(tmp_path)
    stages.value("a", 1, lambda: {"x": 0.5})
    (path,) = tmp_path.glob("*.json")
    old = {k: v for k, v in read_json(path).items() if k in ("stage", "key", "seconds", "value", "digest")}
    path.write_text(json.dumps(old))
    assert Stages(tmp_path).value("a", 1, lambda: pytest.fail("made again")) == {"x": 0.5}


def test_a_run_of_0_1_0_is_read_and_gone_on_with(tiny_run, tmp_path):
    folder, command = tiny_run.copied(tmp_path)
    expected = (folder / "results.json").read_bytes()
    for path in (folder / "stages").glob("*.json"):
        write_json(path, {k: v for k, v in read_json(path).items() if k != "format"})
    settings = yaml.safe_load((folder / "study.yaml").read_text())
    del settings["format"]
    (folder / "study.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    manifest = {k: v for k, v in read_json(folder / "manifest.json").items() if k not in ("digest", "stage_files")}
    del manifest["digests"]["study.yaml"]
    write_json(folder / "manifest.json", manifest)
    for path in (folder / "adapters").glob("*/llm-persona.json"):
        write_json(path, {k: v for k, v in read_json(path).items() if k not in ("format", "digest", "files")})
    assert read_config(folder / "study.yaml").traits == ["openness"]
    assert run(["doctor", str(folder)]) == 0
    assert run(command) == 0
    assert read_json(folder / "manifest.json")["stages_made"] == 0
    assert (folder / "results.json").read_bytes() == expected


def test_an_adapter_of_0_1_0_is_used_without_complaint(tmp_path):
    data = TrainingData([Example("Q?", "A.")], [], "test")
    done = finetune(make_subject(), data, tmp_path / "a", Recipe(rank=1, epochs=1))
    record = read_json(tmp_path / "a" / "llm-persona.json")
    write_json(
        tmp_path / "a" / "llm-persona.json", {k: v for k, v in record.items() if k not in ("format", "digest", "files")}
    )
    assert adapter_fault(tmp_path / "a") == ""
    assert finetune(make_subject(), data, tmp_path / "a", Recipe(rank=1, epochs=1)) == done


def test_gates_replies_and_the_model_s_stamp_of_0_1_0_are_read(tmp_path, openness):
    from judges import scripted

    from llm_persona.studies.judge_gate import _place
    from llm_persona.subject.remote.caller import Caller
    from llm_persona.subject.remote.requests import ChatRequest

    judge = scripted(lambda r: 50)
    write_json(_place(judge, trial_of(openness)), {"passed": True, "checks": {}})
    assert gate_of(judge, openness) == {"passed": True, "checks": {}}

    caller = Caller(SimpleNamespace(identity={"kind": "test", "model": "m"}), tmp_path)
    request = ChatRequest((("user", "Q"),), 3)
    place = caller._place(request)
    write_json(place, {"text": "A", "finish": "", "top": [], "prompt_tokens": 1, "completion_tokens": 1})
    assert caller._cached(request) == Reply("A", "", (), 1, 1)
    write_json(place, {"format": newer("reply"), "text": "A"})
    with pytest.raises(UserError, match=NEWER):
        caller._cached(request)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"w")
    stamp = {"source": "x", "gguf_sha256": "y", "bytes": 1}
    write_json(folder / smollm2.STAMP, {**stamp, "sha256": smollm2.file_digest(folder / "model.safetensors")})
    assert smollm2.model_fault(folder) == ""


def test_an_audit_and_an_evaluation_of_0_1_0_are_read(tmp_path):
    traits = {"openness": {"n": 0, "n_unscored": 0, "score": 50.0, "rows": []}}
    write_json(
        tmp_path / "e.json", {"model": "m", "mode": "likelihood", "condition": {"name": "base"}, "traits": traits}
    )
    assert read_runs(tmp_path / "e.json")[0]["model"] == "m"
    audit = {"format": "llm-persona.audit.1", "traits": {}, "matrix": {"rows": [], "columns": []}}
    write_json(tmp_path / "audit.json", audit)
    refuse_newer(tmp_path)


# What an unknown newer version wrote.


def test_newer_vectors_activations_and_stages_are_refused(tmp_path):
    save_file({"directions": ONES}, tmp_path / "v", metadata={"format": newer("vector")})
    with pytest.raises(UserError, match=NEWER):
        PersonaVector.load(tmp_path / "v")
    save_file({"values": ONES}, tmp_path / "a", metadata={"format": newer("activations")})
    with pytest.raises(UserError, match=NEWER):
        Activations.load(tmp_path / "a")
    Stages(tmp_path).value("s", 1, lambda: 1)
    (path,) = tmp_path.glob("s-*.json")
    write_json(path, {**read_json(path), "format": newer("stage")})
    with pytest.raises(UserError, match=NEWER):
        Stages(tmp_path).value("s", 1, lambda: 1)


@pytest.mark.parametrize("kind", ["results", "manifest", "audit", "prevention"])
def test_a_folder_that_a_newer_version_wrote_is_left_alone(tmp_path, kind):
    write_json(tmp_path / f"{kind}.json", {"format": newer(kind)})
    with pytest.raises(UserError, match=f"{kind}.json: .*{NEWER}"):
        refuse_newer(tmp_path)


def test_newer_results_audits_studies_evaluations_and_adapters_are_refused(tmp_path):
    write_json(tmp_path / "results.json", {"format": newer("results")})
    write_json(tmp_path / "audit.json", {"format": newer("audit")})
    write_json(tmp_path / "e.json", {"format": newer("evaluation")})
    (tmp_path / "study.yaml").write_text(f"format: {newer('study')}\npreset: smoke\n")
    (tmp_path / "a").mkdir()
    write_json(tmp_path / "a" / "llm-persona.json", {"format": newer("adapter"), "digest": digest({})})
    for read, path in (
        (read_results, tmp_path), (write_audit_page, tmp_path), (read_runs, tmp_path / "e.json"),
        (read_config, tmp_path / "study.yaml"), (adapter_record, tmp_path / "a"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=NEWER):
            read(path)

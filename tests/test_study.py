"""The whole job through the command line, on the real model, in its smallest size."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from schemas import check_schema

pytestmark = pytest.mark.model

STUDY = Path(__file__).resolve().parents[1] / "benchmarks" / "tiny_study.yaml"


def start(folder: Path, study: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "llm_persona.interfaces.cli.main", "run", str(study), "--out", str(folder)]
    code = "from llm_persona.interfaces.cli.main import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, *command[3:]], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    path = tmp_path_factory.mktemp("study") / "tiny.yaml"
    path.write_text(STUDY.read_text(encoding="utf-8"), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def finished(study):
    process = start(study.parent / "whole", study)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    return study.parent / "whole", out


def test_the_folder_holds_what_the_contract_says(finished):
    folder, out = finished
    assert str(folder / "report.html") in out
    for name in ("study.yaml", "manifest.json", "results.json", "report.html", "vectors/openness.safetensors",
                 "adapters/openness-high/adapter_model.safetensors", "figures/openness-layers.png"):  # fmt: skip
        assert (folder / name).is_file(), name
    assert not [p for p in folder.rglob(".*") if p.name != ".lock"]


def test_results_have_the_contract_s_keys(finished):
    results = json.loads((finished[0] / "results.json").read_text())
    check_schema("results", results)
    assert {"model", "traits", "profile", "geometry", "recommendations"} <= results.keys()
    trait = results["traits"]["openness"]
    assert {"baseline", "instructed", "vector", "steering", "dose_response", "controls", "tuned"} <= trait.keys()
    assert len(trait["vector"]["layers"]) == 30
    keys = {"layer", "auc", "auc_ci", "p_value", "p_family", "separation", "separation_ci", "variance_high",
            "variance_low", "norm", "dose_per_unit", "band"}  # fmt: skip
    assert keys <= trait["vector"]["layers"][0].keys()
    assert {"layer", "coefficient", "dose", "score", "score_ci", "perplexity", "samples"} <= trait["steering"][0].keys()
    assert {"slope", "slope_ci", "r2", "spearman", "usable_range"} <= trait["dose_response"].keys()
    assert {"quality", "effect", "balanced", "coefficient", "dose"} <= trait["vector"]["recommended"].keys()
    assert all(trait["tuned"][pole]["projection"]["author"]["n"] >= 1 for pole in ("high", "low"))


def test_the_page_stands_alone_and_escapes_what_the_model_wrote(finished):
    page = (finished[0] / "report.html").read_text()
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", page)
    assert page.count("<script") == 1, "the page's own, whose digest its policy names"
    assert "indicative" in page
    results = json.loads((finished[0] / "results.json").read_text())
    assert all(f["text"].split("(")[0][:40] in page for f in results["findings"] if "'" not in f["text"][:40])


def test_markup_in_an_answer_shows_as_text(finished, tmp_path):
    import shutil

    from llm_persona.studies.report import write_report

    folder = tmp_path / "copy"
    shutil.copytree(finished[0], folder)
    results = json.loads((folder / "results.json").read_text())
    results["traits"]["openness"]["baseline"]["samples"][0]["text"] = "<script>alert(1)</script>"
    (folder / "results.json").write_text(json.dumps(results))
    page = write_report(folder).read_text()
    assert "<script>alert(1)" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_a_second_run_recomputes_nothing(finished, study):
    before = (finished[0] / "results.json").read_bytes()
    process = start(finished[0], study)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert (finished[0] / "results.json").read_bytes() == before
    assert json.loads((finished[0] / "manifest.json").read_text())["stages_made"] == 0


def test_a_killed_run_goes_on_and_ends_with_the_same_numbers(finished, study):
    folder = study.parent / "killed"
    for stage in (8, 30):  # at many more moments: make test-kill
        process = start(folder, study)
        deadline = time.monotonic() + 300
        assert process.stderr is not None
        for line in process.stderr:
            if f"[{stage}/" in line or time.monotonic() > deadline:
                break
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (folder / "results.json").exists()
    process = start(folder, study)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    assert "[1/" not in err  # the first stage was there already
    assert (folder / "results.json").read_bytes() == (finished[0] / "results.json").read_bytes()
    assert not [p for p in folder.rglob(".*") if p.name != ".lock"]


def test_two_processes_in_one_folder_do_not_mix(finished, study):
    from filelock import FileLock

    with FileLock(finished[0] / "stages" / ".lock"):
        process = start(finished[0], study)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "another process is running" in err

"""Whole commands over a trait of which some items are longer than the model's context: they go on, and say which."""

from __future__ import annotations

import pytest
import yaml
from reader import strict
from schemas import check_schema

from llm_persona.domain.traits import load_trait
from llm_persona.interfaces.cli.main import run
from llm_persona.subject.packing import BEYOND

LONG = "It rains, and it rains. " * 800


@pytest.fixture(scope="module")
def trait(tmp_path_factory):
    """Openness with one item a split that no tiny model reads, and the ids of these by split."""
    found = load_trait("openness").model_dump(mode="json")
    first = {split: next(i for i in found["items"] if i["split"] == split) for split in ("fit", "select", "test")}
    for item in first.values():
        item["situation"] = LONG
    path = tmp_path_factory.mktemp("trait") / "openness.yaml"
    path.write_text(yaml.safe_dump(found, sort_keys=False), encoding="utf-8")
    return path, {split: item["id"] for split, item in first.items()}


@pytest.fixture(scope="module")
def model(tiny_folders):
    return ["--model", tiny_folders[0], "--dtype", "float32"]


@pytest.fixture(scope="module")
def studied(trait, model, tmp_path_factory):
    """A finished study of that trait, and the command that made it."""
    folder = tmp_path_factory.mktemp("long")
    settings = {
        "preset": "smoke", "traits": [str(trait[0])], "fit_items": 6, "select_items": 3, "test_items": 5,
        "doses": [-0.2, 0.2], "sweep_layers": 1, "random_directions": 1, "questions": 2, "max_new_tokens": 8,
        "neutral_passages": 1, "tuning_prompts": 4, "letter_modes": ["choice"],
    }  # fmt: skip
    (folder / "study.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    command = ["run", str(folder / "study.yaml"), *model, "--out", str(folder / "run")]
    assert run(command) == 0
    return folder / "run", command


def test_a_study_goes_on_without_what_is_too_long_and_its_results_list_it(studied, trait):
    results = strict(studied[0] / "results.json")
    check_schema("results", results)
    found = results["traits"]["openness"]
    assert (found["baseline"]["n"], found["baseline"]["n_unscored"]) == (5, 1)
    assert {"id": trait[1]["test"], "unscored": BEYOND} in found["baseline"]["rows"]
    beyond = found["beyond_context"]
    assert {name: len(rows) for name, rows in beyond["left_out"].items()} == {"fit": 4, "select": 4, "test": 4}
    likelihood = next(entry for entry in beyond["unscored"] if entry["instrument"] == "likelihood")
    assert (likelihood["n"], likelihood["of"], likelihood["ids"]) == (1, 5, [trait[1]["test"]])
    assert {"base", "tuned high", "steered -0.2", "instructed low"} <= set(likelihood["conditions"])
    assert found["vector"]["n_groups"] == 4
    assert [point["shift"]["n"] for point in found["steering"]] == [4, 4]


def test_the_adapter_s_record_lists_what_it_was_not_trained_on(studied):
    skipped = strict(studied[0] / "adapters" / "openness-high" / "llm-persona.json")["result"]["skipped"]
    assert [row["row"] for row in skipped] == [0, 1]  # the two high answers to the first prompt
    assert "exceeds the model's 2048" in skipped[0]["reason"]
    training = strict(studied[0] / "results.json")["traits"]["openness"]["tuned"]["high"]["training"]
    assert (training["examples"], training["skipped"]) == (6, 2)


def test_the_report_says_how_many_and_which(studied, trait, capsys):
    page = (studied[0] / "report.html").read_text(encoding="utf-8")
    assert trait[1]["test"] in page
    assert "1 questions (4 rows of both poles) of the fit rows are left out" in page
    assert run(["report", str(studied[0]), "--format", "model-card"]) == 0
    assert "1 of 5 items are unscored" in capsys.readouterr().out


def test_a_finished_study_says_the_same_again_without_a_model(studied, monkeypatch):
    before = (studied[0] / "results.json").read_bytes()
    monkeypatch.setattr("llm_persona.studies.lab.load_subject", None)
    assert run(studied[1]) == 0
    assert (studied[0] / "results.json").read_bytes() == before


def test_an_audit_goes_on_and_lists_what_is_too_long(studied, trait, model, tmp_path):
    adapter = str(studied[0] / "adapters" / "openness-high")
    assert run(["audit", *model, "--adapter", adapter, "--trait", str(trait[0]), "--out", str(tmp_path / "a"),
                "--limit", "6", "--questions", "2", "--max-new-tokens", "6"]) == 0  # fmt: skip
    audit = strict(tmp_path / "a" / "audit.json")
    check_schema("audit", audit)
    found = audit["traits"]["openness"]
    tuned = found["tuned"]["openness-high"]
    assert (tuned["n"], tuned["projection"]["n_fixed_texts"]) == (5, 5)
    assert len(tuned["layer_profile"]["fixed_texts"]) == 4
    beyond = found["beyond_context"]
    assert {name: len(rows) for name, rows in beyond["left_out"].items()} == {"fit": 4, "test": 4}
    assert beyond["unscored"][0]["conditions"] == ["base", "openness-high"]
    assert trait[1]["test"] in (tmp_path / "a" / "audit.html").read_text(encoding="utf-8")


def test_an_evaluation_counts_and_names_what_is_too_long(trait, model, tmp_path, capsys):
    assert run(["evaluate", *model, "--trait", str(trait[0]), "--json", str(tmp_path / "e.json")]) == 0
    assert f"1 unscored: {BEYOND}" in capsys.readouterr().out
    evaluation = strict(tmp_path / "e.json")
    check_schema("evaluate", evaluation)
    found = evaluation["traits"]["openness"]
    assert found["unscored"] == {BEYOND: 1}
    assert [row["id"] for row in found["rows"] if "unscored" in row] == [trait[1]["test"]]

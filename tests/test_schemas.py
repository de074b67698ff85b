"""What commands write is what the schemas say, field by field: no result holds a field that its schema leaves out."""

from __future__ import annotations

import copy
import json

import pytest
from conftest import save_tiny_adapter
from schemas import check_schema, load_schema, undescribed

from llm_persona.domain.config import make_config
from llm_persona.interfaces.cli.main import run
from llm_persona.studies import report
from llm_persona.studies.study import run_study

TRAITS = ["openness", "machiavellianism", "narcissism"]


@pytest.fixture(scope="module")
def by_command(tiny_folders, tmp_path_factory):
    """Runs a command on a tiny model; what its JSON says."""
    place = tmp_path_factory.mktemp("told")

    def told(*arguments):
        out = place / "told.json"
        assert run([*map(str, arguments), "--json", str(out)]) == 0
        return json.loads(out.read_text())

    told.place, told.model = place, ["--model", tiny_folders[0], "--dtype", "float32"]
    return told


@pytest.fixture(scope="module")
def vector(by_command):
    """A vector's file, and what its extraction said."""
    file = by_command.place / "v.safetensors"
    given = ["--trait", "openness", "--limit", "3", "--sweep-layers", "1", "--out", file]
    return file, by_command("vectors", "extract", *by_command.model, *given)


def test_the_results_of_a_study_are_described(tiny_run):
    check_schema("results", json.loads((tiny_run.folder / "results.json").read_text()))


def test_the_results_of_traits_that_are_compared_and_added_up_are_described(tiny_folders, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "save_figures", lambda results, folder: {})  # (no part of the results)
    monkeypatch.setattr(report, "render_page", lambda *_, **__: "")
    judge = tmp_path / "judge.json"
    judge.write_text(json.dumps({"otherwise": 50}))
    config = make_config(
        model=tiny_folders[0], dtype="float32", preset="smoke", traits=TRAITS, arithmetic=True, fit_items=3,
        select_items=2, test_items=2, second_items=2, transfer_items=0, questions=1, max_new_tokens=2, tune=False,
        random_directions=1, neutral_passages=1, letter_modes=["choice", "upstream"], judge=f"scripted:{judge}",
    )  # fmt: skip
    results = run_study(config, tmp_path / "run")
    assert results["arithmetic"]["shared"].keys() == set(TRAITS)
    check_schema("results", results)


def test_what_an_extraction_and_the_vector_s_file_say_is_described(by_command, vector):
    file, extracted = vector
    check_schema("extract", extracted)
    shown = by_command("vectors", "show", file, "--tokens", "2", "--model", by_command.model[1])
    assert shown["recommended"]["evidence"].keys() >= {"auc", "auc_ci", "effect", "effect_ci", "cost"}
    check_schema("show", shown)


def test_what_an_extraction_from_answers_says_is_described(by_command):
    file = by_command.place / "prompted.safetensors"
    given = ["--source", "prompted", "--trait", "openness", "--limit", "2", "--samples", "2", "--sweep-layers", "1",
             "--max-new-tokens", "32", "--against", by_command.place / "v.safetensors"]  # fmt: skip
    check_schema("extract", by_command("vectors", "extract", *by_command.model, *given, "--out", file))
    check_schema("show", by_command("vectors", "show", file))


@pytest.mark.parametrize("mode", ["likelihood", "choice", "upstream", "generate"])
def test_evaluations_in_every_mode_are_described(mode, by_command):
    given = ["--trait", "openness", "--trait", "narcissism", "--limit", "2", "--mode", mode, "--reliability"]
    one = by_command("evaluate", *by_command.model, *given)
    assert one["traits"]["openness"]["reliability"]
    check_schema("evaluate", one)
    check_schema(
        "evaluate", by_command("evaluate", *by_command.model, *given, "--instruct", "none", "--instruct", "low")
    )


@pytest.mark.parametrize("form", ["sum", "unconditional"])
def test_evaluations_by_every_form_of_likelihood_are_described(form, by_command):
    check_schema("evaluate", by_command("evaluate", *by_command.model, "--limit", "2", "--form", form))


def test_steered_answers_are_described_with_every_way_of_steering(by_command, vector):
    given = [
        "steer",
        *by_command.model,
        "--prompt",
        "Why?",
        "--max-new-tokens",
        "2",
        "--layer",
        "1",
        "--vector",
        vector[0],
    ]
    for how in (
        ["--dose", "0.2"],
        ["--operator", "ablate", "--positions", "prompt"],
        ["--operator", "cap", "--floor", "1"],
    ):
        check_schema("steer", by_command(*given, *how))


def test_an_audit_is_described(by_command, tmp_path):
    adapter = save_tiny_adapter(tmp_path / "adapter", by_command.model[1])
    given = ["--adapter", adapter, "--trait", "openness", "--limit", "3", "--questions", "2", "--max-new-tokens", "2"]
    check_schema("audit", by_command("audit", *by_command.model, *given, "--out", tmp_path / "audit"))


@pytest.fixture(scope="module")
def chats(by_command):
    """Two files of conversations, with labels and a row that cannot be used."""
    files = []
    for name in ("task", "benign"):
        turns = [[("user", f"{name} {n}?"), ("assistant", f"Answer {n}.")] for n in range(24)]
        said = [[{"role": role, "content": text} for role, text in both] for both in turns]
        rows = [{"messages": both, "bad": n % 2 == 0} for n, both in enumerate(said)]
        files.append(by_command.place / f"{name}.jsonl")
        files[-1].write_text("\n".join(map(json.dumps, [*rows, {"text": 1}])), encoding="utf-8")
    return files


def test_a_screening_is_described(by_command, vector, chats):
    given = ["--data", chats[0], "--vector", vector[0], "--layer", "1", "--max-new-tokens", "2", "--labels", "bad"]
    kept = by_command.place / "kept.jsonl"
    check_schema("screen", by_command("screen", *by_command.model, *given, "--export", kept))


def test_a_prevention_is_described(by_command, vector, chats, tmp_path):
    given = ["--trait", "openness", "--pole", "high", "--vector", vector[0], "--data", chats[0], "--benign", chats[1],
             "--method", "plain", "--method", "interleaving", "--layer", "1", "--seeds", "2", "--limit", "2",
             "--questions", "2", "--max-steps", "1", "--out", tmp_path / "out"]  # fmt: skip
    found = by_command("prevent", *by_command.model, *given)
    assert {"prevented_ci", "task_learnt_share_ci"} <= found["methods"]["interleaving"].keys()
    check_schema("prevent", found)


def test_a_field_that_the_schema_leaves_out_is_found_at_any_depth(tiny_run):
    found, schema = json.loads((tiny_run.folder / "results.json").read_text()), load_schema("results")
    for place in (
        lambda r: r,
        lambda r: r["subject"],
        lambda r: r["traits"]["openness"],
        lambda r: r["traits"]["openness"]["tuned"]["high"],
        lambda r: r["traits"]["openness"]["vector"]["layers"][0],
        lambda r: r["traits"]["openness"]["steering"][1]["shift"],
    ):
        more = copy.deepcopy(found)
        place(more)["new"] = 1
        assert [path.rpartition(".")[2] for path in undescribed(more, [schema], schema)] == ["new"]
        with pytest.raises(AssertionError, match=r"results.schema.json says nothing of \S*\.new"):
            check_schema("results", more)

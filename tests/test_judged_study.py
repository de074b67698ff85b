"""A judge inside a study, and another one after it: what is written stays, only the scores change."""

from __future__ import annotations

import json
import shutil

import pytest
from schemas import check_schema

from llm_persona.domain.config import make_config
from llm_persona.interfaces.cli.main import run
from llm_persona.studies import report
from llm_persona.studies.stored_answers import read_answers
from llm_persona.studies.study import expected_gradings

SETTINGS = """preset: smoke
fit_items: 6
select_items: 3
test_items: 4
doses: [-0.2, 0.2]
sweep_layers: 1
random_directions: 1
questions: 3
max_new_tokens: 6
neutral_passages: 1
tune: false
samples: 2
temperature: 0.8
"""
CONDITIONS = ["base", "instructed high", "instructed low", "combined high", "combined low", "steered -0.2",
              "steered +0.2"]  # fmt: skip


def script(path, score):
    path.write_text(json.dumps({"trait": {"contains": {"a": score}, "otherwise": 20}, "coherence": {"otherwise": 70}}))
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("judged")


@pytest.fixture(scope="module")
def drawn():
    return {}


@pytest.fixture(autouse=True)
def cache(place, drawn, monkeypatch):
    monkeypatch.setenv("LLM_PERSONA_CACHE", str(place / "cache"))

    def once(results, folder, real=report.save_figures):
        """Figures are not what is tested here, and drawing them takes most of the time."""
        if not drawn:
            drawn.update(real(results, folder))
        return drawn

    monkeypatch.setattr(report, "save_figures", once)


@pytest.fixture(scope="module")
def command(place, tiny_folders):
    (place / "study.yaml").write_text(SETTINGS)
    judge = script(place / "judge.json", 80)
    return ["run", str(place / "study.yaml"), "--model", tiny_folders[0], "--out", str(place / "run"), "--judge",
            f"scripted:{judge}"]  # fmt: skip


@pytest.fixture
def finished(command, place, cache):
    if not (place / "run" / "results.json").is_file():
        assert run(command) == 0
    return place / "run"


def results(folder):
    return json.loads((folder / "results.json").read_text())


def digests(folder):
    """Every file of a run by its bytes, the lock's left out."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


def test_every_answer_of_every_condition_is_kept(finished):
    answers = read_answers(finished)
    assert list(dict.fromkeys(a.condition for a in answers)) == CONDITIONS
    assert len(answers) == len(CONDITIONS) * 3 * 2
    assert all((a.projection is None) == (not a.answer) for a in answers)
    assert all(a.trait == "openness" and a.temperature == 0.8 and a.tokens is not None for a in answers)
    found = results(finished)
    assert found["answers"] == {"file": "answers.jsonl", "samples": 2, "temperature": 0.8, "max_new_tokens": 6}
    shown = found["traits"]["openness"]["baseline"]["samples"]
    assert [s["text"] for s in shown] == [a.answer for a in answers if a.condition == "base" and a.sample == 0]
    written = found["traits"]["openness"]["steering"][0]["written"]
    assert written["n"] + written["n_empty"] == 3  # questions


def test_each_condition_has_its_judged_score_and_the_page_shows_the_gate_beside_it(finished):
    found = results(finished)
    check_schema("results", found)
    row = found["traits"]["openness"]["instructed"]["high"]["judged"]
    assert {"mean", "ci", "n", "n_unscored", "reasons", "shift", "coherence"} <= row.keys()
    assert row["n"] + row["n_unscored"] == 6
    assert row["shift"]["n"] <= 3
    missing = {"state": "gate: missing", "passed": None}
    assert found["judge"]["gates"] == {"openness": missing, "coherence": missing}
    assert found["judge"]["identity"]["kind"] == "scripted"
    empty = sum(not a.answer for a in read_answers(finished))
    assert found["judge"]["graded"]["openness"] == {"n": 42, "unscored": {"empty answer": empty} if empty else {}}
    table = found["agreement"]["traits"]["openness"]
    assert [r["condition"] for r in table["rows"]] == CONDITIONS
    for name in ("preference", "projection"):
        assert table["rows"][-1][name]["mean"] is not None
    assert table["rows"][-1]["projection"]["mean"] == pytest.approx(
        found["traits"]["openness"]["steering"][1]["written"]["shift_in_pole_gaps"]
    )
    page = (finished / "report.html").read_text()
    assert page.count("gate: missing") >= len(CONDITIONS) + 1
    assert "Nowhere do two measures clearly disagree" in page  # four items and three questions tell nothing


def test_the_same_study_again_makes_nothing(finished, command):
    before = (finished / "results.json").read_bytes()
    assert run(command) == 0
    assert (finished / "results.json").read_bytes() == before
    assert json.loads((finished / "manifest.json").read_text())["stages_made"] == 0


def test_another_judge_changes_only_the_scores(finished, place, capsys):
    before = digests(finished)
    other = script(place / "other.json", 35)
    out = place / "scores.json"
    assert run(["judge", "score", str(finished), "--judge", f"scripted:{other}", "--agreement", "--json",
                str(out)]) == 0  # fmt: skip
    shown = capsys.readouterr().out
    assert "MISSING" in shown
    assert "Agreement over conditions" in shown
    assert digests(finished) == before
    found, first = json.loads(out.read_text())["agreement"], results(finished)["agreement"]
    assert found["judge"] != first["judge"]
    for new, old in zip(found["traits"]["openness"]["rows"], first["traits"]["openness"]["rows"], strict=True):
        for part in ("condition", "score", "preference", "projection"):
            assert new[part] == old[part]
        assert new["judged_mean"] != old["judged_mean"] or old["judged_mean"] == 20


def test_the_same_judge_after_the_study_finds_what_the_study_found(finished, place):
    out = place / "same.json"
    assert run(["judge", "score", str(finished), "--judge", f"scripted:{place / 'judge.json'}", "--agreement", "--json",
                str(out)]) == 0  # fmt: skip
    assert json.loads(out.read_text())["agreement"] == results(finished)["agreement"]


def test_a_gate_that_was_tried_shows_in_the_run_and_the_scores(finished, command, place, monkeypatch, capsys):
    monkeypatch.setenv("LLM_PERSONA_CACHE", str(place / "tried"))
    judge, copy = f"scripted:{place / 'judge.json'}", place / "gated"
    shutil.copytree(finished, copy)
    assert run(["judge", "gate", "--judge", judge]) == 0
    capsys.readouterr()
    assert run(["judge", "score", str(copy), "--judge", judge]) == 0
    assert "FAILED" in capsys.readouterr().out
    assert run([*command[:4], "--out", str(copy), "--judge", judge]) == 0
    assert "openness, gate: failed: AUC" in (copy / "report.html").read_text()
    assert json.loads((copy / "manifest.json").read_text())["stages_made"] == 0


def test_without_a_judge_nothing_is_judged_and_the_rest_stays(finished, command, place):
    copy = place / "unjudged"
    shutil.copytree(finished, copy)
    assert run([*command[:4], "--out", str(copy)]) == 0
    found, judged = results(copy), results(finished)
    assert found["judge"] is None
    assert "judged" not in found["traits"]["openness"]["baseline"]
    assert json.loads((copy / "manifest.json").read_text())["stages_made"] == 0
    pair = "preference and projection"
    assert (found["agreement"]["traits"]["openness"]["correlations"][pair]
            == judged["agreement"]["traits"]["openness"]["correlations"][pair])  # fmt: skip
    assert "No judge graded the answers" in (copy / "report.html").read_text()


def test_a_run_of_an_older_version_is_read_and_says_what_agreement_needs(finished, place, capsys):
    old = place / "old"
    shutil.copytree(finished, old)
    (old / "answers.jsonl").unlink()
    assert len(read_answers(old)) == len(CONDITIONS) * 3
    judge = f"scripted:{place / 'judge.json'}"
    assert run(["judge", "score", str(old), "--judge", judge, "--agreement"]) == 2
    assert "keeps no answers.jsonl" in capsys.readouterr().err
    assert run(["judge", "score", str(old), "--judge", judge, "--agreement", "--rubric", "coherence"]) == 2
    data = results(old)
    for part in ("agreement", "answers", "judge"):
        del data[part]
    (old / "results.json").write_text(json.dumps(data))
    assert "Do choosing, writing" not in report.write_report(old).read_text()


def test_a_judge_that_is_none_stops_the_study_before_its_work(place, command, capsys):
    for given, said in (
        (["--judge", "oracle:x"], "no such judge"),
        (["--base-url", "http://localhost:1"], "speak of a judge"),
    ):
        out = place / "none"
        assert run([*command[:4], "--out", str(out), *given]) == 2
        assert said in capsys.readouterr().err
        assert not list((out / "stages").glob("*.json"))
    assert expected_gradings(make_config(judge="local", traits=["openness"], questions=3, samples=2, temperature=1,
                                         tune=False, doses=[-1, 1])) == 7 * 3 * 2 * 2  # fmt: skip
    assert expected_gradings(make_config()) == 0


def test_answers_that_no_judge_could_score_show_with_their_reason(finished, command, place, capsys):
    copy, vague = place / "vague", place / "vague.json"
    shutil.copytree(finished, copy)
    vague.write_text(json.dumps({"otherwise": "REFUSAL"}))
    capsys.readouterr()
    assert run([*command[:4], "--out", str(copy), "--judge", f"scripted:{vague}"]) == 0
    assert "judged answers unscored: refusal" in capsys.readouterr().out
    row = results(copy)["traits"]["openness"]["baseline"]["judged"]
    assert (row["mean"], row["n"]) == (None, 0)
    assert ": refusal" in (copy / "report.html").read_text()


@pytest.mark.parametrize("address", ["http://me:sk-planted@localhost:1/v1", "http://localhost:1/v1?key=sk-planted"])
def test_an_address_with_a_key_in_it_never_reaches_a_run_folder(address, command, place, capsys):
    assert run([*command[:4], "--out", str(place / "keys"), "--judge", "openai:m", "--base-url", address]) == 2
    said = capsys.readouterr()
    assert "put the key into the environment" in said.err
    assert "sk-planted" not in said.err + said.out
    assert not (place / "keys").exists()

"""Monitoring: a planted relation is found, none is not, and answers to one question count as one question."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import make_subject
from judges import scripted

from llm_persona.analysis.monitoring import association, by_condition
from llm_persona.analysis.vectors import PersonaVector
from llm_persona.domain.errors import UserError
from llm_persona.domain.responses import Response
from llm_persona.domain.traits import load_trait
from llm_persona.interfaces.cli.main import run
from llm_persona.studies.monitored_answers import MonitorPlan, added_constant, write_answers
from llm_persona.studies.monitoring import monitor
from llm_persona.studies.stored_answers import read_answers
from llm_persona.subject.record import record

QUICK = {"draws": 200, "permutations": 99}


def planted(rng, slope, conditions=4, questions=30, samples=2, shift=0.0):
    """before [conditions, questions], after [..., samples]; `shift` moves both by condition."""
    moved = shift * np.arange(conditions)[:, None]
    before = rng.standard_normal((conditions, questions)) + moved
    noise = rng.standard_normal((conditions, questions, samples))
    return before, slope * (before - moved)[:, :, None] + moved[:, :, None] + noise


def test_a_planted_relation_within_conditions_is_recovered():
    before, after = planted(np.random.default_rng(0), slope=1.0)
    found = association(before, after, **QUICK)
    for scope in ("overall", "within"):
        low, high = found[scope]["pearson_ci"]
        assert low < 1 / np.sqrt(2) < high
        assert found[scope]["spearman_ci"][0] > 0.4
        assert found[scope]["pearson_p"] < 0.03
    assert found["within"]["n"] == 240
    assert (found["within"]["n_questions"], found["within"]["n_conditions"]) == (30, 4)


def test_conditions_that_move_both_make_a_correlation_overall_and_none_within():
    before, after = planted(np.random.default_rng(1), slope=0.0, shift=5.0)
    found = association(before, after, **QUICK)
    assert found["overall"]["pearson"] > 0.9
    assert found["within"]["pearson_ci"][0] < 0 < found["within"]["pearson_ci"][1]
    assert found["within"]["pearson_p"] > 0.05
    assert found["overall"]["pearson_p"] > 0.02  # four conditions allow no small p: 24 orders


def test_without_a_relation_the_interval_covers_zero_and_p_is_uniform_also_with_question_effects():
    covered, small = 0, 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        before = rng.standard_normal((3, 15)) + 2 * rng.standard_normal(15)  # a question is alike in all conditions
        after = rng.standard_normal((3, 15, 1)) + 2 * rng.standard_normal(15)[None, :, None]
        found = association(before, after, draws=100, permutations=59)["within"]
        covered += found["pearson_ci"][0] <= 0 <= found["pearson_ci"][1]
        small += found["pearson_p"] <= 0.1
    assert covered >= 25
    assert small <= 8


def test_the_same_answers_again_do_not_shrink_the_interval():
    before, after = planted(np.random.default_rng(2), slope=0.5, questions=12, samples=1)
    once, often = association(before, after, **QUICK), association(before, np.repeat(after, 20, axis=2), **QUICK)
    for scope in ("overall", "within"):
        assert often[scope]["n"] == 20 * once[scope]["n"]
        for key in ("pearson", "pearson_ci", "pearson_p"):
            assert often[scope][key] == pytest.approx(once[scope][key])


def test_unscored_answers_are_left_out_and_too_little_gives_no_number():
    before, after = planted(np.random.default_rng(3), slope=1.0)
    after[0, :, 0] = np.nan
    after[:, 5] = np.nan
    found = association(before, after, **QUICK)["within"]
    assert found["n"] == int(np.isfinite(after).sum())
    assert found["n_questions"] == 29
    nothing = association(before, np.full_like(after, np.nan), **QUICK)["overall"]
    assert (nothing["pearson"], nothing["pearson_p"], nothing["n"]) == (None, None, 0)
    assert nothing["spearman_ci"] == [None, None]
    flat = association(before, np.full_like(after, 50.0), **QUICK)["within"]
    assert flat["pearson"] is None
    assert by_condition(before, np.full_like(after, np.nan))[0]["after_mean"] is None


def test_a_constant_added_to_a_condition_changes_nothing_within():
    before, after = planted(np.random.default_rng(4), slope=1.0)
    moved = before + np.array([0.0, 10, -10, 3])[:, None]
    a, b = association(before, after, **QUICK), association(moved, after, **QUICK)
    assert a["within"]["pearson"] == pytest.approx(b["within"]["pearson"])
    assert a["overall"]["pearson"] != pytest.approx(b["overall"]["pearson"], abs=0.1)


@pytest.fixture(scope="module")
def subject():
    return make_subject()


@pytest.fixture(scope="module")
def vector(subject):
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((subject.n_layers, subject.hidden_size)).astype(np.float32)
    meta = {"recommended": {"balanced": 2}, "model": subject.name}
    return PersonaVector(directions, np.full(subject.n_layers, 5.0, np.float32), meta)


PLAN = MonitorPlan(questions=4, max_new_tokens=3, levels=("name",), doses=(0.3,))


@pytest.mark.usefixtures("cache")
def test_prompts_are_read_in_the_state_that_writes_and_the_added_constant_is_taken_out(subject, vector, tmp_path):
    trait = load_trait("openness")
    written = write_answers(subject, trait, vector, None, PLAN, tmp_path)
    names = [part.condition.name for part in written]
    assert names == ["base", "instructed high (name)", "instructed low (name)", "steered +0.3"]
    texts = [q.text for q in trait.questions_of("test")[:4]]
    for part in written:
        with subject.under(part.condition):
            acts = record(subject, [Response(t, "Yes", "neutral", "") for t in texts], "prompt_last")
        assert part.prompt_last[:, 0] == pytest.approx(acts.values[:, 2].astype(float) @ vector.unit(2), abs=1e-4)
    assert [bool(part.added.any()) for part in written] == [False, False, False, True]
    base, up = written[0], written[-1]
    assert up.added[0] == pytest.approx(0.3 * 5.0, rel=1e-5)  # steered and read at one layer: nothing but the constant
    assert up.prompt_last - up.added == pytest.approx(base.prompt_last, abs=1e-4)
    above = np.stack([vector.unit(1)])
    assert added_constant(up.condition.steers, above, 1).tolist() == [0.0]


@pytest.mark.usefixtures("cache")
def test_a_judge_is_related_with_its_gate_and_reasons_and_another_judge_costs_no_new_answer(subject, vector, tmp_path):
    trait = load_trait("openness")
    written = write_answers(subject, trait, vector, None, PLAN, tmp_path)
    kept = sorted(tmp_path.rglob("*.json"))
    stamps = [path.stat().st_mtime_ns for path in kept]
    order = {a: k for k, a in enumerate(dict.fromkeys(a for part in written for row in part.answers for a in row))}
    judge = scripted(lambda r: "REFUSAL" if order[r.answer] == 0 else 10 + order[r.answer])
    found = monitor(subject, trait, vector, written, judge, plan=PLAN)
    assert found["gate"] == {"state": "gate: missing", "passed": None}
    assert found["n_unscored"] == sum(found["unscored"].values()) > 0
    kinds = {(row["before"], row["after"]) for row in found["associations"]}
    assert len(kinds) == 4
    raw, less = (r for r in found["associations"] if r["after"] == "answer_projection")
    assert raw["within"]["pearson"] == pytest.approx(less["within"]["pearson"], abs=1e-3)
    assert raw["overall"]["n_questions"] == 4
    assert all("scores" in row for row in found["answers"])
    write_answers(subject, trait, vector, None, PLAN, tmp_path)
    alone = monitor(subject, trait, vector, written, None, plan=PLAN)
    assert [path.stat().st_mtime_ns for path in kept] == stamps
    assert alone["gate"] is None
    assert {row["after"] for row in alone["associations"]} == {"answer_projection"}


@pytest.mark.usefixtures("cache")
def test_monitoring_from_the_command_line(tiny_folders, tmp_path, capsys):
    file, out = tmp_path / "v.safetensors", tmp_path / "out"
    rng = np.random.default_rng(0)
    PersonaVector(rng.standard_normal((4, 32)).astype(np.float32), np.full(4, 5.0, np.float32)).save(file)
    (tmp_path / "j.json").write_text('{"otherwise": 50}')
    command = ["judge", "monitor", "--trait", "openness", "--vector", str(file), "--layer", "2", "--model",
               tiny_folders[0], "--questions", "3", "--level", "none", "--dose", "0.2", "--max-new-tokens", "2",
               "--judge", f"scripted:{tmp_path / 'j.json'}", "--out", str(out)]  # fmt: skip
    assert run(command) == 0
    assert "openness: gate: missing" in capsys.readouterr().out
    found = json.loads((out / "monitoring.json").read_text())
    assert [row["condition"]["name"] for row in found["conditions"]] == ["base", "steered +0.2"]
    assert found["associations"][0]["overall"]["spearman"] is None  # this judge always says 50
    assert len(read_answers(out / "answers.jsonl")) == 6
    assert run([*command[:7], "9", *command[8:]]) == 2
    assert "layers 0 to 3" in capsys.readouterr().err
    assert run([*command, "--samples", "2"]) == 2
    assert "need a temperature" in capsys.readouterr().err


@pytest.mark.usefixtures("cache")
def test_a_vector_made_from_the_questions_is_refused(subject, vector):
    trait = load_trait("openness")
    made = PersonaVector(vector.directions, vector.reference_norms, {"items": [trait.questions_of("test")[0].id]})
    with pytest.raises(UserError, match="made from 1 of these 4 questions"):
        write_answers(subject, trait, made, 2, PLAN)


@pytest.mark.usefixtures("cache")
def test_questions_that_a_vector_was_made_from_are_counted_in_the_result_where_they_are_allowed(
    tiny_folders, tmp_path, capsys
):
    file, out = tmp_path / "v.safetensors", tmp_path / "out.json"
    directions = np.random.default_rng(0).standard_normal((4, 32)).astype(np.float32)
    meta = {"items": [load_trait("openness").questions_of("test")[0].id]}
    PersonaVector(directions, np.full(4, 5.0, np.float32), meta).save(file)
    command = ["judge", "monitor", "--trait", "openness", "--vector", str(file), "--layer", "2", "--model",
               tiny_folders[0], "--questions", "3", "--level", "none", "--dose", "0.2", "--max-new-tokens", "2",
               "--judge", "none", "--json", str(out)]  # fmt: skip
    assert run([*command, "--allow-overlap"]) == 0
    assert "in-sample: the vector was made from 1 of the 3 questions" in capsys.readouterr().out
    found = json.loads(out.read_text())
    assert (found["allow_overlap"], found["overlap"], found["n_questions"]) == (True, 1, 3)

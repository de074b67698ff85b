"""Monitoring: the last prompt token against the answer, its statistics on known truth, and the command."""

from __future__ import annotations

import json

import numpy as np
import pytest
from judges import scripted

import llm_persona as lp
from llm_persona.analysis.monitoring import foretelling
from llm_persona.analysis.vectors import PersonaVector
from llm_persona.domain.errors import UserError
from llm_persona.interfaces.cli.main import run
from llm_persona.studies.asking import AskPlan
from llm_persona.studies.monitoring import MonitorPlan, monitor

NAMES = ["base", "high", "low"]


def cells(seed, questions=40, link=0.0, conditions=0.0):
    """Readings and answers [3, questions] that share `link` within conditions and differ by `conditions` between."""
    rng = np.random.default_rng(seed)
    shift = conditions * np.array([[0.0], [1.0], [-1.0]])
    common = rng.normal(size=(3, questions))
    return tuple(shift + link * common + rng.normal(size=(3, questions)) for _ in range(2))


def test_a_planted_link_within_conditions_is_found():
    found = foretelling(*cells(0, link=2.0), NAMES)["within"]
    assert found["spearman"] == pytest.approx(0.8, abs=0.1)
    assert found["spearman_ci"][0] < 0.8 < found["spearman_ci"][1] or abs(found["spearman"] - 0.8) < 0.05
    assert found["p_value"] < 0.01


def test_conditions_that_differ_link_readings_and_answers_overall_and_not_within():
    found = foretelling(*cells(1, conditions=3.0), NAMES)
    assert found["overall"]["pearson"] > 0.7 > 0.3 > abs(found["within"]["pearson"])
    assert found["overall"]["p_value"] < 0.01 < found["within"]["p_value"]
    assert found["within"]["spearman_ci"][0] < 0 < found["within"]["spearman_ci"][1]


def test_without_a_link_small_p_values_are_rare_and_intervals_hold_zero():
    found = [foretelling(*cells(seed, questions=12), NAMES, seed, 200)["within"] for seed in range(40)]
    assert sum(f["p_value"] < 0.05 for f in found) <= 6
    assert sum(f["spearman_ci"][0] <= 0 <= f["spearman_ci"][1] for f in found) >= 33


def test_conditions_of_a_question_move_together_so_copies_of_a_condition_do_not_shrink_the_interval():
    x, y = cells(3, questions=10, link=1.0)
    widths = []
    for copies in (1, 4):
        ci = foretelling(np.tile(x[:1], (copies, 1)), np.tile(y[:1], (copies, 1)), NAMES)["within"]["spearman_ci"]
        widths.append(ci[1] - ci[0])
    assert widths[1] == pytest.approx(widths[0], rel=0.15)


def test_missing_answers_are_left_out_and_few_questions_give_no_interval():
    x, y = cells(4, questions=4, link=3.0)
    y[0, 0] = np.nan
    found = foretelling(x, y, NAMES)
    assert found["overall"]["n"] == 11 and found["overall"]["spearman_ci"] is None
    assert "no interval from 4 questions" in found["overall"]["reason"]
    constant = foretelling(x, np.full_like(y, 5.0), NAMES)["overall"]
    assert constant["spearman"] is None and "does not vary" in constant["reason"]


@pytest.fixture
def vector(tiny):
    items = lp.load_items("openness")[:6]
    return lp.fit(lp.record(tiny, lp.labelled(items)))


def plan_for(openness, vector, **asked):
    return MonitorPlan(openness, vector, 2, AskPlan(**{"questions": 5, "max_new_tokens": 5, **asked}), (-3.0, 3.0))


def test_readings_are_those_of_the_state_that_writes(tiny, openness, vector, tmp_path, cache):
    judge = scripted(lambda request: str(len(request.prompt) % 101))
    found = monitor(tiny, plan_for(openness, vector), judge, tmp_path / "a.jsonl")
    assert list(found["conditions"]) == ["base", "instructed-high", "instructed-low", "steered -3", "steered +3"]
    question = openness.questions_of("test")[0]
    with tiny.under(lp.Condition(steers=(lp.Steer(vector, 2, dose=3.0),))):
        acts = lp.record(tiny, [lp.Response(question.text, "Other words.", "neutral", "q")], "prompt_last")
    row = found["conditions"]["steered +3"]["rows"][0]
    assert row["as_read"] == pytest.approx(float(acts.values[0, 2] @ vector.unit(2)), abs=1e-4)
    base = found["conditions"]["base"]["rows"][0]
    assert row["without_steering"] == pytest.approx(base["as_read"], abs=1e-3), "nothing else acts below the last layer"
    assert found["gates"]["openness"]["state"] == "gate: missing"
    assert found["correlations"]["judged"]["as_read"]["overall"]["n_questions"] == 5
    assert json.loads(json.dumps(found, allow_nan=False))


def test_a_second_call_writes_nothing_again_and_needs_no_judge(tiny, openness, vector, tmp_path, cache, monkeypatch):
    first = monitor(tiny, plan_for(openness, vector), None, tmp_path / "a.jsonl")
    assert list(first["correlations"]) == ["projected"]
    monkeypatch.setattr("llm_persona.studies.asking.generate", lambda *_, **__: pytest.fail("written again"))
    assert monitor(tiny, plan_for(openness, vector), None, tmp_path / "a.jsonl") == first


def test_unscored_answers_are_counted_with_the_reason(tiny, openness, vector, tmp_path, cache):
    found = monitor(tiny, plan_for(openness, vector), scripted(lambda _: "I cannot say."), tmp_path / "a.jsonl")
    assert found["n_unscored"] == found["n_answers"] == 25
    assert sum(found["unscored"].values()) == 25
    assert found["correlations"]["judged"]["as_read"]["overall"]["spearman"] is None


def test_the_command_prints_correlations_and_refuses_a_layer_that_is_not_there(tiny_folders, tmp_path, capsys, cache):
    model = lp.load_subject(tiny_folders[0], dtype="float32")
    lp.fit(lp.record(model, lp.labelled(lp.load_items("openness")[:4]))).save(tmp_path / "v.safetensors")
    common = ["judge", "monitor", "--model", tiny_folders[0], "--dtype", "float32"]
    common += ["--vector", str(tmp_path / "v.safetensors")]
    asked = ["--questions", "3", "--max-new-tokens", "4", "--out", str(tmp_path / "a.jsonl")]
    assert run([*common, "--layer", "1", "--no-judge", *asked, "--json", str(tmp_path / "j.json")]) == 0
    assert "projection at the last prompt token" in capsys.readouterr().out
    assert json.loads((tmp_path / "j.json").read_text())["layer"] == 1
    assert run([*common, "--layer", "9", "--no-judge", *asked]) == 2
    assert "layers 0 to 3" in capsys.readouterr().err
    with pytest.raises(UserError, match="layers 0 to"):
        MonitorPlan(lp.load_trait("openness"), PersonaVector(np.ones((2, 3)), np.ones(2)), 2, AskPlan())

"""The gate: a judge is tried on answers of known pole before its scores count."""

from __future__ import annotations

import json

import numpy as np
import pytest
from judges import scripted

from llm_persona.analysis.judge_checks import differences, length_correlation, pole_auc
from llm_persona.domain.traits import load_trait
from llm_persona.studies.judge_gate import gate_of, gate_state, run_gate

pytestmark = pytest.mark.usefixtures("cache")


def test_a_judge_that_follows_the_pole_passes(openness, poles, cache):
    judge = scripted(lambda r: 85 if poles[r.answer] == "high" else 12)
    assert gate_of(judge, openness) is None
    assert gate_state(gate_of(judge, openness)) == "gate: missing"
    found = run_gate(judge, openness)
    assert found["passed"] is True
    assert found["checks"]["AUC"]["value"] == 1.0
    assert found["checks"]["AUC"]["n_items"] == found["items"]["n"] == 25
    assert found["checks"]["length"]["value"] == 0
    assert found["mean_score"] == {"high": 85, "low": 12}
    assert gate_of(judge, openness) == json.loads(json.dumps(found))
    assert gate_state(gate_of(judge, openness)) == "gate: passed"
    assert len(list((cache / "gates").glob("*.json"))) == 1
    assert gate_of(scripted(lambda r: 0, "another"), openness) is None
    assert gate_of(judge, load_trait("narcissism")) is None


FAULTS = {
    "always 50": (lambda r, high: 50, {"AUC"}),
    "follows length": (lambda r, high: min(100, len(r.answer) / 2), {"AUC", "length"}),
    "follows pole and length": (lambda r, high: 50 * high + min(49, len(r.answer) / 4), {"length"}),
    "upside down": (lambda r, high: 10 if high else 90, {"AUC"}),
    "forgets": (lambda r, high: (80 if high else 20) + (12 if r.nonce else 0), {"retest noise"}),
    "looks at the order": (lambda r, high: (80 if high else 20) - (12 if r.answer_first else 0), {"order"}),
    "often declines": (lambda r, high: "REFUSAL" if len(r.answer) % 4 == 0 else 80 if high else 20, {"unscored"}),
    "never scores": (lambda r, high: "hm", {"AUC", "retest noise", "length", "order", "unscored"}),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_fails_the_gate_by_its_own_check(fault, openness, poles):
    reply, failing = FAULTS[fault]
    found = run_gate(scripted(lambda r: reply(r, poles[r.answer] == "high"), fault), openness)
    assert found["passed"] is False
    assert {name for name, check in found["checks"].items() if not check["passed"]} == failing
    assert gate_state(found).startswith("gate: failed: ")
    assert all(name in gate_state(found) for name in failing)


def test_a_few_items_never_stand_for_the_gate(openness, poles):
    judge = scripted(lambda r: 85 if poles[r.answer] == "high" else 12)
    few = run_gate(judge, openness, limit=6)
    assert few["passed"] is False  # six items in a row do not reach .75
    assert few["checks"]["AUC"]["value"] == 1.0
    assert gate_of(judge, openness) is None
    assert gate_of(judge, openness, limit=6) is not None


def test_the_checks_by_hand():
    assert differences([10, 20, 30], [12, 20, 26])["value"] == pytest.approx(2)
    assert differences([10, 20, 30], [12, 20, 26])["sd"] == pytest.approx(np.std([-2, 0, 4], ddof=1))
    assert differences([], [])["value"] is None
    groups = ["a", "a", "b", "b"]
    poles = ["high", "low", "high", "low"]
    assert pole_auc([9, 5, 4, 1], poles, groups)["value"] == pytest.approx(3 / 4)
    assert pole_auc([9, 5], ["high", "high"], ["a", "b"])["value"] is None
    # within each pole the longer scores higher, although the high pole is longer and scores lower
    assert length_correlation([1, 2, 8, 9], [50, 60, 5, 6], ["high", "high", "low", "low"], groups)["value"] == 1
    assert length_correlation([5, 5, 5, 5], [1, 2, 3, 4], poles, groups)["value"] == 0
    assert length_correlation([5, 6, 7, 8], [3, 3, 3, 3], poles, groups)["value"] is None


def test_an_interval_of_the_length_correlation_covers_its_value():
    rng = np.random.default_rng(0)
    n = 25
    groups = [str(k) for k in range(n) for _ in range(4)]
    poles = ["high", "low", "high", "low"] * n
    lengths = rng.integers(80, 160, 4 * n)
    noise = rng.normal(0, 20, 4 * n)
    alone = length_correlation(noise, lengths, poles, groups)
    follows = length_correlation(lengths + noise, lengths, poles, groups)
    assert alone["ci"][0] < 0 < alone["ci"][1]
    assert follows["ci"][0] < follows["value"] < follows["ci"][1]
    assert follows["ci"][0] > 0.3

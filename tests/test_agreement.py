"""Whether choosing, writing and the vector agree: rank correlations over conditions, sentences where they do not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from judges import scripted
from scipy.stats import spearmanr

from llm_persona.analysis.agreement import shift_agreement
from llm_persona.domain.traits import load_trait
from llm_persona.instruments.judging.protocol import Verdict
from llm_persona.studies.agreement import agreement, condition_rows
from llm_persona.studies.judged import judge_answers, judged_rows
from llm_persona.studies.stages import Stages
from llm_persona.studies.stored_answers import StoredAnswer

pytestmark = pytest.mark.usefixtures("cache")


def noisy(rng, means, units, noise=1.0):
    return np.asarray(means)[:, None] + rng.normal(0, noise, (len(means), units))


def test_the_correlation_is_spearman_s_of_the_mean_shifts():
    rng = np.random.default_rng(0)
    a, b = noisy(rng, [0, 1, 2, 3, 4], 12), noisy(rng, [0, 2, 1, 4, 3], 9)
    found = shift_agreement([(a, b)], together=False)
    assert found["spearman"] == pytest.approx(spearmanr(a.mean(1), b.mean(1)).statistic)
    assert found["n"] == 5
    low, high = found["spearman_ci"]
    assert -1 <= low <= high <= 1


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.integers(3, 8))
def test_order_of_measures_and_copies_of_units_change_no_estimate(seed, conditions):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(conditions, 5)), rng.normal(size=(conditions, 4))
    one = shift_agreement([(a, b)], together=False, draws=50)
    assert shift_agreement([(b, a)], together=False, draws=50)["spearman"] == pytest.approx(one["spearman"])
    copied = shift_agreement([(np.repeat(a, 3, axis=1), b)], together=False, draws=50)
    assert copied["spearman"] == pytest.approx(one["spearman"])
    itself = shift_agreement([(a, a)], together=True, draws=50)
    assert itself["spearman"] == pytest.approx(1)
    assert itself["spearman_ci"] == pytest.approx([1, 1])  # drawn together, a measure agrees with itself in each draw


def test_what_cannot_be_ranked_has_no_correlation():
    some = np.arange(12.0).reshape(3, 4)
    nothing = {"spearman": None, "spearman_ci": [None, None], "p_value": None}
    assert shift_agreement([(some[:2], some[:2])], together=True) == {**nothing, "n": 2}
    assert shift_agreement([(some, np.zeros((3, 4)))], together=True) == {**nothing, "n": 3}
    unmeasured = some.copy()
    unmeasured[1] = np.nan
    assert shift_agreement([(some, unmeasured)], together=True) == {**nothing, "n": 2}
    assert shift_agreement([(some, some[:, :1])], together=False)["spearman_ci"] == [None, None]


def test_conditions_without_a_measurement_are_left_out_of_both():
    rng = np.random.default_rng(1)
    a, b = noisy(rng, range(6), 8), noisy(rng, range(6), 8)
    holes = b.copy()
    holes[2] = np.nan
    rest = [0, 1, 3, 4, 5]
    found = shift_agreement([(a, holes)], together=False)
    assert (found["n"], found["spearman"]) == (5, shift_agreement([(a[rest], b[rest])], together=False)["spearman"])


def test_unrelated_measures_rarely_look_related():
    rng = np.random.default_rng(2)
    pairs = [(rng.normal(size=(8, 6)), rng.normal(size=(8, 6))) for _ in range(120)]
    p = np.array([shift_agreement([pair], together=False, draws=100)["p_value"] for pair in pairs])
    assert (p <= 0.05).mean() <= 0.1
    assert p.min() < 0.05 < 0.3 < np.median(p) < 0.7


def test_levels_that_differ_between_traits_do_not_make_an_effect():
    """Pooled ranks see the traits' levels; permuting within traits takes them into the null."""
    rng = np.random.default_rng(3)
    traits = [(noisy(rng, [level] * 5, 6), noisy(rng, [level] * 5, 6)) for level in (0, 20)]
    found = shift_agreement(traits, together=False)
    assert found["spearman"] > 0.6
    assert found["p_value"] > 0.05
    assert found["n"] == 10


def table(preference, projections):
    """Results of one trait from the preference of each item and the projection of each question by condition."""

    def row(values, **more):
        return {"score": 50.0, "rows": [{"id": f"i{n}", "preference": v} for n, v in enumerate(values)], **more}

    names = list(preference)
    trait = {"baseline": row(preference["base"]), "vector": {"reader": {"separation": 2.0}}, "tuned": {},
             "instructed": {p: row(preference[f"instructed {p}"]) for p in ("high", "low")},
             "steering": [row(preference[n], dose=float(n[8:])) for n in names if n.startswith("steered")]}  # fmt: skip
    answers = [StoredAnswer(name, f"Q{n}", "text", "openness", f"q{n}", 0, 0.0, 3, True, value)
               for name, values in projections.items() for n, value in enumerate(values)]  # fmt: skip
    return trait, answers


WAVE = np.linspace(-0.01, 0.01, 8)
STILL, UP, DOWN = 0.4 + WAVE, 0.7 + WAVE, 0.2 + WAVE


def moved(up):
    return list(np.linspace(-0.05, 0.05, 8)[::-1] + up)


def judge(state="gate: passed"):
    return {"identity": {"kind": "scripted", "model": "s"}, "gates": {"openness": {"state": state, "passed": None}}}


PREFERENCE = {"base": STILL, "instructed high": STILL[::-1], "instructed low": DOWN, "steered -0.2": DOWN,
              "steered +0.2": UP}  # fmt: skip


def test_agreement_and_every_kind_of_disagreement_is_told():
    written = {"base": moved(0), "instructed high": moved(3), "instructed low": moved(0.0), "steered -0.2": moved(-3),
               "steered +0.2": moved(-3)}  # fmt: skip
    trait, answers = table(PREFERENCE, written)
    found = agreement({"openness": trait}, answers, None, None)
    told = {(d["kind"], *d["conditions"]): d["text"] for d in found["disagreements"]}
    assert set(told) == {("opposite", "steered +0.2"), ("first", "instructed low"), ("second", "instructed high")}
    assert told["opposite", "steered +0.2"] == (
        "openness, steered +0.2: TRAIT preference (+30.00 points) and the written projection (-1.50 pole gaps) move in "
        "opposite directions, both clear of 0."
    )
    assert "TRAIT preference (-20.00 points) moves, and the written projection" in told["first", "instructed low"]
    assert "within 2 points of 0" in told["second", "instructed high"]
    assert found["counts"] == {"agree": 1, "disagree": 3, "open": 0}
    rows = {row["condition"]: row for row in found["traits"]["openness"]["rows"]}
    assert rows["steered -0.2"]["projection"]["mean"] == pytest.approx(-1.5)  # in pole gaps
    assert rows["steered -0.2"]["judged"]["mean"] is None
    assert found["traits"]["openness"]["correlations"]["preference and judged"]["spearman"] is None
    assert found["traits"]["openness"]["correlations"]["preference and projection"]["n"] == 5
    assert found["pooled"] is None


@pytest.mark.parametrize("state", ["gate: missing", "gate: failed: AUC 0.50 (from 0.30, needed above 0.75)"])
def test_a_disagreement_with_a_judge_says_when_the_judge_did_not_pass(state):
    written = {name: moved(0) for name in PREFERENCE}
    trait, answers = table(PREFERENCE, written)
    scores = [50.0 + (a.condition == "steered -0.2") * 20 + int(a.question_id[1]) / 10 for a in answers]
    found = agreement({"openness": trait}, answers, scores, judge(state))
    text = next(d["text"] for d in found["disagreements"] if d["measures"] == ["preference", "judged"]
                and d["kind"] == "opposite")  # fmt: skip
    assert text.endswith(f"The judge did not earn trust for this trait ({state}).")
    assert found["traits"]["openness"]["gate"] == state
    passed = agreement({"openness": trait}, answers, scores, judge())
    assert not any("earn trust" in d["text"] for d in passed["disagreements"])
    assert not any("earn trust" in d["text"] for d in found["disagreements"] if "judged" not in d["measures"])


def test_few_pairs_claim_nothing():
    few = {name: values[:5] for name, values in PREFERENCE.items()}
    trait, answers = table(few, {name: moved(3)[:5] if name != "base" else moved(0)[:5] for name in few})
    found = agreement({"openness": trait}, answers, None, None)
    assert found["disagreements"] == []
    assert found["counts"] == {"agree": 0, "disagree": 0, "open": 4}


def test_items_and_questions_that_one_condition_lacks_are_left_out_of_its_shift():
    preference = {name: list(values) for name, values in PREFERENCE.items()}
    preference["steered +0.2"][0] = None
    trait, answers = table(preference, {name: moved(0) for name in PREFERENCE})
    answers = [a for a in answers if (a.condition, a.question_id) != ("steered +0.2", "q3")]
    rows = agreement({"openness": trait}, answers, None, None)["traits"]["openness"]["rows"]
    assert [row["condition"] for row in rows] == [name for name, _ in condition_rows(trait)]
    assert (rows[-1]["preference"]["n"], rows[-1]["projection"]["n"]) == (7, 7)
    assert rows[-1]["preference"]["mean"] == pytest.approx(30)


def graded(scores):
    return [{"openness": v if isinstance(v, Verdict) else Verdict(float(v)), "coherence": Verdict(80.0)}
            for v in scores]  # fmt: skip


def answers_of(conditions, questions, samples):
    return [StoredAnswer(c, f"Q{q}", f"{c} {q} {k}", "openness", f"q{q}", k)
            for c in conditions for q in range(questions) for k in range(samples)]  # fmt: skip


def test_several_answers_to_a_question_shrink_no_interval():
    one, many = (answers_of(["base", "high"], 4, samples) for samples in (1, 50))
    by_question = {"q0": 30, "q1": 40, "q2": 55, "q3": 70}

    def scores(answers):
        return graded([by_question[a.question_id] + (a.condition == "high") * (5 + int(a.unit[1])) for a in answers])

    few, more = (judged_rows("openness", a, scores(a)) for a in (one, many))
    assert few["high"]["ci"] == pytest.approx(more["high"]["ci"])
    assert few["high"]["shift"]["ci"] == pytest.approx(more["high"]["shift"]["ci"])
    assert (more["high"]["n"], more["high"]["n_questions"], more["high"]["shift"]["n"]) == (200, 4, 4)


def test_a_judged_row_counts_what_is_unscored_by_reason_and_pairs_by_question():
    answers = answers_of(["base", "high"], 3, 1)
    found = judged_rows("openness", answers, graded([40, 50, 60, 70, Verdict(None, "refusal"), 80]))
    row = found["high"]
    assert (row["mean"], row["n"], row["n_unscored"], row["reasons"]) == (75, 2, 1, {"refusal": 1})
    assert (row["shift"]["mean"], row["shift"]["n"]) == (25, 2)
    assert found["base"]["shift"] is None
    assert (row["coherence"]["mean"], row["coherence"]["shift"]["mean"]) == (80, 0)
    lost = judged_rows("openness", answers, graded([*[Verdict(None, "no number")] * 3, 70, 70, 80]))
    assert lost["base"]["mean"] is None
    assert lost["high"]["shift"] == {"mean": None, "ci": [None, None], "n": 0, "p_value": None}


def test_a_condition_with_a_failed_call_is_asked_again_for_that_alone(tmp_path):
    answers, asked, broken = answers_of(["base", "high"], 3, 1), [], True
    judge = scripted(lambda r: 0, "flaky")

    def reply(requests, progress=None):
        asked.extend((r.rubric, r.answer) for r in requests)
        return [Verdict(None, "call failed: server error 500") if broken and r.answer == "high 1 0" else Verdict(60.0)
                for r in requests]  # fmt: skip

    judge.judge = reply
    trait = load_trait("openness")
    first = judge_answers(Stages(tmp_path / "stages"), judge, trait, answers)
    assert [v["openness"].unscored for v in first] == ["", "", "", "", "call failed: server error 500", ""]
    broken = False
    asked.clear()
    again = judge_answers(Stages(tmp_path / "stages"), judge, trait, answers)
    assert asked == [("trait-v1", "high 1 0"), ("coherence-v1", "high 1 0")]
    assert all(v["openness"].score == 60 for v in again)
    asked.clear()
    stages = Stages(tmp_path / "stages")
    assert judge_answers(stages, judge, trait, answers) == again
    assert (asked, stages.made) == ([], 0)

"""What stands beside a vector's AUC: each control on texts and activations of known truth."""

from __future__ import annotations

import numpy as np
import pytest

from llm_persona.analysis.activations import Activations
from llm_persona.analysis.auc_intervals import auc_with_interval, layer_draws
from llm_persona.analysis.controls import (
    confounds,
    length_auc,
    lexical_auc,
    other_auc,
    random_auc,
    sentiment_auc,
    shuffled_auc,
)
from llm_persona.analysis.layers import layer_bands
from llm_persona.analysis.quality import assess
from llm_persona.analysis.vectors import PersonaVector, fit
from llm_persona.studies.extraction import _transfer

QUESTIONS = 12
POLES = ["high", "low"] * QUESTIONS
GROUPS = [n // 2 for n in range(2 * QUESTIONS)]
HIGH = np.array([p == "high" for p in POLES])


def rows(values):
    """One layer: activations from [rows, hidden]."""
    return Activations(np.asarray(values, np.float32)[:, None], POLES, GROUPS)


def noisy(seed, shift, hidden=8, at=0):
    """Noise with `shift` between the poles along one hidden unit."""
    values = np.random.default_rng(seed).standard_normal((len(POLES), hidden))
    values[:, at] += np.where(HIGH, shift / 2, -shift / 2)
    return rows(values)


def axis(*at, hidden=8):
    direction = np.zeros((1, hidden), np.float32)
    direction[0, list(at)] = 1
    return PersonaVector(direction, np.ones(1, np.float32))


LONG = [" ".join(["word"] * (9 if high else 5)) for high in HIGH]
GLAD = ["what a wonderful, happy, lovely day" if high else "what a terrible, awful, hateful day" for high in HIGH]
SAID = [f"green plans for {n}" if high else f"round plans for {n}" for n, high in enumerate(HIGH)]


@pytest.mark.parametrize(("texts", "named"), [(LONG, "length"), (GLAD, "sentiment"), (SAID, "lexical")])
def test_texts_that_differ_in_one_way_alone_are_told_apart_by_that_control_alone(texts, named):
    acts = noisy(0, 0.0)
    found = confounds(texts, acts, texts, acts)
    assert found[f"{named}_auc"] == 1.0
    if named != "lexical":  # (glad and long texts differ in their words too)
        assert found["length_auc" if named == "sentiment" else "sentiment_auc"] == 0.5
    else:
        assert found["length_auc"] == found["sentiment_auc"] == 0.5
    low, high = found[f"{named}_auc_ci"]
    assert high == 1.0
    assert low == pytest.approx(0.025 ** (1 / QUESTIONS))  # no more than twelve wins in a row can show


def test_a_control_has_a_direction():
    assert length_auc(LONG, ~HIGH) == 0.0
    assert sentiment_auc(GLAD, ~HIGH) == 0.0


def test_words_that_the_fit_has_not_seen_give_nothing_away():
    other = ["tall houses" if high else "wide streets" for high in HIGH]
    assert lexical_auc(SAID, HIGH, other, HIGH) == 0.5
    assert np.isnan(lexical_auc(["!"] * 4, np.array([True, False] * 2), other, HIGH))
    acts = noisy(0, 0.0)
    unread = confounds(["!"] * len(POLES), acts, other, acts)
    assert unread["lexical_auc"] is None
    assert unread["lexical_auc_ci"] == [None, None]


def test_another_trait_s_vector_reads_what_it_points_along_and_nothing_else():
    values = np.zeros((len(POLES), 8))
    values[:, 0] = np.where(HIGH, 1.0, -1.0)
    values[:, 1] = np.tile([1.0, 1.0, -1.0, -1.0], QUESTIONS // 2)  # differs between questions, not between poles
    others = {"same": axis(0), "against": PersonaVector(-axis(0).directions, np.ones(1, np.float32)),
              "beside": axis(1), "near": axis(0, 1)}  # fmt: skip
    found = other_auc(rows(values), axis(0), others, 0)
    assert {name: row["auc"] for name, row in found.items()} == {
        "same": 1.0, "against": 0.0, "beside": 0.5, "near": pytest.approx(0.875)
    }  # fmt: skip
    assert {name: row["cosine"] for name, row in found.items()} == pytest.approx(
        {"same": 1.0, "against": -1.0, "beside": 0.0, "near": 0.5**0.5}
    )
    assert found["beside"]["auc_ci"] == [0.5, 0.5]  # both rows of a question tie, whatever questions are drawn
    assert found["near"]["auc_ci"][0] < 0.875 < found["near"]["auc_ci"][1]


def test_shuffled_poles_and_random_directions_read_nothing_even_where_the_vector_reads_all():
    fitted, test = noisy(1, 6.0), noisy(2, 6.0)
    assert assess(test, fit(fitted), permutations=50).layers[0].auc > 0.99
    assert shuffled_auc(fitted, test, 0, count=2000) == pytest.approx(0.5, abs=0.05)
    low, high = random_auc(test, 0)
    assert low < 0.5 < high
    assert (low + high) / 2 == pytest.approx(0.5, abs=0.05)
    # a random direction leans on the planted unit by about 1/sqrt(hidden): in many units little of it is seen
    wide = random_auc(noisy(3, 6.0, hidden=2000), 0)
    assert wide[1] - wide[0] < high - low


def test_transfer_judges_the_vector_and_the_words_of_the_fit_on_the_other_author_s_rows():
    acts = {"fit": noisy(1, 6.0), "transfer": noisy(2, 6.0)}
    texts = {"fit": SAID, "transfer": SAID[::-1]}  # the words say the opposite of the poles there
    vector = fit(acts["fit"])
    found = _transfer(acts, vector, texts, 0, seed=0)
    judged = assess(acts["transfer"], vector, seed=0).layers[0]
    assert (found["auc"], found["auc_ci"], found["p_family"]) == (judged.auc, judged.auc_ci, judged.p_family)
    assert found["lexical_auc"] == 0.0
    assert found["lexical_auc_ci"] == [0.0, pytest.approx(1 - 0.025 ** (1 / QUESTIONS))]
    assert found["n_groups"] == QUESTIONS


def test_any_scores_get_the_interval_that_a_vector_s_own_get():
    acts = noisy(5, 1.0)
    quality = assess(acts, axis(0), permutations=10, seed=3)
    value, ci = auc_with_interval(quality.scores[:, 0], HIGH, GROUPS, seed=3)
    assert value == quality.layers[0].auc
    assert tuple(ci) == quality.layers[0].auc_ci
    assert auc_with_interval(quality.scores[:, 0], HIGH, [0] * len(POLES)) == (value, [None, None])
    assert auc_with_interval(np.zeros(2), np.array([True, True]), [0, 1]) == (None, [None, None])


def test_a_band_has_the_interval_of_its_mean_and_of_the_difference_on_the_same_questions():
    rng = np.random.default_rng(0)
    values = rng.standard_normal((len(POLES), 9, 6))
    values[:, 3:6, 0] += np.where(HIGH, 2.0, -2.0)[:, None]  # only the middle is read
    values[:, 3:6] = values[:, 3:4]
    acts = Activations(values.astype(np.float32), POLES, GROUPS)
    vector = PersonaVector(np.tile(np.eye(1, 6, dtype=np.float32), (9, 1)), np.ones(9, np.float32))
    quality = assess(acts, vector, permutations=10)
    aucs = [q.auc for q in quality.layers]
    draws = layer_draws(quality.scores, acts.high, acts.group_index)
    sweep = [{"layer": 3, "effect": 0.2, "effect_ci": [0.1, 0.3], "cost": 1.1},
             {"layer": 5, "effect": 0.4, "effect_ci": [0.3, 0.5], "cost": 1.3},
             {"layer": 8, "effect": 0.1, "cost": 1.2}]  # fmt: skip
    found = layer_bands(aucs, sweep, draws, quality.n_groups)
    middle = found["middle"]
    assert middle["auc_ci"] == list(quality.layers[3].auc_ci)  # three layers that read alike are as one
    assert found["early"]["auc_ci"][0] < 0.5 < found["early"]["auc_ci"][1]
    widths = [q.auc_ci[1] - q.auc_ci[0] for q in quality.layers[:3]]
    assert found["early"]["auc_ci"][1] - found["early"]["auc_ci"][0] < max(widths)
    assert middle["effect_ci"] == pytest.approx([0.2, 0.4])
    assert found["late"]["effect_ci"] == [None, None]
    less = middle["auc_less"]["early"]
    assert less["difference"] == pytest.approx(middle["auc"] - found["early"]["auc"])
    assert less["ci"][0] > 0
    assert layer_bands(aucs, sweep)["middle"]["auc_less"] == {}

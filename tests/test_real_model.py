"""On the real SmolLM2-135M-Instruct, in float32: right before fast."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import llm_persona as lp
from llm_persona.subject.chat import render_response
from llm_persona.subject.one_at_a_time import likelihoods
from llm_persona.subject.packing import Row
from llm_persona.subject.score import response_logprobs

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def items():
    return lp.load_items("openness")


@pytest.fixture(scope="module")
def vector(smol, items):
    return lp.fit(lp.record(smol, lp.labelled(items.split("fit")[:16])))


def test_recorded_activations_equal_the_library_s_hidden_states(smol, items):
    rows = lp.labelled(items.split("select")[:2])
    acts = lp.record(smol, rows)
    assert acts.values.shape == (8, 30, 576)
    for number, row in enumerate(rows):
        rendered = render_response(smol, row.prompt, row.text)
        assert smol.tokenizer.decode(rendered.ids[rendered.start : rendered.end]) == row.text
        with torch.no_grad():
            states = smol.model(torch.tensor([rendered.ids]), output_hidden_states=True).hidden_states
        for layer in (0, 12, 28):
            expected = states[layer + 1][0, rendered.start : rendered.end].mean(dim=0).numpy()
            scale = np.abs(expected).max()
            np.testing.assert_allclose(acts.values[number, layer], expected, atol=1e-4 * scale)


def test_a_row_s_numbers_do_not_depend_on_its_batch(smol, items):
    rows = lp.labelled(items.split("select")[:6])
    together = lp.record(smol, rows).values
    alone = lp.record(smol, rows[5:6]).values
    np.testing.assert_allclose(together[5], alone[0], atol=1e-4 * np.abs(alone).max())


def test_shared_prompts_and_prefixes_give_every_response_the_log_probability_of_its_text_alone(smol, items):
    chosen = items.split("select")[:3]
    rows = [Row(item.prompt, text) for item in chosen for text in item.responses.values()]
    assert smol.shares_prompts and smol.shares_prefix
    for found, expected in zip(response_logprobs(smol, rows), likelihoods(smol, rows), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-4)
        assert found.mean() == pytest.approx(expected.mean(), abs=1e-5)


def test_the_vector_reads_unseen_questions_far_above_chance(smol, items, vector):
    quality = lp.assess(lp.record(smol, lp.labelled(items.split("test")[:12])), vector, permutations=200)
    layer = quality.layers[12]
    assert layer.auc > 0.9
    assert layer.p_family < 0.05


def test_steering_moves_the_preference_both_ways_more_than_random_directions_do(smol, items, vector):
    from llm_persona.analysis.vectors import random_like

    test = items.split("test")[:10]

    def preference(v, dose):
        with lp.steering(smol, v, layer=12, dose=dose):
            return lp.evaluate(smol, test).summary["preference"]

    base = lp.evaluate(smol, test).summary["preference"]
    up, down = preference(vector, 0.2) - base, preference(vector, -0.2) - base
    random = np.mean([abs(preference(random_like(vector, n), 0.2) - base) for n in range(3)])
    assert up > 2 * random
    assert down < -2 * random


def test_steered_text_is_the_same_with_and_without_a_cache_and_differs_from_base(smol, vector):
    question = ["How should I spend the weekend?"]
    base = lp.generate(smol, question, 16)
    with lp.steering(smol, vector, layer=12, coefficient=0.0):
        assert lp.generate(smol, question, 16) == base
    with lp.steering(smol, vector, layer=12, dose=0.3):
        cached = lp.generate(smol, question, 16)
        assert cached == lp.generate(smol, question, 16, use_cache=False)
    assert cached[0].text != base[0].text


def test_recommend_names_a_layer_from_measured_effects(smol, items, vector):
    found = lp.recommend(smol, vector, items.split("select")[:5], layers=2)
    assert found.balanced in [p["layer"] for p in found.sweep]
    assert found.coefficient == pytest.approx(vector.coefficient_for(found.dose, found.balanced))


def test_choice_mode_reports_its_option_mass_and_order_consistency(smol, items):
    found = lp.evaluate(smol, items.split("test")[:4], mode="choice").summary
    assert 0 < found["option_mass"] <= 1
    assert 0 <= found["order_consistency"] <= 1


def test_prompted_rows_are_read_without_the_instruction(smol):
    trait = lp.load_trait("openness")
    rows = lp.prompted(smol, trait, "select", max_new_tokens=8, limit=2)
    assert {r.pole for r in rows} == {"high", "low"}
    assert all(r.system is None for r in rows)
    assert lp.record(smol, rows).values.shape[0] == len(rows)


@pytest.mark.parametrize("source", ["ours", "third-party"])
@pytest.mark.parametrize("persona", [None, "Be bold and curious."])
def test_upstream_mode_equals_a_direct_reading_of_the_published_protocol(smol, items, source, persona, request):
    """Written from the published description and code (Lee et al. 2024), with nothing of ours but the template."""
    from llm_persona.domain.condition import Condition
    from llm_persona.domain.templates import load_template

    chosen = items.split("test")[:6]
    if source == "third-party":
        chosen = lp.load_items(path=request.getfixturevalue("trait_file"))[:10]
    text = load_template("1").text
    classes = []
    for item in chosen:
        shares = []
        for order in ("high1 low1 high2 low2", "low1 high1 low2 high2"):
            responses = [getattr(item, f"response_{name}") for name in order.split()]
            fields = {"situation": item.situation, "query": item.query}
            prompt = text.format(**fields, **{f"option{n + 1}": r for n, r in enumerate(responses)})
            content = prompt if persona is None else f"{persona}\n\n{prompt}"
            ids = smol.tokenizer.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=persona is None, return_tensors="pt"
            )["input_ids"]
            with torch.no_grad():
                chances = smol.model(ids).logits[0, -1].softmax(dim=-1)
            letters = np.array([float(chances[smol.tokenizer.convert_tokens_to_ids(x)]) for x in "ABCD"])
            shares.append(letters / letters.sum())
        (a, b, c, d), (ar, br, cr, dr) = shares
        classes.append(int(np.argmax([(a + br) / 2, (c + dr) / 2, (b + ar) / 2, (d + cr) / 2])) in (0, 1))
    with smol.under(Condition("x", system=persona)):
        found = lp.evaluate(smol, chosen, mode="upstream")
    assert [row["high"] for row in found.rows] == classes
    assert found.summary["score"] == pytest.approx(100 * np.mean(classes))

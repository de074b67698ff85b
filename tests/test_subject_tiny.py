"""Reading tiny random models of many families: exact in float32, whatever the batch, the template or the prompt."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import make_subject, make_tokenizer, tiny_config
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_inputs import FAMILIES, ROWS

from llm_persona.domain.errors import UserError
from llm_persona.domain.responses import Response
from llm_persona.instruments.trait_benchmark import evaluate
from llm_persona.subject.chat import render_prompt, render_response
from llm_persona.subject.generate import generate
from llm_persona.subject.load import wrap
from llm_persona.subject.packing import Row
from llm_persona.subject.record import POSITIONS, record, record_positions
from llm_persona.subject.score import _log_sum_exp, next_token_probabilities, response_logprobs


@pytest.mark.parametrize("family", FAMILIES)
def test_recorded_activations_equal_independently_computed_hidden_states(family):
    subject = make_subject(family)
    acts = record(subject, ROWS)
    for number, row in enumerate(ROWS):
        rendered = render_response(subject, row.prompt, row.text)
        ids = torch.tensor([rendered.ids])
        with torch.no_grad():
            states = subject.model(ids, output_hidden_states=True, use_cache=False).hidden_states
        for layer in range(subject.n_layers - 1):  # the library's last entry is after the final norm
            expected = states[layer + 1][0, rendered.start : rendered.end].mean(dim=0).numpy()
            np.testing.assert_allclose(acts.values[number, layer], expected, atol=2e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_shared_prompts_give_the_numbers_of_separate_ones(family):
    subject = make_subject(family)
    rows = [Row(r.prompt, r.text) for r in ROWS]
    shared = response_logprobs(subject, rows)
    subject.shares_prompts = False
    alone = response_logprobs(subject, rows)
    for a, b in zip(shared, alone, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@given(st.lists(st.text(alphabet="abc é\n", min_size=1, max_size=40).filter(str.strip), min_size=1, max_size=6))
@settings(max_examples=25, deadline=None)
def test_batch_composition_and_padding_change_nothing(tiny, texts):
    rows = [Response("Why?", t, "high", str(n)) for n, t in enumerate(texts)]
    together = record(tiny, rows).values
    for number, row in enumerate(rows):
        np.testing.assert_allclose(together[number], record(tiny, [row]).values[0], atol=2e-5)


@given(st.text(min_size=1, max_size=60).filter(str.strip))
@settings(max_examples=60, deadline=None)
def test_the_span_holds_exactly_the_response_s_own_tokens(tiny, text):
    rendered = render_response(tiny, "Tell me.", text)
    own = tiny.tokenizer.decode(rendered.ids[rendered.start : rendered.end])
    if not any(mark in text for mark in ("<|im_start|>", "<|im_end|>")):
        assert own == text.strip()
    assert tiny.tokenizer.decode(rendered.ids[: rendered.start]).endswith("<|im_start|>assistant\n")


@pytest.mark.parametrize("position", ["prompt_last", "prompt_mean"])
def test_prompt_positions_do_not_depend_on_the_response(tiny, position):
    values = record(tiny, ROWS, position).values
    np.testing.assert_allclose(values[0], values[1], atol=1e-5)
    ids = torch.tensor([render_prompt(tiny, ROWS[0].prompt)])
    with torch.no_grad():
        state = tiny.model(ids, output_hidden_states=True).hidden_states[2][0]
    expected = state[-1] if position == "prompt_last" else state.mean(dim=0)
    np.testing.assert_allclose(values[0, 1], expected.numpy(), atol=2e-5)


def test_several_positions_are_recorded_at_every_layer_in_one_pass_over_the_rows(tiny):
    passes = []
    handle = tiny.blocks[0].register_forward_hook(lambda *_: passes.append(1))
    try:
        found = record_positions(tiny, ROWS)
        once = len(passes)
        single = {position: record(tiny, ROWS, position) for position in POSITIONS}
    finally:
        handle.remove()
    assert list(found) == list(POSITIONS)
    assert len(passes) == once * (1 + len(POSITIONS))
    for position, acts in found.items():
        assert np.abs(acts.values - single[position].values).max() < 1e-6  # a larger product may round otherwise
        assert (acts.poles, acts.groups) == (single[position].poles, single[position].groups)
    assert not np.allclose(found["prompt_last"].values, found["response_mean"].values)
    with pytest.raises(UserError, match="no position was given"):
        record_positions(tiny, ROWS, ())
    with pytest.raises(UserError, match="position 'middle': choose one of"):
        record_positions(tiny, ROWS, ("prompt_last", "middle"))


def test_log_probabilities_equal_those_of_a_plain_forward(tiny):
    for row, found in zip(ROWS, response_logprobs(tiny, [Row(r.prompt, r.text) for r in ROWS]), strict=True):
        rendered = render_response(tiny, row.prompt, row.text)
        with torch.no_grad():
            logits = tiny.model(torch.tensor([rendered.ids])).logits[0].log_softmax(-1)
        expected = [float(logits[t - 1, rendered.ids[t]]) for t in range(rendered.start, rendered.end)]
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_sum_of_exponents_is_that_of_float64_in_every_part_and_with_masked_tokens(monkeypatch):
    logits = 3 * torch.randn(7, 500, generator=torch.Generator().manual_seed(0))
    logits[2, :400], logits[5, 3] = torch.finfo(torch.float32).min, -torch.inf
    expected = logits.double().logsumexp(dim=1)
    monkeypatch.setattr("llm_persona.subject.score.AT_ONCE_ON_CPU", 3 * 500)
    kept = logits.clone()
    np.testing.assert_allclose(_log_sum_exp(logits), expected, atol=2e-6)
    assert torch.equal(logits, kept)


def test_next_token_probabilities_do_not_depend_on_the_batch(tiny):
    prompts = [render_prompt(tiny, "a" * n) for n in (3, 40, 11)]
    together = next_token_probabilities(tiny, prompts, [5, 6, 7])
    alone = np.concatenate([next_token_probabilities(tiny, [p], [5, 6, 7]) for p in prompts])
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_a_template_without_system_role_gets_the_instruction_in_the_user_turn():
    template = (
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "[{{ m['role'] }}]{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    subject = make_subject(template=template)
    text = subject.tokenizer.decode(render_prompt(subject, "Why?", "Be kind."))
    assert text == "[user]Be kind.\n\nWhy?[assistant]"


def test_a_tokenizer_without_chat_template_still_works():
    subject = make_subject(template=None)
    assert subject.tokenizer.decode(render_prompt(subject, "Why?", "Be kind.")) == "Be kind.\n\nUser: Why?\nAssistant: "
    assert record(subject, ROWS).values.shape == (4, 4, 32)


def test_a_prompt_beyond_the_model_s_length_is_named(tiny):
    with pytest.raises(UserError, match="exceed"):
        generate(tiny, ["a" * 600], 4)
    with pytest.raises(UserError, match=r"longer than the model.s context of 512 tokens"):
        record(tiny, [Response("q", "a" * 600, "high", "g")])


def test_sampling_is_seeded(tiny):
    def draw(seed):
        return [a.text for a in generate(tiny, ["Hi", "Ho"], 10, temperature=1.0, seed=seed)]

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


def test_an_encoder_decoder_is_refused_by_name():
    from transformers import AutoModelForCausalLM

    tokenizer = make_tokenizer()
    model = AutoModelForCausalLM.from_config(tiny_config("llama", len(tokenizer)))
    model.model.layers = torch.nn.ModuleList(list(model.model.layers)[:2])
    with pytest.raises(UserError, match="no list of 4 decoder blocks"):
        wrap(model.eval(), tokenizer)


def test_the_benchmark_runs_on_any_subject(tiny):
    from llm_persona.domain.item_sources import load_items

    found = evaluate(tiny, load_items("openness").split("select")[:3])
    assert found.summary["n"] == 3
    assert all(0 <= r["preference"] <= 1 for r in found.rows)

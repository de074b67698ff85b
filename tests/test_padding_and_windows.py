"""A tokenizer's padding side, and an architecture's attention window, change no number."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import make_subject, make_tokenizer, tiny_config
from tiny_inputs import ROWS, random_vector

from llm_persona.domain.responses import Response
from llm_persona.subject.chat import render_response
from llm_persona.subject.generate import generate
from llm_persona.subject.load import wrap
from llm_persona.subject.packing import Row
from llm_persona.subject.record import POSITIONS, record
from llm_persona.subject.score import next_token_probabilities, response_logprobs
from llm_persona.subject.steer import steering, steering_rows

PROMPTS = ["Hi", "A much longer question about the weather, if you please?", "So?"]


def padded(family, side):
    subject = make_subject(family)
    subject.tokenizer.padding_side = side
    return subject


def everything(subject):
    """All that reads or writes, on rows of different lengths, unsteered and steered at some positions."""
    vector = random_vector(subject)
    rows = [Row(r.prompt, r.text) for r in ROWS]

    def measured():
        return [
            *(record(subject, ROWS, position).values for position in POSITIONS),
            np.concatenate(response_logprobs(subject, rows)),
            next_token_probabilities(subject, [[5, 6], [7, 8, 9, 10]], [3, 4]) if not subject.steering_layers else 0,
            [a.text for a in generate(subject, PROMPTS, 4)],
        ]

    found = measured()
    with steering(subject, vector, layer=1, coefficient=1.0, positions="response"):
        found += measured()
    with steering_rows(subject, [vector] * 3, 1, [0.5, -0.5, 1.0]):
        found.append([a.text for a in generate(subject, PROMPTS, 4, temperature=1.0, seed=1)])
    return found


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_side_on_which_a_tokenizer_pads_changes_no_number(family):
    left, right = (everything(padded(family, side)) for side in ("left", "right"))
    for a, b in zip(left, right, strict=True):
        np.testing.assert_array_equal(a, b)


def windowed(family, window=16):
    """A tiny model whose lower layers see only so many tokens back."""
    from transformers import AutoModelForCausalLM

    tokenizer = make_tokenizer()
    config = tiny_config(family, len(tokenizer))
    config.sliding_window = window
    config.layer_types = ["sliding_attention", "full_attention"] * 2
    torch.manual_seed(0)
    return wrap(AutoModelForCausalLM.from_config(config).eval().requires_grad_(False), tokenizer, f"windowed-{family}")


@pytest.mark.parametrize("family", ["gemma2", "gemma3_text"])
def test_beyond_the_attention_window_recording_and_steering_are_those_of_a_plain_forward(family):
    subject = windowed(family)
    assert subject.window == 16
    vector = random_vector(subject)
    rows = [*ROWS, Response("Why?", "Since it rains, and it rains all day long, we stay here.", "high", "q3")]
    shortest = min(len(render_response(subject, r.prompt, r.text).ids) for r in rows)
    assert shortest > 16
    for c in (0.0, 1.0):
        with steering(subject, vector, layer=1, coefficient=c):
            acts = record(subject, rows).values
            for number, row in enumerate(rows):
                rendered = render_response(subject, row.prompt, row.text)
                with torch.no_grad():
                    states = subject.model(torch.tensor([rendered.ids]), output_hidden_states=True).hidden_states
                own = slice(rendered.start, rendered.end)
                for layer in (0, 2):  # (the library reports the steered layer's own output as it was before)
                    expected = states[layer + 1][0, own].mean(dim=0).numpy()
                    np.testing.assert_allclose(acts[number, layer], expected, atol=2e-5)


@pytest.mark.parametrize("family", ["gemma2", "gemma3_text"])
def test_the_window_is_seen_in_the_numbers_and_a_cache_keeps_it(family):
    narrow, wide = windowed(family), windowed(family, 512)
    assert not np.allclose(record(narrow, ROWS).values[:, 3], record(wide, ROWS).values[:, 3], atol=1e-4)
    vector = random_vector(narrow)
    with steering(narrow, vector, layer=1, coefficient=2.0, positions="response"):
        assert generate(narrow, PROMPTS, 12) == generate(narrow, PROMPTS, 12, use_cache=False)

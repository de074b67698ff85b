"""Which tokens are steered and how: positions under every way of running, ablation, caps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import make_subject
from tiny_inputs import ROWS, random_vector

from llm_persona.domain.errors import UserError
from llm_persona.subject.chat import render_response
from llm_persona.subject.generate import generate
from llm_persona.subject.packing import Row
from llm_persona.subject.record import record
from llm_persona.subject.score import response_logprobs
from llm_persona.subject.steer import steering


def hidden_with(subject, ids, steers=(), start=None):
    """Block outputs [layers, length, hidden] of one plain forward, steered by hand where asked."""
    from llm_persona.subject.reading import reading

    seen = []
    handles = [b.register_forward_hook(lambda _m, _i, out: seen.append(out[0] if isinstance(out, tuple) else out))
               for b in subject.blocks]  # fmt: skip
    try:
        with torch.no_grad(), reading(subject, len(ids) if start is None else start):
            subject.decoder(torch.tensor([ids]), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack([s[0] for s in seen])


@pytest.mark.parametrize(
    ("family", "positions"),
    [("llama", "prompt"), ("llama", "response"), ("gpt2", "response"), ("gemma3_text", "prompt")],
)
def test_positions_are_absolute_under_a_cache_batching_left_padding_and_sampling(family, positions):
    subject = make_subject(family)
    vector = random_vector(subject)
    prompts = ["Hi", "A much longer question about the weather, if you please?", "So?"]
    with steering(subject, vector, layer=1, coefficient=3.0, positions=positions) as count:
        cached = generate(subject, prompts, 12)
    touched = count.tokens
    assert touched > 0
    with steering(subject, vector, layer=1, coefficient=3.0, positions=positions):
        assert generate(subject, prompts, 12, use_cache=False) == cached
        assert [generate(subject, [p], 12)[0] for p in prompts] == cached
        sampled = generate(subject, prompts, 8, temperature=1.0, seed=3)
        assert generate(subject, prompts, 8, temperature=1.0, seed=3, use_cache=False) == sampled
    with steering(subject, vector, layer=1, coefficient=3.0):
        assert generate(subject, prompts, 12) != cached


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "gemma3_text"])
@pytest.mark.parametrize("positions", ["all", "prompt", "response"])
def test_only_the_named_positions_of_a_read_response_change_at_the_steered_layer(family, positions):
    subject = make_subject(family)
    vector = random_vector(subject)
    row = ROWS[1]
    rendered = render_response(subject, row.prompt, row.text)
    for position, inside in (("response_mean", "response"), ("prompt_mean", "prompt")):
        plain = record(subject, [row], position).values[0, 1]
        with steering(subject, vector, layer=1, coefficient=2.0, positions=positions):
            moved = record(subject, [row], position).values[0, 1]
        expected = 2.0 * vector.directions[1] if positions in ("all", inside) else 0.0
        np.testing.assert_allclose(moved - plain, np.broadcast_to(expected, plain.shape), atol=2e-5)
    assert rendered.start < rendered.end


def test_packed_branches_and_separate_sequences_agree_when_only_responses_are_steered():
    shared, alone = make_subject(), make_subject()
    alone.shares_prompts = False
    vector = random_vector(shared)
    for positions in ("prompt", "response"):
        found = []
        for subject in (shared, alone):
            with steering(subject, vector, layer=1, coefficient=1.0, positions=positions):
                found.append([x.sum() for x in response_logprobs(subject, [Row(r.prompt, r.text) for r in ROWS])])
        np.testing.assert_allclose(found[0], found[1], atol=1e-4)


def test_positions_without_anyone_to_say_where_the_response_begins_are_refused():
    subject = make_subject()
    with (
        pytest.raises(UserError, match="nothing says where the response begins"),
        steering(subject, random_vector(subject), layer=1, coefficient=1.0, positions="response"),
    ):
        subject.model(torch.tensor([[1, 2, 3]]))


def test_ablation_takes_the_component_out_and_a_cap_keeps_it_within_bounds():
    subject = make_subject()
    vector = random_vector(subject)
    unit = torch.from_numpy(vector.unit(1).astype(np.float32))
    ids = [5, 9, 11, 40, 77]
    plain = hidden_with(subject, ids)
    along = plain[1] @ unit
    with steering(subject, vector, layer=1, operator="ablate"):
        ablated = hidden_with(subject, ids)
    np.testing.assert_allclose(ablated[1] @ unit, np.zeros(5), atol=1e-5)
    np.testing.assert_allclose(ablated[1], plain[1] - along[:, None] * unit, atol=1e-5)
    middle = float(along.median())
    with steering(subject, vector, layer=1, operator="cap", ceiling=middle):
        capped = hidden_with(subject, ids)
    np.testing.assert_allclose(capped[1] @ unit, along.clamp(max=middle), atol=1e-5)
    below = along < middle
    np.testing.assert_allclose(capped[1][below], plain[1][below], atol=1e-6)
    low, high = float(along.sort().values[1]), float(along.sort().values[3])
    for bounds in ({"floor": middle}, {"floor": low, "ceiling": high}, {"floor": middle, "ceiling": middle}):
        with steering(subject, vector, layer=1, operator="cap", **bounds):
            found = hidden_with(subject, ids)[1]
        wanted = along.clamp(bounds["floor"], bounds.get("ceiling"))
        np.testing.assert_allclose(found @ unit, wanted, atol=1e-5)
        np.testing.assert_allclose(found - (found @ unit)[:, None] * unit, plain[1] - along[:, None] * unit, atol=1e-5)

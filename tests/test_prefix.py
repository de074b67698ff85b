"""What all texts of a call begin with is read once, and every number stays what it is without that."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import make_subject
from tiny_inputs import FAMILIES, random_vector

from llm_persona.domain.responses import Response
from llm_persona.subject import batched, prefix
from llm_persona.subject.batched import batches, in_batches
from llm_persona.subject.chat import render_prompt
from llm_persona.subject.packing import Branch, Row, Tree
from llm_persona.subject.record import POSITIONS, record_positions
from llm_persona.subject.reuse import reusing_below
from llm_persona.subject.score import next_token_probabilities, response_logprobs
from llm_persona.subject.steer import steering

SYSTEM = "You answer every question that is put to you in one short sentence, and you never explain why."
ROWS = [
    Response(f"What now, number {n}?", text, pole, str(n), system=SYSTEM)
    for n in range(6)
    for pole, text in (("high", "Go and look at it."), ("low", f"Stay {n} days, and rest a while longer."))
]


@pytest.fixture
def reads(monkeypatch):
    """The prefixes that were read, in order."""
    found = []
    real = batched.read_prefix

    def noted(subject, ids, *args):
        found.append(list(ids))
        return real(subject, ids, *args)

    monkeypatch.setattr(batched, "read_prefix", noted)
    return found


def plain(rows):
    return [Row(r.prompt, r.text, r.system) for r in rows]


def without_prefix(subject, job):
    subject.shares_prefix = False
    try:
        return job()
    finally:
        subject.shares_prefix = True


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prefix_read_once_changes_no_number(family, reads):
    subject = make_subject(family)
    reads.clear()  # those of the probe at load
    prompts = [render_prompt(subject, r.prompt, SYSTEM) for r in ROWS[::2]]

    def all_of_it():
        return (
            response_logprobs(subject, plain(ROWS)),
            next_token_probabilities(subject, prompts, [65, 66]),
            record_positions(subject, ROWS, POSITIONS),
        )

    scores, chances, recorded = all_of_it()
    assert len(reads) == (3 if subject.shares_prefix else 0)
    alone = without_prefix(subject, all_of_it)
    assert len(reads) == (3 if subject.shares_prefix else 0)
    for one, other in zip(scores, alone[0], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    np.testing.assert_allclose(chances, alone[1], atol=1e-5)
    for position in POSITIONS:
        np.testing.assert_allclose(recorded[position].values, alone[2][position].values, atol=2e-5, err_msg=position)


def test_most_families_take_a_prefix_and_none_is_believed_unproved():
    taken = [family for family in FAMILIES if make_subject(family).shares_prefix]
    assert {"llama", "mistral", "qwen2", "qwen3", "gpt_neox", "olmo2", "phi"} <= set(taken)
    subject = make_subject()

    def forgetful(_module, _args, kwargs):  # a model that does not look at its cache
        return _args, {**kwargs, "past_key_values": None}

    handle = subject.decoder.register_forward_pre_hook(forgetful, with_kwargs=True)
    try:
        assert batched.sharing_is_exact(subject)
        assert not batched.sharing_is_exact(subject, prefix=2)
    finally:
        handle.remove()


@pytest.mark.parametrize("positions", ["all", "prompt", "response"])
def test_steering_reaches_the_prefix_as_it_reaches_the_rest_of_a_prompt(tiny, reads, positions):
    vector = random_vector(tiny)

    def steered():
        with steering(tiny, vector, layer=1, coefficient=1.0, positions=positions):
            return np.concatenate(response_logprobs(tiny, plain(ROWS)))

    found = steered()
    assert reads
    np.testing.assert_allclose(found, without_prefix(tiny, steered), atol=1e-5)
    assert np.abs(found - np.concatenate(response_logprobs(tiny, plain(ROWS)))).max() > 1e-3


def test_a_sweep_reads_the_layers_below_once_for_the_prefix_too(tiny, reads):
    vector = random_vector(tiny)
    calls = []
    handle = tiny.blocks[1].self_attn.register_forward_pre_hook(lambda *_: calls.append(1))

    def sweep():
        found = []
        for coefficient in (0.5, -0.5, 0.0):
            with steering(tiny, vector, layer=2, coefficient=coefficient):
                found.append(np.concatenate(response_logprobs(tiny, plain(ROWS))))
        return found

    try:
        separate = sweep()
        each = len(calls) // 3
        calls.clear()
        with reusing_below(tiny, 2):
            shared = sweep()
    finally:
        handle.remove()
    assert len(reads) == 6
    assert len(calls) == each  # of three sweeps' forwards
    for one, other in zip(shared, separate, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_batches_after_different_prefixes_are_not_taken_for_one_another(tiny):
    def under(system):
        return np.concatenate(response_logprobs(tiny, [Row(r.prompt, r.text, system) for r in ROWS]))

    systems = [SYSTEM, SYSTEM.replace("short", "sharp")]
    expected = [under(system) for system in systems]
    with reusing_below(tiny, 2):
        found = [under(system) for system in (*systems, *systems)]
    for one, other in zip(found, expected * 2, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    assert np.abs(expected[0] - expected[1]).max() > 1e-5


def test_a_prefix_that_saves_next_to_nothing_is_not_read_by_itself(tiny, reads):
    response_logprobs(tiny, plain(ROWS[:2]))  # one prompt
    response_logprobs(tiny, [Row(r.prompt, r.text) for r in ROWS[:4]])  # a short beginning, twice
    assert not reads


def test_no_block_above_those_asked_for_reads_the_prefix(tiny, reads):
    calls = []
    handle = tiny.blocks[3].register_forward_pre_hook(lambda *_: calls.append(1))
    try:
        record_positions(tiny, ROWS, POSITIONS, layers=[0, 2])
    finally:
        handle.remove()
    assert reads
    assert not calls


def test_texts_are_read_whole_where_memory_has_no_room_for_the_prefix(tiny, monkeypatch):
    expected = response_logprobs(tiny, plain(ROWS))
    asked = []

    def full(*_):
        asked.append(1)
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(batched, "read_prefix", full)
    for one, other in zip(response_logprobs(tiny, plain(ROWS)), expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    assert asked

    def broken(*_):
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr(batched, "read_prefix", broken)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        response_logprobs(tiny, plain(ROWS))


def test_every_batch_gets_a_cache_of_its_own(tiny):
    lengths = []

    def work(packed):
        for _ in range(2):
            tiny.decoder(**packed.inputs, use_cache=False)
            lengths.append(packed.inputs["past_key_values"].get_seq_length())

    in_batches(tiny, plain(ROWS), work, budget=400)
    assert len(lengths) > 2
    assert len(set(lengths)) == 1


def test_many_short_texts_after_a_long_prefix_go_in_several_batches():
    trees = [Tree([1], [Branch(n, [2, 3], 0)]) for n in range(64)]
    assert len(list(batches(trees, 256))) == 1
    sizes = [len(batch) for batch in batches(trees, 256, before=128)]
    assert sum(sizes) == 64
    assert max(sizes) * 128 <= batched.COPIES * 256


def test_what_a_prefix_must_save_grows_with_the_batches(tiny, reads):
    tiny.token_budget, before = 1 << 20, tiny.token_budget
    try:
        response_logprobs(tiny, plain(ROWS))
    finally:
        tiny.token_budget = before
    assert not reads
    assert prefix.WORTH < 1

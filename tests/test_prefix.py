"""What all texts of a call begin with is read once, and every number stays what it is without that."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import make_subject
from tiny_inputs import FAMILIES, random_vector

from llm_persona.domain.responses import Response
from llm_persona.subject import batched, prefix, reuse
from llm_persona.subject.batched import batches, in_batches
from llm_persona.subject.chat import render_prompt
from llm_persona.subject.packing import Branch, Row, Tree
from llm_persona.subject.prefix import PrefixCache
from llm_persona.subject.record import POSITIONS, record_positions
from llm_persona.subject.reuse import KeptBlocks, reusing_below
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
    before, subject.shares_prefix = subject.shares_prefix, False
    try:
        return job()
    finally:
        subject.shares_prefix = before


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
    assert len(reads) == 3
    alone = without_prefix(subject, all_of_it)
    assert len(reads) == 3
    for one, other in zip(scores, alone[0], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    np.testing.assert_allclose(chances, alone[1], atol=1e-5)
    for position in POSITIONS:
        np.testing.assert_allclose(recorded[position].values, alone[2][position].values, atol=1e-5, err_msg=position)


def test_every_family_takes_a_prefix_and_a_cache_that_is_not_looked_at_is_found_out():
    assert all(make_subject(family).shares_prefix for family in FAMILIES)
    subject = make_subject()

    def forgetful(_module, args, kwargs):  # a model that attends to its cache as if nothing stood in it
        past = kwargs.get("past_key_values")
        for layer in past.layers if isinstance(past, PrefixCache) else ():
            layer.keys, layer.values = torch.zeros_like(layer.keys), torch.zeros_like(layer.values)
        return args, kwargs

    handle = subject.decoder.register_forward_pre_hook(forgetful, with_kwargs=True)
    try:
        assert batched.sharing_that_is_exact(subject) == (True, False)
    finally:
        handle.remove()
    assert batched.sharing_that_is_exact(subject) == (True, True)


@pytest.mark.parametrize(
    ("entry", "rotates"),
    [({"rope_type": "longrope"}, True), ({"rope_type": "dynamic"}, True), ({"type": "dynamic_ntk"}, True),
     ({"full_attention": {"rope_type": "longrope"}}, True), ({"rope_type": "llama3", "factor": 8.0}, False),
     (None, False)],
)  # fmt: skip
def test_positions_that_turn_by_the_length_of_a_text_take_no_prefix(entry, rotates):
    assert prefix.rotates_by_length(SimpleNamespace(rope_parameters=entry)) == rotates
    assert prefix.rotates_by_length(SimpleNamespace(rope_scaling=entry)) == rotates
    assert not prefix.rotates_by_length(make_subject().text_config)


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


@pytest.mark.parametrize("positions", ["all", "prompt", "response"])
def test_the_mean_over_a_prompt_holds_the_prefix_as_it_was_steered(tiny, reads, positions):
    steer = {"vector": random_vector(tiny), "layer": 1, "coefficient": 1.0, "positions": positions}

    def steered():
        with steering(tiny, **steer):
            return record_positions(tiny, ROWS, ("prompt_mean",))["prompt_mean"].values

    found = steered()
    assert reads
    np.testing.assert_allclose(found, without_prefix(tiny, steered), atol=1e-5)


@pytest.mark.parametrize("change", [{"operator": "ablate"}, {"operator": "cap", "floor": -0.1, "ceiling": 0.1}])
def test_ablations_and_caps_reach_the_prefix_too(tiny, reads, change):
    def steered():
        with steering(tiny, random_vector(tiny), layer=1, **change):
            return np.concatenate(response_logprobs(tiny, plain(ROWS)))

    found = steered()
    assert reads
    np.testing.assert_allclose(found, without_prefix(tiny, steered), atol=1e-5)


def test_a_prompt_that_is_the_beginning_of_another_keeps_its_last_token(tiny, reads):
    """Without turn marks after them, the longer prompts begin with the whole of the shorter one."""
    short = [token % 250 for token in range(60)]
    prompts = [short, short, *([*short, token] for token in range(5)), [*short, 7, 8]]
    found = next_token_probabilities(tiny, prompts, [65, 66])
    assert len(reads) == 1
    assert len(reads[0]) < len(short)
    whole = without_prefix(tiny, lambda: next_token_probabilities(tiny, prompts, [65, 66]))
    np.testing.assert_allclose(found, whole, atol=1e-6)


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


def test_one_store_of_several_layers_keeps_prefixes_for_each(tiny, reads):
    vector, kept = random_vector(tiny), KeptBlocks([1, 2])

    def at(layer):
        with steering(tiny, vector, layer=layer, coefficient=0.5):
            return np.concatenate(response_logprobs(tiny, plain(ROWS)))

    expected = {layer: at(layer) for layer in (2, 1)}
    for layer in (2, 1, 2, 1):
        with reusing_below(tiny, layer, kept):
            np.testing.assert_allclose(at(layer), expected[layer], atol=1e-6)
    assert len(reads) == 6


def test_a_store_without_room_keeps_neither_outputs_nor_what_a_prefix_wrote(tiny, monkeypatch):
    monkeypatch.setattr(reuse, "MEMORY_LIMIT", 0)
    kept, expected = KeptBlocks([2]), np.concatenate(response_logprobs(tiny, plain(ROWS)))
    with reusing_below(tiny, 2, kept):
        for _ in range(2):
            np.testing.assert_array_equal(np.concatenate(response_logprobs(tiny, plain(ROWS))), expected)
    assert not kept._outputs
    assert not kept._written


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
    with pytest.warns(RuntimeWarning, match=r"tokens that all texts begin with: going on with whole texts"):
        found = response_logprobs(tiny, plain(ROWS))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    assert asked

    def broken(*_):
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr(batched, "read_prefix", broken)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        response_logprobs(tiny, plain(ROWS))


def test_a_prefix_serves_any_number_of_forwards_and_holds_no_more_than_itself(tiny):
    found = []

    def work(packed):
        twice = [tiny.decoder(**packed.inputs, use_cache=False)[0] for _ in range(2)]
        assert torch.equal(*twice)
        found.append(packed.prefix.cache)

    in_batches(tiny, plain(ROWS), work, budget=400)
    assert len(found) > 1
    assert all(cache is found[0] for cache in found)
    assert {tuple(layer.keys.shape[::2]) for layer in found[0].layers} == {(1, len(found[0].ids))}


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

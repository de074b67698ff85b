"""Reading and steering on tiny random models of many families: exact in float32, restored in every case."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import make_subject, make_tokenizer, tiny_config
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_persona.analysis.vectors import PersonaVector
from llm_persona.domain.condition import Condition, Steer
from llm_persona.domain.errors import IncompatibleVector, UserError
from llm_persona.domain.responses import Response
from llm_persona.instruments.trait_benchmark import evaluate
from llm_persona.subject.chat import render_prompt, render_response
from llm_persona.subject.generate import generate
from llm_persona.subject.load import wrap
from llm_persona.subject.packing import Row
from llm_persona.subject.record import POSITIONS, record, record_positions
from llm_persona.subject.reuse import reusing_below
from llm_persona.subject.score import next_token_probabilities, response_logprobs
from llm_persona.subject.steer import steering

FAMILIES = [
    "llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "gpt2", "gpt_neox", "phi", "olmo2", "mixtral",
]  # fmt: skip
ROWS = [
    Response("What should I do?", "Go and look at it.", "high", "q1"),
    Response("What should I do?", "Stay where you are, and rest a while longer.", "low", "q1"),
    Response("And then?", "Sing!", "high", "q2"),
    Response("And then?", "Sleep.", "low", "q2"),
]


def random_vector(subject, seed=0):
    rng = np.random.default_rng(seed)
    directions = rng.standard_normal((subject.n_layers, subject.hidden_size)).astype(np.float32)
    return PersonaVector(directions, np.ones(subject.n_layers, np.float32))


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
def test_steering_meets_the_tensor_that_is_recorded(family):
    subject = make_subject(family)
    vector = random_vector(subject)
    plain = record(subject, ROWS).values
    with steering(subject, vector, layer=1, coefficient=0.5) as count:
        steered = record(subject, ROWS).values
    np.testing.assert_allclose(steered[:, 1] - plain[:, 1], 0.5 * vector.directions[1][None].repeat(4, 0), atol=1e-4)
    np.testing.assert_array_equal(steered[:, 0], plain[:, 0])
    assert count.tokens > 0
    np.testing.assert_array_equal(record(subject, ROWS).values, plain)


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
        np.testing.assert_array_equal(acts.values, single[position].values)
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


def test_next_token_probabilities_do_not_depend_on_the_batch(tiny):
    prompts = [render_prompt(tiny, "a" * n) for n in (3, 40, 11)]
    together = next_token_probabilities(tiny, prompts, [5, 6, 7])
    alone = np.concatenate([next_token_probabilities(tiny, [p], [5, 6, 7]) for p in prompts])
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_steering_agrees_with_and_without_a_cache(tiny):
    with steering(tiny, random_vector(tiny), layer=2, coefficient=0.3):
        cached = generate(tiny, ["Hi", "Hello there"], 12)
        plain = generate(tiny, ["Hi", "Hello there"], 12, use_cache=False)
    assert [a.text for a in cached] == [a.text for a in plain]


def test_coefficient_zero_is_the_base_token_for_token(tiny):
    base = generate(tiny, ["Hi"], 12)
    with steering(tiny, random_vector(tiny), layer=2, coefficient=0.0):
        assert generate(tiny, ["Hi"], 12) == base


def test_a_context_that_touches_no_token_is_an_error(tiny):
    with (
        pytest.raises(UserError, match="touched no token"),
        steering(tiny, random_vector(tiny), layer=0, coefficient=1.0),
    ):
        pass


def test_the_subject_is_restored_when_something_fails_inside(tiny):
    before = record(tiny, ROWS).values
    condition = Condition(system="Be brief.", steers=(Steer(random_vector(tiny), 1, coefficient=2.0),))
    with pytest.raises(ZeroDivisionError), tiny.under(condition):
        record(tiny, ROWS)
        raise ZeroDivisionError
    assert tiny.system is None
    assert tiny.steering_layers == []
    np.testing.assert_array_equal(record(tiny, ROWS).values, before)


def test_nested_steering_adds_up(tiny):
    a, b = random_vector(tiny, 1), random_vector(tiny, 2)
    plain = record(tiny, ROWS).values
    with steering(tiny, a, layer=1, coefficient=0.5), steering(tiny, b, layer=1, coefficient=-0.25):
        both = record(tiny, ROWS).values
    expected = 0.5 * a.directions[1] - 0.25 * b.directions[1]
    np.testing.assert_allclose(both[:, 1] - plain[:, 1], np.tile(expected, (4, 1)), atol=1e-4)


@pytest.mark.parametrize(("shape", "message"), [((4, 16), "width 16"), ((3, 32), "3 layers")])
def test_a_vector_of_another_shape_is_refused(tiny, shape, message):
    vector = PersonaVector(np.ones(shape, np.float32), np.ones(shape[0], np.float32), {"model": "other"})
    with pytest.raises(IncompatibleVector, match=message), steering(tiny, vector, layer=0, coefficient=1.0):
        pass


def test_a_vector_of_another_model_is_a_loud_warning(tiny):
    vector = random_vector(tiny)
    other = PersonaVector(vector.directions, vector.reference_norms, {"model": "another"})
    with pytest.warns(UserWarning, match="made on 'another'"), steering(tiny, other, layer=0, coefficient=1.0):
        record(tiny, ROWS)


@pytest.mark.parametrize("family", FAMILIES)
def test_sharing_the_layers_below_changes_no_number(family):
    subject = make_subject(family)
    vector = random_vector(subject)
    rows = [Row(r.prompt, r.text) for r in ROWS]
    plain = response_logprobs(subject, rows)
    separate = []
    for c in (0.5, -0.5):
        with steering(subject, vector, layer=2, coefficient=c):
            separate.append(response_logprobs(subject, rows))
    with reusing_below(subject, 2):
        for c, expected in zip((0.5, -0.5), separate, strict=True):
            with steering(subject, vector, layer=2, coefficient=c):
                for a, b in zip(response_logprobs(subject, rows), expected, strict=True):
                    np.testing.assert_allclose(a, b, atol=1e-6)
                assert generate(subject, ["Hi"], 3)
        for a, b in zip(response_logprobs(subject, rows), plain, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)
    for a, b in zip(response_logprobs(subject, rows), plain, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_lower_steered_layer_cannot_enter_a_shared_sweep(tiny):
    with (
        pytest.raises(UserError, match="lower steered layer"),
        reusing_below(tiny, 2),
        steering(tiny, random_vector(tiny), layer=1, coefficient=1.0),
    ):
        record(tiny, ROWS)


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


def test_rows_steered_in_one_batch_write_what_they_write_alone(tiny):
    from llm_persona.subject.steer import steering_rows

    # Each vector points at a token's output row, so that each row has to write its own letter.
    letters = tiny.tokenizer("xyz", add_special_tokens=False)["input_ids"]
    rows = tiny.model.lm_head.weight[letters].detach().numpy()
    vectors = [PersonaVector(np.tile(row, (4, 1)), np.ones(4, np.float32)) for row in rows]
    prompts = ["A rather long question?", "Hi", "What now?"]
    doses = [50.0, 40.0, 60.0]
    with steering_rows(tiny, vectors, 3, doses):
        together = generate(tiny, prompts, 10)
    for prompt, vector, dose, found in zip(prompts, vectors, doses, together, strict=True):
        with steering(tiny, vector, layer=3, dose=dose):
            assert generate(tiny, [prompt], 10) == [found]
    assert [a.text[0] for a in together] == list("xyz")


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


def test_increments_of_the_layers_sum_to_the_layer_s_own_vector():
    from llm_persona.analysis.vectors import increments

    vector = random_vector(make_subject())
    for first in range(3):
        steps = increments(vector, first)
        np.testing.assert_allclose(steps.directions[first:3].sum(axis=0), vector.directions[2], atol=1e-5)


def test_two_vectors_at_once_add_up_at_one_layer():
    subject = make_subject()
    a, b = random_vector(subject, 1), random_vector(subject, 2)
    plain = record(subject, ROWS).values[:, 1]
    with subject.under(Condition("both", steers=(Steer(a, 1, coefficient=1.0), Steer(b, 1, coefficient=-0.5)))):
        both = record(subject, ROWS).values[:, 1]
    expected = a.directions[1] - 0.5 * b.directions[1]
    np.testing.assert_allclose(both - plain, np.broadcast_to(expected, plain.shape), atol=2e-5)


def test_another_thread_may_not_use_a_subject_that_is_steered():
    import threading

    subject = make_subject()
    vector = random_vector(subject)
    caught = []

    def intrude(steered):
        try:
            if steered:
                with steering(subject, vector, layer=2, coefficient=1.0):
                    record(subject, ROWS)
            else:
                record(subject, ROWS)
        except UserError as error:
            caught.append(str(error))

    with steering(subject, vector, layer=1, coefficient=1.0):
        for steered in (True, False):
            thread = threading.Thread(target=intrude, args=(steered,))
            thread.start()
            thread.join()
        record(subject, ROWS)
    assert len(caught) == 2
    assert all("another thread" in text for text in caught)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"operator": "ablate", "dose": 0.1}, "takes no coefficient"), ({"operator": "cap"}, "needs at least one"),
     ({"operator": "twist", "dose": 1.0}, "choose add, ablate or cap"), ({"dose": 0.1, "floor": 1.0}, "belongs to"),
     ({"operator": "cap", "floor": 2.0, "ceiling": 1.0}, "lies above"), ({"dose": 1, "positions": "x"}, "choose all")],
)  # fmt: skip
def test_steering_that_makes_no_sense_is_refused_before_anything_runs(settings, message):
    subject = make_subject()
    with pytest.raises(UserError, match=message), steering(subject, random_vector(subject), 1, **settings):
        record(subject, ROWS)
    assert not subject.steering_layers

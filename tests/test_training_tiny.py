"""Fine-tuning on a tiny model: the loss, the folder, the resume, and the subject afterwards."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import make_subject
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from llm_persona.analysis.activations import Activations
from llm_persona.analysis.vectors import fit
from llm_persona.domain.adapters import adapter_digest
from llm_persona.domain.condition import Condition, Steer, tuned
from llm_persona.domain.errors import UserError
from llm_persona.domain.responses import Response
from llm_persona.subject.chat import render_response
from llm_persona.subject.packing import Row
from llm_persona.subject.record import record
from llm_persona.subject.score import response_logprobs
from llm_persona.training import finetune as module
from llm_persona.training.along import Watch
from llm_persona.training.data import Example, TrainingData, from_chat, training_prompts
from llm_persona.training.finetune import canonical_config, finetune
from llm_persona.training.held_out import loss_on, split
from llm_persona.training.loss import answer_loss, collate
from llm_persona.training.mixture import mix
from llm_persona.training.order import by_length
from llm_persona.training.recipe import NARROW, RANK1, Recipe, adjusted

DATA = TrainingData([Example(f"Question {n // 2}?", f"Answer number {n}.") for n in range(12)], [], "test")
RECIPE = Recipe(rank=2, alpha=4, epochs=2, prompts_per_step=2, learning_rate=5e-3)
ROWS = [Response("Question 0?", "Answer number 0.", "high", "a")]


def test_the_packed_loss_is_the_mean_over_answer_tokens_of_separate_sequences(tiny):
    prompts = training_prompts(tiny, DATA, 512)
    batch = collate(prompts.trees, tiny.tokenizer.pad_token_id, tiny.dtype)
    packed = float(answer_loss(tiny.model, batch))
    losses = []
    for tree in [tree for prompt in prompts.trees for tree in prompt]:
        for branch in tree.branches:
            ids = tree.trunk + branch.ids
            with torch.no_grad():
                logits = tiny.model(torch.tensor([ids])).logits[0].log_softmax(-1)
            first = len(tree.trunk) + branch.lead
            losses += [-float(logits[t - 1, ids[t]]) for t in range(first, len(ids))]
    assert packed == pytest.approx(np.mean(losses), abs=1e-5)


def test_the_end_of_turn_is_learnt(tiny):
    prompts = training_prompts(tiny, DATA, 512)
    end = tiny.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert all(b.ids[-1] == end for prompt in prompts.trees for tree in prompt for b in tree.branches)


CONTRAST = TrainingData(
    [Example(f"Question {n}?", f"Yes {w}, of course.", None, f"No {w}!") for n in range(3) for w in ("now", "then")],
    [],
    "test",
)


@pytest.mark.parametrize("shares", [True, False])
def test_the_contrast_is_the_odds_ratio_of_the_answers_mean_log_probabilities(shares):
    subject = make_subject()
    subject.shares_prompts = shares
    prompts = training_prompts(subject, CONTRAST, 512, contrast=True)
    assert [len(p) for p in prompts.trees] == ([1] * 3 if shares else [4] * 3)
    assert prompts.learnt == 6
    batch = collate(prompts.trees, subject.tokenizer.pad_token_id, subject.dtype, prompts.shared, prompts.pairs)
    plain, both = (float(answer_loss(subject.model, batch, contrast=c)) for c in (0.0, 2.0))
    terms, learnt = [], []
    for example in CONTRAST.examples:
        odds = []
        for text in (example.response, example.avoid):
            row = render_response(subject, example.prompt, text)
            ids = row.ids + list(row.closing)
            with torch.no_grad():
                logits = subject.model(torch.tensor([ids])).logits[0].log_softmax(-1)
            found = [float(logits[t - 1, ids[t]]) for t in range(row.start, len(ids))]
            odds.append(np.mean(found) - np.log1p(-np.exp(np.mean(found))))
            learnt += found if text == example.response else []
        terms.append(np.log1p(np.exp(odds[1] - odds[0])))
    assert plain == pytest.approx(-np.mean(learnt), abs=1e-5)
    assert both == pytest.approx(plain + 2 * np.mean(terms), abs=1e-4)


def test_a_contrast_parts_the_answers_where_the_plain_loss_raises_both(tmp_path):
    def gap(contrast):
        subject = make_subject()
        recipe = Recipe(rank=4, epochs=10, prompts_per_step=3, learning_rate=5e-3, contrast=contrast)
        finetune(subject, CONTRAST, tmp_path / f"c{contrast}", recipe)
        with subject.under(tuned(str(tmp_path / f"c{contrast}"))):
            rows = [Row(e.prompt, t) for e in CONTRAST.examples for t in (e.response, e.avoid)]
            means = [x.mean() for x in response_logprobs(subject, rows)]
        return np.mean(means[::2]) - np.mean(means[1::2])

    assert gap(2.0) > gap(0.0) + 0.1


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
def test_a_depth_adapts_only_the_blocks_it_names(tmp_path, family):
    finetune(make_subject(family), DATA, tmp_path / "a", Recipe(rank=2, epochs=1, depth=(0.25, 0.75)))
    names = load_file(tmp_path / "a" / "adapter_model.safetensors")
    assert {int(re.search(r"\.(\d+)\.", name)[1]) for name in names} == {1, 2}


def test_training_lowers_the_loss_and_leaves_the_subject_as_it_was(tmp_path):
    subject = make_subject()
    before = {k: v.clone() for k, v in subject.model.state_dict().items()}
    acts = record(subject, ROWS).values
    done = finetune(subject, DATA, tmp_path / "a", Recipe(rank=4, epochs=8, prompts_per_step=2, learning_rate=1e-2))
    assert done.losses[-1][1] < done.losses[0][1]
    after = subject.model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[k], before[k]) for k in before)
    np.testing.assert_array_equal(record(subject, ROWS).values, acts)
    with subject.under(tuned(str(tmp_path / "a"))):
        assert np.abs(record(subject, ROWS).values - acts).max() > 1e-3
    np.testing.assert_array_equal(record(subject, ROWS).values, acts)


def test_a_bfloat16_training_learns_what_a_float32_one_does_and_keeps_its_adapter_in_float32(tmp_path):
    half = make_subject()
    half.model.to(torch.bfloat16)
    exact = finetune(make_subject(), DATA, tmp_path / "exact", RECIPE)
    found = finetune(half, DATA, tmp_path / "half", RECIPE)
    assert [loss for _, loss in found.losses] == pytest.approx([loss for _, loss in exact.losses], rel=0.01)
    assert {w.dtype for w in load_file(tmp_path / "half" / "adapter_model.safetensors").values()} == {torch.float32}
    assert not torch.is_autocast_enabled("cpu")


def test_the_folder_is_plain_peft_with_card_and_provenance(tmp_path):
    from peft import PeftModel

    subject = make_subject()
    finetune(subject, DATA, tmp_path / "a", RECIPE)
    names = {p.name for p in (tmp_path / "a").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "README.md", "llm-persona.json"} <= names
    assert not list(tmp_path.glob(".*"))
    assert json.loads((tmp_path / "a" / "adapter_config.json").read_text())["base_model_name_or_path"] == "tiny-llama"
    PeftModel.from_pretrained(make_subject().model, str(tmp_path / "a"))


TRAINED_ELSEWHERE = """
import sys
from pathlib import Path
from conftest import make_subject
from test_training_tiny import DATA, RECIPE
from llm_persona.training.finetune import finetune
from llm_persona.training.recipe import adjusted
finetune(make_subject(), DATA, sys.argv[1], adjusted(RECIPE, max_steps=1))
"""


def test_equal_trainings_in_two_processes_are_equal_to_the_byte(tmp_path):
    folders = [tmp_path / seed / "adapter" for seed in ("1", "2")]
    for folder in folders:  # (the order of a set of names hangs on this seed, which is random where none is set)
        place = {**os.environ, "PYTHONHASHSEED": folder.parent.name, "PYTHONPATH": os.pathsep.join(sys.path)}
        subprocess.run([sys.executable, "-c", TRAINED_ELSEWHERE, str(folder)], env=place, check=True)
    assert len({(folder / "adapter_config.json").read_bytes() for folder in folders}) == 1
    assert len({adapter_digest(folder) for folder in folders}) == 1


@pytest.mark.parametrize(
    ("written", "kept"), [(["v", "k", "q"], ["k", "q", "v"]), ("all-linear", "all-linear"), (None, None)]
)
def test_a_set_of_modules_is_written_sorted_and_a_pattern_or_nothing_as_it_is(written, kept):
    config = canonical_config({"r": 2, "target_modules": written, "base_model_name_or_path": "/home/me/x"}, "name")
    assert config == {"r": 2, "target_modules": kept, "base_model_name_or_path": "name"}


def test_a_training_killed_between_epochs_ends_like_an_undisturbed_one(tmp_path):
    finetune(make_subject(), DATA, tmp_path / "a" / "whole", RECIPE)

    def kill(step, total):
        if step == total // 2 + 1:
            raise KilledError

    with pytest.raises(KilledError):
        finetune(make_subject(), DATA, tmp_path / "b" / "whole", RECIPE, progress=kill)
    steps = []
    finetune(make_subject(), DATA, tmp_path / "b" / "whole", RECIPE, progress=lambda s, _t: steps.append(s))
    assert min(steps) > 1  # it went on from the checkpoint
    a, b = (load_file(tmp_path / x / "whole" / "adapter_model.safetensors") for x in "ab")
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_a_finished_training_is_not_repeated(tmp_path, monkeypatch):
    first = finetune(make_subject(), DATA, tmp_path / "a", RECIPE)
    monkeypatch.setattr(module, "train", lambda *_: pytest.fail("trained again"))
    assert finetune(make_subject(), DATA, tmp_path / "a", RECIPE) == first
    with pytest.raises(UserError, match="other data or settings"):
        finetune(make_subject(), DATA, tmp_path / "a", RECIPE, seed=1)


def test_rows_that_cannot_be_used_are_counted_and_listed(tmp_path):
    path = tmp_path / "chat.jsonl"
    good = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    bad = [{"messages": []}, {"text": "x"}, {"messages": [good["messages"][0], {"role": "assistant", "content": " "}]}]
    path.write_text("\n".join(json.dumps(r) for r in [good, *bad, good]), encoding="utf-8")
    data = from_chat(path)
    assert len(data.examples) == 2
    assert [s.row for s in data.skipped] == [1, 2, 3]
    path.write_text('{"messages": []}\n{oops', encoding="utf-8")
    with pytest.raises(UserError, match=r"chat\.jsonl:2: not valid JSON"):
        from_chat(path)


def test_conversations_that_are_too_long_are_listed(tiny):
    data = TrainingData([Example("a", "b" * 300), Example("a", "short")], [], "test")
    prompts = training_prompts(tiny, data, 100)
    assert prompts.learnt == 1
    assert "more than 100" in prompts.skipped[0].reason


def test_an_adapter_of_another_model_is_refused_and_leaves_no_trace(tmp_path):
    finetune(make_subject(), DATA, tmp_path / "a", RECIPE)
    other = make_subject("gpt2")
    before = record(other, ROWS).values
    with pytest.raises(UserError, match="does not fit"), other.under(tuned(str(tmp_path / "a"))):
        pass
    np.testing.assert_array_equal(record(other, ROWS).values, before)


def test_a_checkpoint_that_was_cut_off_while_written_is_removed_and_training_goes_on(tmp_path):
    def kill(step, total):
        if step == total // 2 + 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(make_subject(), DATA, tmp_path / "a", RECIPE, progress=kill)
    state = next(tmp_path.rglob("trainer_state.json"))
    state.write_text(state.read_text()[:40])
    done = finetune(make_subject(), DATA, tmp_path / "a", RECIPE)
    assert done.steps == 6
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("key", ["modules_to_save", "bias"])
def test_an_adapter_that_replaces_base_weights_is_refused(tmp_path, key):
    finetune(make_subject(), DATA, tmp_path / "a", RECIPE)
    path = tmp_path / "a" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: ["lm_head"] if key != "bias" else "all"}))
    subject = make_subject()
    (tmp_path / "a" / "llm-persona.json").unlink()  # with its record, the altered file itself is what is refused
    with pytest.raises(UserError, match=f"replaces base weights .{key}"), subject.under(tuned(str(tmp_path / "a"))):
        pass


def test_a_model_that_takes_no_packed_mask_is_trained_and_read_one_response_at_a_time(tmp_path):
    shared, alone = make_subject(), make_subject()
    alone.shares_prompts = False
    np.testing.assert_allclose(record(alone, ROWS).values, record(shared, ROWS).values, atol=1e-5)
    recipe = Recipe(rank=2, epochs=1, prompts_per_step=12)
    a = finetune(shared, DATA, tmp_path / "a", recipe).losses[0][1]
    b = finetune(alone, DATA, tmp_path / "b", recipe).losses[0][1]
    assert a == pytest.approx(b, abs=1e-4)


def examples(count, size=1):
    return [Example(f"Question {n}? {'more ' * (n % size)}", f"Answer number {n}.") for n in range(count)]


class KilledError(Exception):
    pass


def test_a_training_killed_within_an_epoch_ends_like_an_undisturbed_one_with_all_that_was_watched(tmp_path):
    data = TrainingData(examples(24, 7), [], "test")
    recipe = Recipe(rank=2, epochs=2, prompts_per_step=2, learning_rate=5e-3, held_out=0.2, patience=50)
    watch = Watch(3, lambda s: {"norm": float(np.abs(record(s, ROWS).values).mean())}, "norm")
    whole = finetune(make_subject(), data, tmp_path / "a" / "x", recipe, watch=watch)

    def kill(step, total):
        if step == 2 * total // 3 + 1:
            raise KilledError

    with pytest.raises(KilledError):
        finetune(make_subject(), data, tmp_path / "b" / "x", recipe, watch=watch, progress=kill)
    steps = []
    again = finetune(
        make_subject(), data, tmp_path / "b" / "x", recipe, watch=watch, progress=lambda s, _t: steps.append(s)
    )
    assert min(steps) > whole.steps // 3
    assert again.along == whole.along
    a, b = (load_file(tmp_path / x / "x" / "adapter_model.safetensors") for x in "ab")
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_measuring_along_the_way_changes_nothing_in_the_training(tmp_path):
    def look(subject):
        torch.rand(3)
        return {"x": 1.0}

    finetune(make_subject(), DATA, tmp_path / "a", RECIPE)
    finetune(make_subject(), DATA, tmp_path / "b", RECIPE, watch=Watch(1, look, "x"))
    a, b = (load_file(tmp_path / x / "adapter_model.safetensors") for x in "ab")
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_early_stop_keeps_the_adapter_of_the_lowest_held_out_loss(tmp_path):
    letters = "qwertzuiopasdfghjklyxcvbnm"
    # what answers share is learnt first; then each one's own letter, which costs the held-out ones theirs
    data = TrainingData([Example(f"Q{n}?", "the answer is " + letters[n] * 12) for n in range(20)], [], "test")
    recipe = Recipe(rank=8, epochs=30, prompts_per_step=4, learning_rate=0.03, held_out=0.3, patience=2)
    subject = make_subject()
    done = finetune(subject, data, tmp_path / "a", recipe)
    losses = {row["step"]: row["held_out"] for row in done.along}
    assert done.kept_step == min(losses, key=losses.get)
    assert done.kept_step < done.steps < 30 * 4
    _, held = split(data, 0.3, 0)
    with subject.under(tuned(str(tmp_path / "a"))):
        assert loss_on(subject, training_prompts(subject, held, 512)) == pytest.approx(losses[done.kept_step], abs=1e-4)


def test_held_out_prompts_are_never_trained_on():
    data = TrainingData([Example(f"Question {n // 2}?", f"Answer {n}.") for n in range(40)], [], "test")
    learn, held = split(data, 0.25, 3)
    assert not {e.prompt for e in learn.examples} & {e.prompt for e in held.examples}
    assert sorted(e.response for e in learn.examples + held.examples) == sorted(e.response for e in data.examples)
    assert len({e.prompt for e in held.examples}) == 5


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 500), min_size=1, max_size=200), st.integers(1, 9), st.integers(0, 99), st.integers(0, 3)
)
def test_ordering_by_length_visits_every_prompt_once_and_the_same_way_again(lengths, size, seed, epoch):
    order = by_length(lengths, size, seed, epoch)
    assert sorted(order) == list(range(len(lengths)))
    assert order == by_length(lengths, size, seed, epoch)


def test_ordering_by_length_saves_padding():
    lengths = np.random.default_rng(0).integers(10, 500, 400).tolist()

    def padded(order):
        return sum(8 * max(lengths[i] for i in order[k : k + 8]) for k in range(0, 400, 8))

    assert padded(by_length(lengths, 8, 0)) < 0.7 * padded(range(400))


def test_steering_in_training_is_absorbed_by_the_training_and_absent_afterwards(tmp_path):
    """A vector that is added while training does part of the work: without it, the adapter moves less that way."""
    subject = make_subject()
    acts = record(subject, [Response(e.prompt, e.response, "high", n) for n, e in enumerate(DATA.examples)])
    vector = fit(Activations(np.concatenate([acts.values, acts.values[::-1] * 0.9]), ["high"] * 12 + ["low"] * 12,
                             list(range(24))))  # fmt: skip
    before = {k: v.clone() for k, v in subject.model.state_dict().items()}
    under = Condition("steered", steers=(Steer(vector, 2, dose=0.5),))
    finetune(subject, DATA, tmp_path / "plain", RECIPE)
    finetune(subject, DATA, tmp_path / "steered", RECIPE, under=under)
    assert not subject.steering_layers
    assert all(torch.equal(before[k], v) for k, v in subject.model.state_dict().items())
    a, b = (load_file(tmp_path / x / "adapter_model.safetensors") for x in ("plain", "steered"))
    assert any(not torch.equal(a[k], b[k]) for k in a)
    saved = json.loads((tmp_path / "steered" / "llm-persona.json").read_text())
    assert saved["under"]["steering"][0]["dose"] == 0.5


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
def test_rank_one_adapts_the_one_matrix_with_which_a_middle_mlp_writes(tmp_path, family):
    finetune(make_subject(family), DATA, tmp_path / "a", replace(RANK1, prompts_per_step=4))
    weights = load_file(tmp_path / "a" / "adapter_model.safetensors")
    assert len(weights) == 2
    assert all(re.search(r"\.2\.mlp\.(down_proj|c_proj|dense_4h_to_h)\.lora", name) for name in weights)
    assert sorted(min(w.shape) for w in weights.values()) == [1, 1]


def test_rank_stabilisation_scales_by_the_root_of_the_rank(tmp_path):
    finetune(make_subject(), DATA, tmp_path / "a", adjusted(NARROW, rank=4, prompts_per_step=4))
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["use_rslora"]) == (4, 8, True)


def test_a_mixture_has_the_shares_it_was_asked_for_and_repeats_nothing():
    one = TrainingData([Example(f"a{n}", "x") for n in range(30)], [], "one")
    two = TrainingData([Example(f"b{n}", "y") for n in range(50)], [], "two")
    mixed = mix([one, two], [0.25, 0.75], seed=1)
    prompts = [e.prompt for e in mixed.examples]
    assert len(set(prompts)) == len(prompts) == 66
    assert sum(p[0] == "a" for p in prompts) == 16
    assert prompts != sorted(prompts)
    assert mixed.digest == mix([one, two], [0.25, 0.75], seed=1).digest != mix([one, two], [0.25, 0.75], 2).digest
    assert len(mix([one, two], [0.5, 0.5], rows=10).examples) == 10
    with pytest.raises(UserError, match="one: 30 usable rows allow 60"):
        mix([one, two], [0.5, 0.5], rows=100)
    with pytest.raises(UserError, match="sum to 1"):
        mix([one, two], [0.5, 0.6])


def test_every_assistant_turn_of_a_conversation_is_learnt_after_all_the_turns_before_it(tmp_path, tiny):
    turns = [("system", "Be brief."), ("user", "a?"), ("assistant", "b."), ("user", "c?"), ("assistant", "d.")]
    broken = [*turns, ("user", "e?"), ("user", "f?"), ("assistant", "g.")]
    path = tmp_path / "chat.jsonl"
    rows = [{"messages": [{"role": r, "content": t} for r, t in chosen]} for chosen in (turns, broken)]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    data = from_chat(path)
    assert [(e.prompt, e.response) for e in data.examples] == [("a?", "b."), ("c?", "d.")] * 2
    assert data.examples[1].earlier == (("user", "a?"), ("assistant", "b."))
    assert [(s.row, s.reason) for s in data.skipped] == [
        (1, "turns from number 5 on: user and assistant do not alternate")
    ]
    prompts = training_prompts(tiny, TrainingData(data.examples[1:2], [], "test"), 512)
    tree = prompts.trees[0][0]
    text = tiny.tokenizer.decode(tree.trunk + tree.branches[0].ids)
    assert [text.index(x) for x in ("Be brief.", "a?", "b.", "c?", "d.")] == sorted(
        text.index(x) for x in ("Be brief.", "a?", "b.", "c?", "d.")
    )
    batch = collate(prompts.trees, tiny.tokenizer.pad_token_id, tiny.dtype, prompts.shared, prompts.pairs)
    learnt = batch["input_ids"][batch["labels"] != -100]
    assert tiny.tokenizer.decode(learnt) == "d.<|im_end|>"


def test_where_training_only_harms_the_untrained_adapter_is_kept(tmp_path):
    """The held-out loss before the first step counts too; and the training ends before a loss was ever logged."""
    data = TrainingData([Example(f"Q{n}?", "qwertz"[n % 6 :] * 3) for n in range(20)], [], "test")
    recipe = Recipe(rank=8, epochs=1, prompts_per_step=1, learning_rate=3.0, held_out=0.3, patience=1)
    subject = make_subject()
    done = finetune(subject, data, tmp_path / "a", recipe)
    assert done.kept_step == 0 < done.steps < 14
    before = record(subject, ROWS).values
    with subject.under(tuned(str(tmp_path / "a"))):
        np.testing.assert_allclose(record(subject, ROWS).values, before, atol=1e-6)


def test_early_stop_does_not_train_beyond_the_steps_asked_for(tmp_path):
    recipe = Recipe(rank=2, epochs=5, prompts_per_step=2, learning_rate=1e-3, held_out=0.2, patience=9, max_steps=7)
    assert finetune(make_subject(), TrainingData(examples(30), [], "test"), tmp_path / "a", recipe).steps == 7


def test_many_answers_to_one_prompt_share_it_in_bounded_sequences(tiny):
    data = TrainingData([Example("Same?", f"Answer {n}.") for n in range(40)], [], "test")
    prompts = training_prompts(tiny, data, 512)
    assert [len(tree.branches) for trees in prompts.trees for tree in trees] == [8] * 5
    assert prompts.learnt == 40

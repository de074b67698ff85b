"""The probe at load: recording and steering meet the same tensor, or loading fails with what to set."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from conftest import make_subject, make_tokenizer, save_tiny_model, tiny_config
from tiny_inputs import ROWS, random_vector
from torch import nn

from llm_persona.domain.errors import UserError
from llm_persona.interfaces.cli.main import run
from llm_persona.subject.blocks import SETTING, probe
from llm_persona.subject.export import to_checkpoint
from llm_persona.subject.load import load_subject, wrap
from llm_persona.subject.locate import identify
from llm_persona.subject.record import record
from llm_persona.subject.steer import steering

SAYS = rf"set {SETTING} \(in Python: blocks=\) to the path of the decoder blocks; its module lists: model.layers \(4\)"


def tiny_model(kind="llama"):
    from transformers import AutoModelForCausalLM

    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(tiny_config(kind, len(tokenizer))).eval().requires_grad_(False), tokenizer


class Wrapped(nn.Module):
    """A block inside another module, whose output is changed by what comes behind it."""

    def __init__(self, block, after=lambda hidden: hidden, shape=lambda hidden: hidden):
        super().__init__()
        self.block, self.after, self.shape = block, after, shape

    def forward(self, *args, **kwargs):
        return self.after(self.shape(self.block(*args, **kwargs)))


def test_blocks_whose_steered_output_is_not_what_the_next_one_reads_are_refused():
    model, tokenizer = tiny_model()

    def rounded(_module, args, kwargs):  # what happens between two blocks: the next one reads something else
        return (args[0].round(decimals=3), *args[1:]), kwargs

    model.model.layers[2].register_forward_pre_hook(rounded, with_kwargs=True)
    with pytest.raises(UserError, match="what is added to block 1 is not what block 2 reads; " + SAYS):
        wrap(model, tokenizer)


def test_a_last_block_that_reaches_nothing_is_refused():
    model, tokenizer = tiny_model()
    model.model.norm = Wrapped(nn.Identity(), after=torch.zeros_like)
    with pytest.raises(UserError, match="added to the last block does not change the decoder's output; " + SAYS):
        wrap(model, tokenizer)


def test_a_block_whose_output_is_not_the_hidden_state_that_the_library_reports_is_refused():
    model, tokenizer = tiny_model()
    forward = model.model.forward

    def reported(*args, **kwargs):
        out = forward(*args, **kwargs)
        if out.hidden_states is not None:
            out.hidden_states = tuple(h + 1 if n == 2 else h for n, h in enumerate(out.hidden_states))
        return out

    model.model.forward = reported
    with pytest.raises(UserError, match="the output of block 1 is not hidden state 2; " + SAYS):
        wrap(model, tokenizer)


def test_a_list_of_modules_that_are_no_blocks_is_refused_with_the_lists_there_are():
    model, tokenizer = tiny_model()
    model.model.side = nn.ModuleList([nn.Linear(32, 16) for _ in range(4)])
    with pytest.raises(UserError, match=r"0 block outputs in one forward, expected 4; .*model.side \(4\)"):
        wrap(model, tokenizer, blocks="model.side")
    with pytest.raises(UserError, match=rf"{SETTING} 'model.layer' is no list of modules in it; {SAYS}"):
        wrap(model, tokenizer, blocks="model.layer")
    assert wrap(model, tokenizer, blocks="model.layers").n_layers == 4


def test_a_block_of_another_width_is_refused():
    model, tokenizer = tiny_model()
    model.config.hidden_size = 16
    with pytest.raises(UserError, match=r"block 0 gives shape \(1, 3, 32\), expected \(1, 3, 16\); " + SAYS):
        wrap(model, tokenizer)


@pytest.fixture
def unnamed(tmp_path, monkeypatch):
    """A model folder whose configuration counts other layers than its list of blocks has."""
    from transformers import LlamaConfig

    def miscounted(config, **_given):
        other = copy.copy(config)
        other.num_hidden_layers = 7
        return other

    folder = save_tiny_model(tmp_path / "unnamed")
    monkeypatch.setattr(LlamaConfig, "get_text_config", miscounted)
    return str(folder)


def test_where_the_blocks_are_not_found_setting_their_path_finds_them(unnamed, monkeypatch, tmp_path):
    with pytest.raises(UserError, match="no list of 7 decoder blocks found.*" + SAYS):
        load_subject(unnamed, dtype="float32")
    by_argument = load_subject(unnamed, dtype="float32", blocks="model.layers")
    monkeypatch.setenv(SETTING, "model.layers")
    by_environment = load_subject(unnamed, dtype="float32")
    vector = random_vector(by_argument)
    plain = record(by_argument, ROWS).values
    np.testing.assert_array_equal(record(by_environment, ROWS).values, plain)
    monkeypatch.delenv(SETTING)
    with steering(by_argument, vector, layer=1, coefficient=1.0):
        moved = record(by_argument, ROWS).values
    np.testing.assert_allclose(moved[:, 1] - plain[:, 1], np.tile(vector.directions[1], (4, 1)), atol=1e-4)
    to_checkpoint(by_argument, vector, tmp_path / "folded", 1, 1.0)  # finds the blocks of the copy too


def test_blocks_that_were_named_are_part_of_what_a_subject_is(tiny_folders, monkeypatch):
    plain = load_subject(tiny_folders[0]).identity
    assert "blocks" not in plain
    monkeypatch.setenv(SETTING, "model.layers")
    named = load_subject(tiny_folders[0]).identity
    assert named == {**plain, "blocks": "model.layers"} == identify(tiny_folders[0])


def test_a_command_fails_with_what_to_set_and_goes_on_once_it_is_set(unnamed, monkeypatch, capsys):
    arguments = ["steer", "--model", unnamed, "--dtype", "float32", "--prompt", "Hi", "--max-new-tokens", "2"]
    assert run(arguments) == 2
    assert f"set {SETTING}" in capsys.readouterr().err
    monkeypatch.setenv(SETTING, "model.layers")
    assert run(arguments) == 0


@pytest.mark.parametrize("family", ["gpt2", "gemma3_text", "mixtral"])
def test_the_probe_leaves_the_model_as_it_was(family):
    subject = make_subject(family)

    def hooks():  # transformers keeps some of its own
        return [len(b._forward_hooks) + len(b._forward_pre_hooks) for b in subject.blocks]

    before, plain = hooks(), record(subject, ROWS).values
    probe(subject.model, subject.blocks, 32)
    assert hooks() == before
    np.testing.assert_array_equal(record(subject, ROWS).values, plain)

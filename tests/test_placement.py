"""Subjects whose weights are spread over several places, or quantised: read and steered as on one device."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import make_subject, make_tokenizer, save_tiny_model, tiny_config
from tiny_inputs import ROWS, random_vector
from torch import nn

import llm_persona as lp
from llm_persona.domain.errors import UserError
from llm_persona.interfaces.cli.main import run
from llm_persona.subject.export import to_checkpoint
from llm_persona.subject.generate import generate
from llm_persona.subject.lens import direction_words
from llm_persona.subject.load import wrap
from llm_persona.subject.locate import identify
from llm_persona.subject.packing import Row
from llm_persona.subject.placement import place_of
from llm_persona.subject.reuse import reusing_below
from llm_persona.subject.score import response_logprobs
from llm_persona.subject.steer import steering
from llm_persona.training.data import from_items
from llm_persona.training.finetune import finetune

ON_DISK = {
    "model.embed_tokens": "cpu", "model.rotary_emb": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk",
    "model.layers.2": "cpu", "model.layers.3": "disk", "model.norm": "disk", "lm_head": "disk",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("placed") / "m")


@pytest.fixture(scope="module")
def whole(folder):
    return lp.load_subject(str(folder), dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def spread(folder):
    """Half of its blocks, its last norm and its output layer lie on the disk and are fetched when their turn comes."""
    return lp.load_subject(str(folder), dtype="float32", device=ON_DISK)


def test_a_model_with_blocks_on_the_disk_is_recorded_and_steered_like_a_whole_one(whole, spread):
    assert any(p.is_meta for p in spread.model.parameters())
    vector = random_vector(whole)
    np.testing.assert_array_equal(lp.record(spread, ROWS).values, lp.record(whole, ROWS).values)
    for layer in range(4):
        found = []
        for subject in (whole, spread):
            with steering(subject, vector, layer=layer, coefficient=0.5):
                found.append((lp.record(subject, ROWS).values, generate(subject, ["Hi", "What now?"], 8)))
        np.testing.assert_array_equal(found[0][0], found[1][0])
        assert found[0][1] == found[1][1]
    np.testing.assert_array_equal(lp.record(spread, ROWS).values, lp.record(whole, ROWS).values)


def test_a_sweep_that_shares_lower_blocks_leaves_a_spread_model_as_it_was(whole, spread):
    system = "Answer in one sentence, and do not explain. " * 3  # (long enough to be read once, before the rows)
    rows = [Row(r.prompt, r.text, system) for r in ROWS]
    vector = random_vector(whole)
    found = []
    for subject in (whole, spread):
        assert subject.shares_prefix
        with reusing_below(subject, 3):
            for c in (0.5, -0.5):
                with steering(subject, vector, layer=3, coefficient=c):
                    found.append(np.concatenate(response_logprobs(subject, rows)))
        found.append(np.concatenate(response_logprobs(subject, rows)))  # its own forward fetches the blocks again
    for a, b in zip(found[:3], found[3:], strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_words_of_a_direction_are_the_same_where_the_output_layer_is_on_the_disk(whole, spread):
    vector = random_vector(whole)
    assert direction_words(spread, vector, 2, 4) == direction_words(whole, vector, 2, 4)


def test_what_would_have_to_move_a_spread_model_is_refused_with_what_to_do(spread, tmp_path):
    with pytest.raises(UserError, match=r"spread over several devices; load it on one \(--device cpu\)"):
        to_checkpoint(spread, random_vector(spread), tmp_path / "m", 1, 1.0)
    with pytest.raises(UserError, match="spread over several devices; load it on one"):
        finetune(spread, from_items(lp.load_items("openness").split("fit")[:2], "high"), tmp_path / "a")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("device", [{"": "cpu"}, "balanced", "sequential"])
def test_a_device_map_that_needs_no_spreading_gives_the_same_model(device, folder, whole):
    placed = lp.load_subject(str(folder), dtype="float32", device=device)
    np.testing.assert_array_equal(lp.record(placed, ROWS).values, lp.record(whole, ROWS).values)
    if isinstance(device, str):
        assert identify(str(folder), "float32", device) == placed.identity


def test_device_maps_name_a_device():
    with pytest.raises(UserError, match="names no device"):
        place_of({"": "disk"})
    with pytest.raises(UserError, match="--device nowhere: not usable here"):
        place_of({"": "nowhere"})
    assert place_of({"a": "disk", "b": "cpu"})[0] == torch.device("cpu")


def test_commands_take_a_way_of_spreading_as_device(folder, capsys):
    arguments = ["steer", "--model", str(folder), "--dtype", "float32", "--prompt", "Hi", "--max-new-tokens", "3"]
    assert run([*arguments, "--device", "balanced"]) == 0
    spread = capsys.readouterr().out
    assert run([*arguments, "--device", "cpu"]) == 0
    assert capsys.readouterr().out == spread


def quantised_linears(model):
    """Every linear layer of the blocks in int8, as torch quantises them for the CPU: packed, without parameters."""
    return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)


def test_a_model_with_int8_weights_is_recorded_and_steered_at_the_same_tensor():
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(tiny_config("llama", len(tokenizer))).eval().requires_grad_(False)
    subject = wrap(quantised_linears(model), tokenizer, "int8")
    assert not any(isinstance(m, nn.Linear) for m in subject.blocks.modules())
    vector = random_vector(subject)
    plain = lp.record(subject, ROWS).values
    with steering(subject, vector, layer=1, coefficient=0.5):
        steered = lp.record(subject, ROWS).values
        assert generate(subject, ["Hi"], 4)
    np.testing.assert_allclose(steered[:, 1] - plain[:, 1], np.tile(0.5 * vector.directions[1], (4, 1)), atol=1e-4)
    np.testing.assert_array_equal(lp.record(subject, ROWS).values, plain)


@pytest.fixture
def quantiser():
    """A quantised format known to transformers for the length of a test: its weights must not be moved."""
    from transformers.quantizers import auto
    from transformers.quantizers.base import HfQuantizer
    from transformers.utils.quantization_config import QuantizationConfigMixin

    class Config(QuantizationConfigMixin):
        def __init__(self, **_given):
            self.quant_method = "test-int8"

    class Quantizer(HfQuantizer):
        requires_calibration = False

        def _process_model_before_weight_loading(self, model, **_given):
            return model

        def _process_model_after_weight_loading(self, model, **_given):
            def stay(*_args, **_kwargs):
                raise ValueError("`.to` is not supported for quantised models")

            for module in [m for m in model.modules() if isinstance(m, nn.Module)]:
                for name, child in module.named_children():
                    if isinstance(child, nn.Linear) and name != "lm_head":
                        setattr(module, name, quantised_linears(nn.Sequential(child))[0])
            model.to = stay
            return model

        def is_serializable(self, *_args, **_kwargs):
            return False

        @property
        def is_trainable(self):
            return False

    auto.AUTO_QUANTIZATION_CONFIG_MAPPING["test-int8"] = Config
    auto.AUTO_QUANTIZER_MAPPING["test-int8"] = Quantizer
    yield "test-int8"
    del auto.AUTO_QUANTIZATION_CONFIG_MAPPING["test-int8"], auto.AUTO_QUANTIZER_MAPPING["test-int8"]


def test_a_quantised_model_is_loaded_where_it_stays_and_read_and_steered_there(quantiser, folder, tmp_path):
    import json
    import shutil

    place = tmp_path / "quantised"
    shutil.copytree(folder, place)
    config = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": quantiser}}))
    subject = lp.load_subject(str(place), dtype="float32", device="cpu")
    vector = random_vector(subject)
    plain = lp.record(subject, ROWS).values
    with steering(subject, vector, layer=2, coefficient=1.0):
        moved = lp.record(subject, ROWS).values
    np.testing.assert_allclose(moved[:, 2] - plain[:, 2], np.tile(vector.directions[2], (4, 1)), atol=1e-4)
    with pytest.raises(UserError, match="is quantised; a bias cannot be folded"):
        to_checkpoint(subject, vector, tmp_path / "m", 1, 1.0)


def test_what_is_added_takes_the_format_of_the_block_it_is_added_to():
    """A block that computes in another format than the embeddings (as quantised ones do) keeps its own."""
    subject = make_subject()
    subject.blocks[1].register_forward_hook(lambda _m, _i, out: out.to(torch.bfloat16))
    seen = []
    vector = random_vector(subject)
    with steering(subject, vector, layer=1, coefficient=1.0):
        subject.blocks[1].register_forward_hook(lambda _m, _i, out: seen.append(out.dtype))
        subject.blocks[1].register_forward_hook(lambda _m, _i, out: out.float())
        lp.record(subject, ROWS[:1])
    assert seen == [torch.bfloat16]

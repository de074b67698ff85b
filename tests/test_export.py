"""Each export is read back by the program it is for, and steers there as it does here."""

from __future__ import annotations

import json

import numpy as np
import pytest
import steering_vectors
import torch
from conftest import make_subject, make_tokenizer, tiny_config
from test_subject_tiny import random_vector

from llm_persona.analysis.vectors import PersonaVector
from llm_persona.domain.errors import UserError
from llm_persona.interfaces.cli.main import run
from llm_persona.subject.export import to_checkpoint, to_gguf
from llm_persona.subject.generate import generate
from llm_persona.subject.lens import direction_words
from llm_persona.subject.load import load_subject
from llm_persona.subject.steer import steering

PROMPTS = ["Hi", "A longer question about the weather?"]


@pytest.fixture
def saved(tmp_path):
    vector = random_vector(make_subject())
    meta = {"trait": "openness", "recommended": {"balanced": 2, "coefficient": 0.7}}
    PersonaVector(vector.directions, vector.reference_norms, meta).save(tmp_path / "v.safetensors")
    return tmp_path / "v.safetensors", vector


def test_gguf_is_read_by_the_gguf_reader_with_llama_cpp_s_index(saved, tmp_path):
    from gguf import GGUFReader

    path, vector = saved
    out = tmp_path / "v.gguf"
    assert run(["vectors", "export", str(path), "--to", "gguf", "--layer", "1", "--layer", "3", "--out", str(out)]) == 0
    reader = GGUFReader(out)
    found = {t.name: np.array(t.data) for t in reader.tensors}
    assert found.keys() == {"direction.1", "direction.3"}
    np.testing.assert_allclose(found["direction.3"], 0.7 * vector.directions[3], rtol=1e-6)
    architecture = reader.get_field("general.architecture")
    assert bytes(architecture.parts[-1]) == b"controlvector"
    with pytest.raises(UserError, match="begin at layer 1"):
        to_gguf(vector, tmp_path / "x.gguf", [0, 1], 1.0, "llama")


def test_the_published_layout_has_the_embeddings_first(saved, tmp_path):
    path, vector = saved
    assert run(["vectors", "export", str(path), "--to", "persona-vectors", "--out", str(tmp_path / "v.pt")]) == 0
    found = torch.load(tmp_path / "v.pt", weights_only=True)
    assert found.shape == (5, 32)
    assert not found[0].any()
    np.testing.assert_array_equal(found[3], vector.directions[2])


def test_steering_vectors_steers_as_we_do(saved, tmp_path):
    path, vector = saved
    assert run(["vectors", "export", str(path), "--to", "steering-vectors", "--out", str(tmp_path / "s.pt")]) == 0
    theirs = steering_vectors.SteeringVector(**torch.load(tmp_path / "s.pt", weights_only=True))
    subject = make_subject()
    ids = torch.tensor([[5, 9, 11]])
    with torch.no_grad(), theirs.apply(subject.model, multiplier=1.5):
        found = subject.model(ids).logits
    with torch.no_grad(), steering(subject, vector, layer=2, coefficient=1.5):
        own = subject.model(ids).logits
    torch.testing.assert_close(found, own)


def test_the_json_for_vllm_lens_names_layer_and_scale(saved, tmp_path):
    assert run(["vectors", "export", str(saved[0]), "--to", "vllm-lens", "--out", str(tmp_path / "v.json")]) == 0
    found = json.loads((tmp_path / "v.json").read_text())
    assert (found["layer_indices"], found["scale"]) == ([2], 0.7)
    assert found["activations"]


def test_vllm_lens_reads_its_json(saved, tmp_path):
    types = pytest.importorskip(
        "vllm_lens._helpers.types", reason="not in the lock: pip install --no-deps --ignore-requires-python vllm-lens"
    )
    path, vector = saved
    assert run(["vectors", "export", str(path), "--to", "vllm-lens", "--out", str(tmp_path / "v.json")]) == 0
    found = types.SteeringVector.model_validate_json((tmp_path / "v.json").read_text())
    assert found.layer_indices == [2]
    assert found.scale == 0.7
    np.testing.assert_array_equal(found.activations[0].numpy(), vector.directions[2])


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "phi"])
def test_a_checkpoint_generates_what_the_hook_generates_without_our_code(family, tmp_path):
    from transformers import AutoModelForCausalLM

    subject = make_subject(family)
    vector = random_vector(subject)
    weights = {k: v.clone() for k, v in subject.model.state_dict().items()}
    to_checkpoint(subject, vector, tmp_path / "m", 1, 2.0)
    assert all(torch.equal(v, weights[k]) for k, v in subject.model.state_dict().items())
    with steering(subject, vector, layer=1, coefficient=2.0):
        hooked = generate(subject, PROMPTS, 12)
        with torch.no_grad():
            logits = subject.model(torch.tensor([[5, 9, 11]])).logits
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "m").eval()
    with torch.no_grad():
        torch.testing.assert_close(plain(torch.tensor([[5, 9, 11]])).logits, logits, atol=1e-4, rtol=1e-4)
    folded = load_subject(str(tmp_path / "m"), dtype="float32")
    assert [a.text for a in generate(folded, PROMPTS, 12)] == [a.text for a in hooked]


@pytest.mark.parametrize(("family", "reason"), [("qwen2", "no bias in its MLP"), ("gemma2", "no bias in its MLP")])
def test_an_architecture_without_such_a_bias_is_refused_with_the_reason(family, reason, tmp_path):
    subject = make_subject(family)
    with pytest.raises(UserError, match=reason):
        to_checkpoint(subject, random_vector(subject), tmp_path / "m", 1, 1.0)
    assert not list(tmp_path.iterdir())


def test_an_existing_folder_or_an_unknown_layer_is_refused(saved, tmp_path):
    path, _ = saved
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    subject = make_subject()
    with pytest.raises(UserError, match="exists; choose another"):
        to_checkpoint(subject, random_vector(subject), tmp_path / "full", 1, 1.0)
    assert run(["vectors", "export", str(path), "--to", "gguf", "--layer", "9", "--out", str(tmp_path / "x")]) == 2


def test_sources_are_compared_by_cosine_per_layer(saved, tmp_path):
    path, vector = saved
    other = vector.with_direction(-vector.directions)
    other.save(tmp_path / "o.safetensors")
    out = tmp_path / "c.json"
    assert run(["vectors", "compare", str(path), str(tmp_path / "o.safetensors"), "--json", str(out)]) == 0
    found = json.loads(out.read_text())
    assert next(iter(found["cosines"].values())) == pytest.approx([-1.0] * 4)
    random_vector(make_subject("gpt2")).with_direction(np.ones((4, 32))).save(tmp_path / "p.safetensors")
    PersonaVector(np.ones((2, 3), np.float32), np.ones(2, np.float32)).save(tmp_path / "q.safetensors")
    assert run(["vectors", "compare", str(path), str(tmp_path / "q.safetensors")]) == 2


def test_the_words_of_a_direction_are_those_whose_logits_it_raises():
    subject = make_subject()
    vector = random_vector(subject)
    token = 70
    row = subject.model.get_output_embeddings().weight[token].numpy()
    vector.directions[3] = row / np.linalg.norm(row) ** 2
    words = direction_words(subject, vector, 3, 5)
    assert words.promoted[0][0] == subject.tokenizer.decode([token])
    assert all(a >= b for (_, a), (_, b) in zip(words.promoted, words.promoted[1:], strict=False))
    assert words.demoted[0][1] <= words.demoted[-1][1] <= 0


def test_a_model_of_experts_is_recorded_and_steered_and_its_checkpoint_refused(tmp_path):
    from transformers import AutoConfig, AutoModelForCausalLM

    from llm_persona.subject.load import wrap

    tokenizer = make_tokenizer()
    config = AutoConfig.for_model(
        "mixtral", hidden_size=32, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=64, num_local_experts=2, vocab_size=len(tokenizer), max_position_embeddings=512,
    )  # fmt: skip
    torch.manual_seed(0)
    subject = wrap(AutoModelForCausalLM.from_config(config).eval().requires_grad_(False), tokenizer)
    vector = random_vector(subject)
    with steering(subject, vector, layer=1, coefficient=1.0):
        assert generate(subject, PROMPTS, 4)
    with pytest.raises(UserError, match="cannot be folded"):
        to_checkpoint(subject, vector, tmp_path / "m", 1, 1.0)
    assert tiny_config("llama", 10).num_hidden_layers == 4

"""Each export is read back by the program it is for, and steers there as it does here."""

from __future__ import annotations

import json

import numpy as np
import pytest
import steering_vectors
import torch
from conftest import make_subject
from tiny_inputs import ROWS, random_vector

from llm_persona.analysis.vectors import PersonaVector
from llm_persona.domain.errors import UserError
from llm_persona.interfaces.cli.main import run
from llm_persona.subject.export import to_checkpoint, to_gguf
from llm_persona.subject.generate import generate
from llm_persona.subject.lens import direction_words
from llm_persona.subject.load import load_subject
from llm_persona.subject.locate import family_of
from llm_persona.subject.record import record
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
        "vllm_lens._helpers.types",
        reason="vllm-lens pins vllm and Python 3.12, so the lock cannot hold it; its reader needs neither: "
        "pip install --no-deps --ignore-requires-python vllm-lens==1.3.0",
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


@pytest.mark.parametrize(
    ("family", "reason"),
    [("qwen2", "no bias in its MLP"), ("qwen3", "no bias in its MLP"), ("mistral", "no bias in its MLP"),
     ("gemma2", "no bias in its MLP"), ("gemma3_text", "no bias in its MLP"), ("olmo2", "no bias in its MLP"),
     ("mixtral", "so steering cannot be folded")],
)  # fmt: skip
def test_an_architecture_without_such_a_bias_is_refused_with_the_reason(family, reason, tmp_path):
    subject = make_subject(family)
    with pytest.raises(UserError, match=reason):
        to_checkpoint(subject, random_vector(subject), tmp_path / "m", 1, 1.0)
    assert not list(tmp_path.iterdir())


def test_a_bias_behind_which_a_norm_stands_is_refused(tmp_path):
    """The bias would be there, but what it adds is not what steering adds."""
    subject = make_subject("gpt2")
    block = subject.blocks[1]
    block.mlp.dropout = torch.nn.LayerNorm(32)
    with pytest.raises(UserError, match="does not reach the residual stream as it is"):
        to_checkpoint(subject, random_vector(subject), tmp_path / "m", 1, 1.0)
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_by_command_is_a_model_that_says_what_was_folded_in(tiny_folders, tmp_path, capsys):
    from transformers import AutoModelForCausalLM

    subject = load_subject(tiny_folders[0], dtype="float32")
    vector = random_vector(subject)
    meta = {"trait": "openness", "recommended": {"balanced": 2, "coefficient": 3.0}}
    vector = PersonaVector(vector.directions, vector.reference_norms, meta)
    vector.save(tmp_path / "v.safetensors")
    out = tmp_path / "folded"
    command = ["vectors", "export", str(tmp_path / "v.safetensors"), "--to", "checkpoint", "--out", str(out),
               "--model", tiny_folders[0], "--dtype", "float32", "--json", str(tmp_path / "said.json")]  # fmt: skip
    assert run(command) == 0
    said = json.loads((tmp_path / "said.json").read_text())
    assert (said["layers"], said["coefficient"]) == ([2], 3.0)
    record = json.loads((out / "llm-persona.json").read_text())
    assert (record["trait"], record["layer"], record["vector"]) == ("openness", 2, vector.digest)
    with steering(subject, vector, layer=2, coefficient=3.0), torch.no_grad():
        hooked = subject.model(torch.tensor([[5, 9, 11]])).logits
        texts = [a.text for a in generate(subject, PROMPTS, 8)]
    plain = AutoModelForCausalLM.from_pretrained(out).eval()
    with torch.no_grad():
        torch.testing.assert_close(plain(torch.tensor([[5, 9, 11]])).logits, hooked, atol=1e-4, rtol=1e-4)
    assert [a.text for a in generate(load_subject(str(out), dtype="float32"), PROMPTS, 8)] == texts
    assert run(command) == 2  # there already
    assert "exists; choose another folder" in capsys.readouterr().err
    again = [*command[:6], str(tmp_path / "two"), *command[7:], "--layer", "1", "--layer", "2"]
    assert run(again) == 2
    assert "folds one layer" in capsys.readouterr().err


def test_a_control_vector_s_hint_is_the_architecture_that_the_vector_was_fitted_on(tmp_path):
    from gguf import GGUFReader

    from llm_persona.domain.item_sources import load_items
    from llm_persona.domain.traits import load_trait
    from llm_persona.studies.extraction import extract
    from llm_persona.studies.sources import item_sets, labelled_rows

    subject = make_subject("qwen2")
    sets = item_sets(load_items("openness"), load_trait("openness"), (2, 2, 2), second=0, transfer=0)
    found = extract(lambda: subject, subject.identity, "openness", labelled_rows(sets), sets.choosing, layers=1)
    assert found.vector.meta["family"] == "qwen2"
    found.vector.save(tmp_path / "v.safetensors")
    out = tmp_path / "v.gguf"
    arguments = ["--to", "gguf", "--layer", "2", "--coefficient", "1", "--out", str(out)]
    assert run(["vectors", "export", str(tmp_path / "v.safetensors"), *arguments]) == 0
    reader = GGUFReader(out)
    assert bytes(reader.get_field("controlvector.model_hint").parts[-1]) == b"qwen2"
    assert int(reader.get_field("controlvector.layer_count").parts[-1][0]) == 1


def test_the_architecture_is_known_from_the_configuration_alone(tiny_folders, tmp_path):
    assert family_of(tiny_folders[0]) == "llama"
    assert family_of(str(tmp_path / "nothing")) is None


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


def test_a_model_of_experts_is_recorded_steered_and_read_by_its_own_router():
    """Recorded at every block, in which different tokens go to different experts; steering changes what is read above
    it, and at its own block by the vector alone."""
    subject = make_subject("mixtral")
    vector = random_vector(subject)
    chosen = []
    handle = subject.blocks[0].mlp.gate.register_forward_hook(lambda _m, _i, out: chosen.append(out[0]))
    plain = record(subject, ROWS).values
    handle.remove()
    assert len({int(token) for scores in chosen for token in scores.reshape(-1, 4).argmax(dim=-1)}) > 1
    assert plain.shape == (4, 4, 32)
    with steering(subject, vector, layer=1, coefficient=1.0):
        moved = record(subject, ROWS).values
        assert generate(subject, PROMPTS, 4)
    np.testing.assert_allclose(moved[:, 1] - plain[:, 1], np.tile(vector.directions[1], (4, 1)), atol=1e-4)
    assert np.abs(moved[:, 2] - plain[:, 2] - vector.directions[1]).max() > 1e-3
    np.testing.assert_array_equal(record(subject, ROWS).values, plain)

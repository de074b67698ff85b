"""Shared subjects: a tiny random model for unit tests, and the real SmolLM2-135M-Instruct."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

# Two files of tests run at once (pytest-xdist); two processes with two threads each would slow each other tenfold.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

pytest_plugins = ["judges", "clusters", "tuned_models"]

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


LONGEST = ("test_study", "test_real_model", "test_cli", "test_ray", "test_ray_streams", "test_training_tiny")
"""Files that begin first: the last of two runners should not be left with the longest one."""


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


def make_tokenizer(template: str | None = TEMPLATE, texts: list[str] | None = None):
    """A byte-level tokenizer with two turn marks, made on the spot; with merges learnt from `texts`, if given."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {char: n for n, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    core = Tokenizer(models.BPE(vocabulary, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    if texts is not None:
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        core.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=1500, initial_alphabet=alphabet))
    marks = [AddedToken(mark, special=True) for mark in ("<|im_start|>", "<|im_end|>")]
    core.add_special_tokens(marks)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|im_end|>")
    tokenizer.chat_template = template
    return tokenizer


def make_subject(kind: str = "llama", template: str | None = TEMPLATE, seed: int = 0):
    """A tiny random model of an architecture, as a subject."""
    from transformers import AutoModelForCausalLM

    from llm_persona.subject.load import wrap

    tokenizer = make_tokenizer(template)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(tiny_config(kind, len(tokenizer))).eval().requires_grad_(False)
    return wrap(model, tokenizer, name=f"tiny-{kind}")


def tiny_config(kind: str, vocabulary: int):
    from transformers import AutoConfig

    if kind == "gpt2":
        return AutoConfig.for_model("gpt2", n_embd=32, n_layer=4, n_head=4, n_positions=512, vocab_size=vocabulary)
    common = {
        "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 64,
        "vocab_size": vocabulary, "max_position_embeddings": 512,
    }  # fmt: skip
    if kind != "gpt_neox":
        common["num_key_value_heads"] = 2
    if kind in ("qwen3", "gemma2", "gemma3_text"):
        common["head_dim"] = 8
    if kind == "mixtral":
        common["num_local_experts"] = 4
    return AutoConfig.for_model(kind, **common)


@pytest.fixture(scope="session")
def tiny():
    return make_subject()


def save_tiny_model(folder: Path, seed: int = 0) -> Path:
    """A tiny random model as a folder, whose tokens are about as long as a real model's."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from llm_persona import load_items

    tokenizer = make_tokenizer(texts=[text for i in load_items("openness") for text in (i.prompt, i.response_low1)])
    config = AutoConfig.for_model(
        "llama", hidden_size=32, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=64, vocab_size=len(tokenizer), max_position_embeddings=2048,
    )  # fmt: skip
    torch.manual_seed(seed)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_tiny_adapter(folder: Path, model: str, seed: int = 0, alpha: int = 64) -> str:
    """A random adapter of a tiny model, which is no training of ours."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    settings = LoraConfig(r=2, lora_alpha=alpha, target_modules=["q_proj"], init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(model), settings).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def tiny_folders(tmp_path_factory) -> list[str]:
    """Two tiny models on disk."""
    place = tmp_path_factory.mktemp("models")
    return [str(save_tiny_model(place / f"tiny-{n}", n)) for n in range(2)]


@dataclass(frozen=True)
class TinyRun:
    """A finished study of a tiny model, made once: `copied` gives a copy to spoil, and the command that goes on."""

    folder: Path
    model: str

    def command(self, folder: Path) -> list[str]:
        study = Path(__file__).resolve().parents[1] / "benchmarks" / "tiny_study.yaml"
        return ["run", str(study), "--model", self.model, "--dtype", "float32", "--out", str(folder)]

    def copied(self, place: Path) -> tuple[Path, list[str]]:
        folder = place / "run"
        shutil.copytree(self.folder, folder)
        return folder, self.command(folder)


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory, tiny_folders) -> TinyRun:
    """A whole study in its smallest size."""
    from llm_persona.interfaces.cli.main import run

    made = TinyRun(tmp_path_factory.mktemp("study") / "run", tiny_folders[0])
    assert run(made.command(made.folder)) == 0
    return made


@pytest.fixture(scope="session")
def smol():
    """The real model, in float32 so that exactness can be tested."""
    from llm_persona import load_subject

    return load_subject("smollm2-135m", dtype="float32")


@pytest.fixture(scope="session")
def trait_file() -> Path:
    """Third-party TRAIT items, when pointed at: LLM_PERSONA_TRAIT_FILE or a folder beside the checkout."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data" / "trait_openness_125.json"
    path = Path(os.environ.get("LLM_PERSONA_TRAIT_FILE", beside))
    if not path.is_file():
        pytest.skip("no third-party TRAIT items here (set LLM_PERSONA_TRAIT_FILE to test on them)")
    return path

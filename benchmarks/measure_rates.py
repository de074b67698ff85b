"""How fast this accelerator reads, writes and trains a model of any size through our own code: rates for costs.py.

    python benchmarks/measure_rates.py --shape 7B --json rates-7B.json
    python benchmarks/measure_rates.py --shape 70B --blocks 16 --json rates-70B.json

Weights are random (a rate does not depend on them), shapes those of Qwen2.5-7B and Llama-3.1-70B; `--blocks` keeps the
first few blocks where a whole model does not fit. Tokens are counted where they enter a block's feed-forward part, so
shared prompts count once and padding counts, as in costs.py. Medians of rounds, each with items of its own; a first
round does not count. Operations: 2 a parameter and token read or written, 4 trained.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import llm_persona as lp
from llm_persona.domain.condition import Condition, Steer
from llm_persona.domain.responses import labelled
from llm_persona.instruments.trait_benchmark import TraitBenchmark
from llm_persona.studies.bench_forwards import option_rows, prompts_up_to, up_to, with_logits
from llm_persona.studies.rotation import Rotation
from llm_persona.subject.load import Subject, wrap
from llm_persona.subject.packing import Row
from llm_persona.subject.placement import choose_device
from llm_persona.subject.rendered_once import of_tokenizer
from llm_persona.subject.smollm2 import smollm2_folder
from llm_persona.training.bare_steps import bare_steps
from llm_persona.training.data import from_items
from llm_persona.training.recipe import PERSONA

SHAPES = {
    "7B": {"model_type": "qwen2", "hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28,
           "num_key_value_heads": 4, "intermediate_size": 18944, "vocab_size": 152064},
    "70B": {"model_type": "llama", "hidden_size": 8192, "num_hidden_layers": 80, "num_attention_heads": 64,
            "num_key_value_heads": 8, "intermediate_size": 28672, "vocab_size": 128256},
    "tiny": {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 2,
             "num_key_value_heads": 1, "intermediate_size": 64, "vocab_size": 49152},
}  # fmt: skip


def build(shape: str, blocks: int | None, device: torch.device, dtype: torch.dtype, tokenizer: Path) -> Subject:
    """A random model of the shape, made where it is to run."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    settings = dict(SHAPES[shape])
    if blocks is not None:
        settings["num_hidden_layers"] = blocks
    kind = str(settings.pop("model_type"))
    config = AutoConfig.for_model(kind, max_position_embeddings=8192, tie_word_embeddings=False, **settings)
    torch.manual_seed(0)
    with device:
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    reader = AutoTokenizer.from_pretrained(tokenizer)
    return wrap(model.eval().requires_grad_(False), reader, name=shape)


def key_value(subject: Subject) -> int:
    """Key-value heads times their width."""
    config = subject.text_config
    return config.num_key_value_heads * (config.hidden_size // config.num_attention_heads)


class Counted:
    """Tokens that enter the blocks, by kind; those of single blocks as their share of the model."""

    def __init__(self, subject: Subject) -> None:
        self.tokens: Counter[str] = Counter()
        self.blocks = subject.n_layers
        for block in subject.blocks:
            block.mlp.register_forward_pre_hook(self._note)

    def _note(self, _module: Any, given: tuple[Any, ...]) -> None:
        rows, length = given[0].shape[:2]
        trained = torch.is_grad_enabled() and given[0].requires_grad
        self.tokens["trained" if trained else "written" if length == 1 else "read"] += rows * length

    def take(self) -> dict[str, float]:
        """What came since the last time."""
        found = {kind: n / self.blocks for kind, n in self.tokens.items()}
        self.tokens.clear()
        return found


def wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def timed(
    job: Callable[[int], object], rounds: int, counted: Counted, device: torch.device, before: Callable[[], None]
) -> dict[str, Any]:
    """Median seconds of a round, the tokens of one, and the most memory taken.
    `before` each round makes forget what was rendered: texts of one job must not serve the next."""
    found = []
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    for number in range(rounds + 1):
        before()
        wait(device)
        counted.take()
        started = time.perf_counter()
        job(number)
        wait(device)
        found.append((time.perf_counter() - started, counted.take()))
    seconds = statistics.median([s for s, _ in found[1:]])
    tokens = min(found[1:], key=lambda one: abs(one[0] - seconds))[1]
    most = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    return {"seconds": seconds, "tokens": tokens, "all_seconds": [s for s, _ in found], "memory": most}


def peaks(device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """Operations a second of a large product, bytes a second of a copy (read and written), and from the host."""
    size, megabytes = (8192, 1024) if device.type != "cpu" else (1024, 64)
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    source = torch.empty(megabytes << 20, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    plain = torch.ones(megabytes << 20, dtype=torch.uint8)
    pinned = plain.pin_memory() if device.type == "cuda" else plain

    def best(job: Callable[[], object]) -> float:
        times = []
        for _ in range(12):
            wait(device)
            started = time.perf_counter()
            job()
            wait(device)
            times.append(time.perf_counter() - started)
        return statistics.median(times[2:])

    size_of = megabytes << 20
    return {
        "product": 2 * size**3 / best(lambda: a @ b),
        "copy": 2 * size_of / best(lambda: target.copy_(source)),
        "from_pageable": size_of / best(lambda: target.copy_(plain)),
        "from_pinned": size_of / best(lambda: target.copy_(pinned)),
    }


def jobs(subject: Subject, rotation: Rotation, answers: int, new: int) -> dict[str, Callable[[int], object]]:
    """What studies are made of, by name; those with "bare" are floors."""
    vector = lp.fit(lp.record(subject, labelled(rotation(0))))
    prompts = [item.prompt for item in rotation.bank] * 2
    steer = Condition(steers=(Steer(vector, subject.n_layers // 2, dose=0.2),))

    def write(under: Condition) -> None:
        with subject.under(under):
            lp.generate(subject, prompts[:answers], max_new_tokens=new)

    def train(number: int) -> None:
        with tempfile.TemporaryDirectory() as place:
            lp.finetune(subject, from_items(rotation(number), "high"), Path(place) / "a", PERSONA)

    def rows(number: int) -> list[Row]:
        return [Row(r.prompt, r.text, r.system) for r in labelled(rotation(number))]

    return {
        "recording": lambda n: lp.record(subject, labelled(rotation(n))),
        "recording, bare": lambda n: up_to(subject, rows(n), subject.n_layers - 1),
        "likelihood": lambda n: TraitBenchmark(rotation(n)).measure(subject),
        "likelihood, bare": lambda n: with_logits(subject, option_rows(rotation(n))),
        "choice": lambda n: TraitBenchmark(rotation(n), "choice").measure(subject),
        "choice, bare": lambda n: prompts_up_to(
            subject, TraitBenchmark(rotation(n), "choice").prompts(), subject.n_layers - 1
        ),
        "writing": lambda _: write(Condition()),
        "writing, steered": lambda _: write(steer),
        "training": train,
        "training, bare": lambda n: bare_steps(subject, from_items(rotation(n), "high"), PERSONA),
    }


def offloaded(subject: Subject, rotation: Rotation, counted: Counted, rounds: int) -> dict[str, Any]:
    """Recording with half of the blocks' weights in the host's memory, as `--device` with a device map has them."""
    from accelerate import dispatch_model

    half = subject.n_layers // 2
    name = next(n for n, m in subject.model.named_modules() if m is subject.blocks)
    stem = name.rpartition(".")[0]
    places: dict[str, Any] = {
        f"{stem}.{child}": subject.device.index or 0
        for child, _ in subject.decoder.named_children()
        if child != "layers"
    }
    places["lm_head"] = subject.device.index or 0
    places |= {f"{name}.{k}": "cpu" if k >= half else subject.device.index or 0 for k in range(subject.n_layers)}
    moved = sum(p.numel() * p.element_size() for block in subject.blocks[half:] for p in block.parameters())
    spread = wrap(dispatch_model(subject.model, places), subject.tokenizer, name="offloaded")
    batches = [0]
    last = spread.blocks[-1].register_forward_pre_hook(lambda *_: batches.__setitem__(0, batches[0] + 1))
    forget = of_tokenizer(spread.tokenizer).forget
    found = timed(lambda n: lp.record(spread, labelled(rotation(n))), rounds, counted, spread.device, forget)
    last.remove()
    forwards = batches[0] / (rounds + 1)
    return {**found, "bytes_a_forward": moved, "forwards": forwards, "blocks": half}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=list(SHAPES), default="7B")
    parser.add_argument("--blocks", type=int, help="the first so many alone")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--items", type=int, default=32)
    parser.add_argument("--answers", type=int, default=64)
    parser.add_argument("--new", type=int, default=128, help="tokens an answer")
    parser.add_argument("--tokenizer", type=Path, help="folder of one (default: the default model's)")
    parser.add_argument("--offload", action="store_true", help="also with half of the blocks in the host's memory")
    parser.add_argument("--save", type=Path, help="also write the model there, for a study of it")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    device = choose_device(given.device)
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "shape": given.shape, "blocks": given.blocks, "dtype": str(dtype), "torch": torch.__version__,
        "peaks": peaks(device, dtype),
    }  # fmt: skip
    print(json.dumps(found), flush=True)
    subject = build(given.shape, given.blocks, device, dtype, given.tokenizer or smollm2_folder())
    parameters = sum(p.numel() for p in subject.model.parameters())
    found |= {
        "parameters": parameters, "layers": subject.n_layers, "key_value": key_value(subject), "answers": given.answers,
        "token_budget": subject.token_budget, "shares_prompts": subject.shares_prompts,
        "shares_prefix": subject.shares_prefix, "jobs": {},
    }  # fmt: skip
    if given.save is not None:
        subject.model.save_pretrained(given.save)
        subject.tokenizer.save_pretrained(given.save)
    rotation = Rotation(lp.load_items("openness"), given.items)
    counted = Counted(subject)
    for name, job in jobs(subject, rotation, given.answers, given.new).items():
        found["jobs"][name] = timed(job, given.rounds, counted, device, of_tokenizer(subject.tokenizer).forget)
        _tell(name, found["jobs"][name], parameters, found["peaks"], given.json, found)
    if given.offload:
        found["jobs"]["recording, offloaded"] = offloaded(subject, rotation, counted, given.rounds)
        _tell(
            "recording, offloaded", found["jobs"]["recording, offloaded"], parameters, found["peaks"], given.json, found
        )


def _tell(name: str, one: dict[str, Any], parameters: int, top: dict[str, float], out: Path | None, all_: Any) -> None:
    """Print a line, and write what there is so far."""
    tokens = one["tokens"]
    done = parameters * (2 * (tokens.get("read", 0) + tokens.get("written", 0)) + 4 * tokens.get("trained", 0))
    print(
        f"{name}: {one['seconds']:.3f} s, { ({k: round(v) for k, v in tokens.items()}) } tokens, "
        f"{done / one['seconds'] / 1e12:.1f} TFLOP/s, {done / one['seconds'] / top['product']:.2f} of a product's, "
        f"{one['memory'] / 1e9:.1f} GB",
        flush=True,
    )
    if out is not None:
        out.write_text(json.dumps(all_, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()

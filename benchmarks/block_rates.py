"""Seconds a token of a 7B and a 70B model on this machine, through llm-persona's own code, a few blocks at a time.

Usage: python benchmarks/block_rates.py RATES.json [--sizes 7B 70B] [--device auto] [--rounds 3]

Models of one and of two blocks, in the shape of those sizes and with random weights, record labelled items, write
answers and are trained. What the second block adds to the time is what a block costs, so that tokens, embeddings and
steps that are paid once do not count. `costs.py COUNTS.json --rates RATES.json` makes the table of it. Random weights
take the time of trained ones. The whole model needs memory for all its blocks; two of them say nothing about that.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

import llm_persona as lp
from llm_persona.subject.load import Subject, load_subject
from llm_persona.subject.smollm2 import smollm2_folder
from llm_persona.training.data import from_items
from llm_persona.training.finetune import finetune
from llm_persona.training.recipe import Recipe

SHAPES = {
    "7B": {"hidden_size": 3584, "intermediate_size": 18944, "num_attention_heads": 28, "num_key_value_heads": 4},
    "70B": {"hidden_size": 8192, "intermediate_size": 28672, "num_attention_heads": 64, "num_key_value_heads": 8},
}
"""As Qwen2.5-7B and Llama-3.1-70B are built."""
BLOCKS = (1, 2)
SHORT, LONG = 4, 20
TUNE = Recipe(epochs=1, prompts_per_step=2, contrast=1.0)


def main() -> None:
    """Measure and write the file; a line for each round."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--sizes", nargs="*", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--items", type=int, default=8, help="read a round; half as many are trained on")
    parser.add_argument("--answers", type=int, default=64, help="written at once")
    given = parser.parse_args()
    found = {"machine": machine(), "answers": given.answers, "sizes": {}}
    for size in given.sizes:
        found["sizes"][size], found["device"], found["dtype"] = of_size(size, given)
    given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


def machine() -> str:
    """What computes here: the GPU's name, or the CPU's."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    told = Path("/proc/cpuinfo")
    lines = told.read_text(encoding="utf-8").splitlines() if told.is_file() else []
    name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{name}, {torch.get_num_threads()} threads"


def of_size(size: str, given: Any) -> tuple[dict[str, Any], str, str]:
    """Seconds a block: of a token read, of a step of writing, of a token trained; medians, and each round's. Beside it
    the device and the number format.

    Raises:
        SystemExit: a second block took no time, so the clock cannot tell what a block costs.
    """
    with tempfile.TemporaryDirectory() as place:
        subjects = [build(SHAPES[size], n, Path(place) / str(n), given.device) for n in BLOCKS]
        counts = [Count(subject) for subject in subjects]
        rounds: list[dict[str, float]] = []
        for number in range(given.rounds + 1):  # the first one warms up
            seconds: dict[str, list[float]] = {}
            for subject, count in zip(subjects, counts, strict=True):
                for kind, job in jobs(number, given, Path(place)).items():
                    count.tokens = 0
                    taken = timed(subject, job)
                    # (a step of writing is what its cost goes by, whatever is in it)
                    seconds.setdefault(kind, []).append(taken / (1 if kind in ("short", "long") else count.tokens))
            added = {kind: last - first for kind, (first, last) in seconds.items()}
            found = {"read": added["read"], "trained": added["trained"]}
            found["step"] = (added["long"] - added["short"]) / (LONG - SHORT)
            print(size, number, {k: f"{v:.3g}" for k, v in found.items()}, flush=True)
            rounds.append(found)
        blocks = subjects[0].blocks
        parameters = sum(p.numel() for p in blocks[0].parameters())
        about = str(subjects[0].device), str(subjects[0].dtype).removeprefix("torch.")
    kept = rounds[1:]
    median = {kind: statistics.median(r[kind] for r in kept) for kind in kept[0]}
    if min(median.values()) <= 0:
        sys.exit(f"{size}: a second block took no time ({median}); give more --rounds or --items, or a quieter machine")
    return {"parameters": parameters, "median": median, "rounds": kept}, *about


def jobs(number: int, given: Any, place: Path) -> dict[str, Callable[[Subject], Any]]:
    """What is timed; each round has items of its own."""
    bank = list(lp.load_items("openness"))
    items = [bank[(number * given.items + k) % len(bank)] for k in range(given.items)]
    prompts = [bank[(number + k) % len(bank)].prompt for k in range(given.answers)]

    def train(subject: Subject) -> None:
        with tempfile.TemporaryDirectory(dir=place) as folder:
            finetune(subject, from_items(items[: max(1, given.items // 2)], "high"), Path(folder) / "adapter", TUNE)

    return {
        "read": lambda subject: lp.record(subject, lp.labelled(items)),
        "short": lambda subject: lp.generate(subject, prompts, SHORT),
        "long": lambda subject: lp.generate(subject, prompts, LONG),
        "trained": train,
    }


def timed(subject: Subject, job: Callable[[Subject], Any]) -> float:
    started = time.perf_counter()
    job(subject)
    if subject.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


class Count:
    """Tokens that have entered a subject's first block."""

    def __init__(self, subject: Subject) -> None:
        self.tokens = 0
        subject.blocks[0].mlp.register_forward_pre_hook(self._see)

    def _see(self, _module: Any, given: tuple[Any, ...]) -> None:
        self.tokens += given[0].shape[0] * given[0].shape[1]


def build(shape: dict[str, int], blocks: int, folder: Path, device: str) -> Subject:
    """A random model of some blocks of that shape."""
    tokenizer = AutoTokenizer.from_pretrained(smollm2_folder())
    config = AutoConfig.for_model(
        "llama", **shape, head_dim=128, num_hidden_layers=blocks, vocab_size=len(tokenizer),
        max_position_embeddings=8192, tie_word_embeddings=True,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return load_subject(str(folder), device=device)


if __name__ == "__main__":
    main()

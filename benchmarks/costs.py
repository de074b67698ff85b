"""What a study costs on paper: counted tokens, measured rates, and the bottleneck at each size of model.

Usage:
  python benchmarks/costs.py --count counts.json        # run a study and an audit of a tiny random model; count tokens
  python benchmarks/costs.py counts.json --rates small.json large.json ...        # measured
  python benchmarks/costs.py counts.json [--gpu-price 2] [--gpu-flops 989] ...               # published

Counting: a tiny random model with the default model's tokenizer goes through a real study (`--preset`, two traits) and
a real audit of one adapter. Every token that enters a block's feed-forward is counted, so shared prompts and shared
layers count once, as they are computed once, and padding counts. The random model never ends an answer, so answers have
their full length: an upper bound.

Rates of GPUs are shares of a card's peaks, so that another card's peaks may be given: measured through our own code by
measure_rates.py, or what others measured and published (gpu_rates.py). Operations a token: 2 x parameters read or
written, 4 x trained (LoRA: forward, and back to the activations; the weights' own gradients are not needed).
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from gpu_rates import A100, H100, Gpu, Shares, measured, published

TRAITS = ["openness", "machiavellianism"]
LAYERS = 30
KINDS = ("read", "written", "trained")


@dataclass(frozen=True)
class Size:
    """A model: parameters, blocks, key-value heads times their width."""

    name: str
    parameters: float
    layers: int
    key_value: int


SIZES = (Size("7B", 7.6e9, 28, 4 * 128), Size("70B", 70.6e9, 80, 8 * 128))  # as Qwen2.5-7B and Llama-3.1-70B are built


@dataclass(frozen=True)
class Machine:
    """A GPU, what share of its peaks is had, what it costs an hour, what the stages take over these parts, and the
    seconds that a run takes outside of them."""

    gpu: Gpu
    shares: Shares
    price: float
    overhead: float
    outside: float
    batch: int
    batch_tokens: int


@dataclass(frozen=True)
class Work:
    """Tokens read, written and trained; `pieces` may be made at once."""

    name: str
    read: float
    written: float
    trained: float
    pieces: int


def count(out: Path, preset: str) -> None:
    """Run the study and the audit, and write what was counted, by stage."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    import llm_persona as lp
    from llm_persona.studies import lab
    from llm_persona.studies.audit import AuditPlan, TunedModel, audit
    from llm_persona.studies.stages import Silent
    from llm_persona.subject.smollm2 import smollm2_folder

    counted: dict[str, Counter[str]] = {}
    place = ["loading"]

    class Told(Silent):
        def begin(self, stage: str) -> None:
            place[0] = stage

    def hook(_module: Any, given: tuple[Any, ...]) -> None:
        rows, length = given[0].shape[:2]
        kind = "trained" if torch.is_grad_enabled() and given[0].requires_grad else "written" if length == 1 else "read"
        counted.setdefault(place[0], Counter())[kind] += rows * length

    load = lab.load_subject

    def watched(*args: Any, **kwargs: Any) -> Any:
        subject = load(*args, **kwargs)
        for block in subject.blocks:
            block.mlp.register_forward_pre_hook(hook)
        return subject

    lab.load_subject = watched
    with tempfile.TemporaryDirectory() as name:
        model = str(Path(name) / "tiny")
        tokenizer = AutoTokenizer.from_pretrained(smollm2_folder())
        config = AutoConfig.for_model(
            "llama", hidden_size=16, num_hidden_layers=LAYERS, num_attention_heads=2, num_key_value_heads=1,
            intermediate_size=16, vocab_size=len(tokenizer), max_position_embeddings=8192, tie_word_embeddings=True,
        )  # fmt: skip
        AutoModelForCausalLM.from_config(config).save_pretrained(model)
        tokenizer.save_pretrained(model)
        config = lp.StudyConfig(traits=TRAITS, preset=preset, model=model, dtype="float32")
        lp.run_study(config, Path(name) / "run", Told())
        study, counted = counted, {}
        adapter = str(Path(name) / "run" / "adapters" / f"{TRAITS[0]}-high")
        plan = AuditPlan((TRAITS[0],))
        tuned = [TunedModel("tuned", "tuned", adapter=adapter)]
        audit(model, tuned, plan, Path(name) / "audit", "float32", "auto", Told())
    found = {
        "preset": preset, "traits": TRAITS, "answer": config.max_new_tokens, "audit_answer": plan.max_new_tokens,
        "study": _through_all_layers(study), "audit": _through_all_layers(counted),
    }  # fmt: skip
    out.write_text(json.dumps(found, indent=1), encoding="utf-8")


def _through_all_layers(counted: dict[str, Counter[str]]) -> dict[str, dict[str, float]]:
    """Tokens as if each had gone through the whole model: those of single layers as their share."""
    return {stage: {kind: n / LAYERS for kind, n in kinds.items()} for stage, kinds in counted.items()}


def total(stages: dict[str, dict[str, float]], wanted: Any = None) -> dict[str, float]:
    """Tokens of the stages whose name is wanted."""
    return {
        kind: sum(kinds.get(kind, 0.0) for stage, kinds in stages.items() if wanted is None or wanted(stage))
        for kind in KINDS
    }


def works(found: dict[str, Any], traits: int, adapters: int) -> list[Work]:
    """The study of many traits, and the fine-tuning and audit of many adapters, from what was counted of few."""
    names = found["traits"]

    def pair(stage: str) -> bool:  # a trait under another trait's vector: grows with the square of the traits
        return any(f" control {name} " in stage for name in names)

    own, pairs = total(found["study"], lambda s: not pair(s)), total(found["study"], pair)
    n = len(names)
    study = {k: traits * own[k] / n + traits * (traits - 1) * pairs[k] / (n * (n - 1)) for k in KINDS}
    tune = total(found["study"], lambda s: " tune " in s)
    tuned = total(found["audit"], lambda s: s.startswith("tuned ") or " reads tuned" in s)
    base = total(found["audit"], lambda s: not (s.startswith("tuned ") or " reads tuned" in s))
    sweep = {k: adapters * (tune[k] / (2 * n) + traits * tuned[k]) + traits * base[k] for k in KINDS}
    return [
        Work(f"study of {traits} traits ({found['preset']})", **study, pieces=traits),
        Work(f"{adapters} adapters, trained and audited on {traits} traits", **sweep, pieces=adapters),
    ]  # fmt: skip


def cost(work: Work, size: Size, gpus: int, machine: Machine) -> dict[str, Any]:
    """Hours, memory a GPU, money, and what takes most of the time."""
    gpu, had = machine.gpu, machine.shares
    weights = 2 * size.parameters
    kept = 2 * 2 * size.layers * size.key_value * machine.batch * 1024  # keys and values of 1,024 tokens an answer
    working = 0.1 * gpu.memory  # activations of a batch, the runtime
    needed = math.ceil((weights + kept + working) / gpu.memory)
    group = 1 if needed == 1 else min(gpus, 1 << (needed - 1).bit_length())  # GPUs that hold one copy of the model
    copies = max(1, gpus // group)
    offloaded = needed > gpus
    large = needed > 1  # one GPU's memory does not hold it: the rates of the large model
    reading, writing = (had.reading_spread, had.writing_spread) if large else (had.reading, had.writing)
    steps = work.written / machine.batch
    training = had.training_spread if large else had.training
    speed = group if had.together else 1
    seconds = {
        "reading": 2 * size.parameters * work.read / (gpu.flops * reading * speed),
        "writing": steps * (weights + kept / 2) / (gpu.bandwidth * writing * speed),
        "training": 4 * size.parameters * work.trained / (gpu.flops * training * speed),
    }
    if offloaded:
        passes = (work.read + 2 * work.trained) / machine.batch_tokens + steps
        seconds = {"weights over the host's link": passes * (weights - 0.8 * gpu.memory) / gpu.link} | seconds
    waves = math.ceil(work.pieces / copies) * copies / work.pieces  # workers that wait for the last piece
    hours = (sum(seconds.values()) / copies * waves * machine.overhead + machine.outside) / 3600
    return {
        "hours": hours,
        "gpu_hours": hours * gpus,
        "memory": weights / group if not offloaded else gpu.memory,
        "copies": copies,
        "money": hours * gpus * machine.price,
        "bottleneck": _most(seconds),
    }


def _most(seconds: dict[str, float]) -> str:
    name, most = max(seconds.items(), key=lambda pair: pair[1])
    return f"{name} ({100 * most / sum(seconds.values()):.0f}%)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("counts", nargs="?", type=Path, help="what --count wrote")
    parser.add_argument("--count", type=Path, metavar="OUT")
    parser.add_argument("--preset", default="quick", choices=["smoke", "quick", "full"], help="--count: of which study")
    parser.add_argument("--traits", type=int, default=8)
    parser.add_argument("--adapters", type=int, default=100)
    parser.add_argument("--rates", type=Path, nargs=2, metavar=("SMALL", "LARGE"), help="files of measure_rates.py "
                        "on an H100 (without them: published rates, and an A100's peaks)")  # fmt: skip
    parser.add_argument("--gpu-flops", type=float, help="TFLOP/s in 16 bits, dense")
    parser.add_argument("--gpu-bandwidth", type=float, help="GB/s of its memory")
    parser.add_argument("--gpu-memory", type=float, help="GB of it")
    parser.add_argument("--gpu-link", type=float, help="GB/s from the host (with --rates: as measured)")
    parser.add_argument("--gpu-price", type=float, default=2.0, help="money a GPU-hour (assumed)")
    parser.add_argument(
        "--overhead", type=float, default=1.12, help="a whole study over its parts (`bench --run` on a CPU)"
    )
    parser.add_argument("--reading", type=float, default=1.0, help="how many times the rate's time a study's reading "
                        "takes (its batches are smaller)")  # fmt: skip
    parser.add_argument(
        "--outside", type=float, default=0.0, help="seconds of a run outside its stages (loading, report)"
    )
    parser.add_argument("--batch", type=int, default=64, help="answers written at once (the published rate's)")
    parser.add_argument("--batch-tokens", type=int, default=16384, help="tokens read at once")
    given = parser.parse_args()
    if given.count is not None:
        count(given.count, given.preset)
        return
    if given.counts is None:
        parser.error("give the file that --count wrote")
    for name, value in vars(given).items():
        if name != "outside" and isinstance(value, (int, float)) and value <= 0:
            parser.error(f"--{name.replace('_', '-')} must be above 0")
    if not given.counts.is_file():
        parser.error(f"{given.counts}: no such file; give what --count wrote")
    found = json.loads(given.counts.read_text(encoding="utf-8"))
    asked = works(found, given.traits, given.adapters)
    for work in asked:
        print(f"{work.name}: {work.read / 1e6:.1f} M tokens read, {work.written / 1e6:.2f} M written, "
              f"{work.trained / 1e6:.2f} M trained")  # fmt: skip
    gpu, had = A100, published()
    if given.rates is not None:
        small, large = (json.loads(path.read_text(encoding="utf-8")) for path in given.rates)
        if not all("H100" in found["device"] for found in (small, large)):
            parser.error(
                f"--rates: measured on {small['device']} and {large['device']}; only an H100's peaks are known: "
                "give files of an H100, or leave --rates out and give the card by --gpu-flops and its like"
            )
        gpu, had = replace(H100, link=small["peaks"]["from_pageable"]), measured(small, large)
    had = replace(had, reading=had.reading / given.reading, reading_spread=had.reading_spread / given.reading)
    asked_of = {
        "flops": given.gpu_flops,
        "bandwidth": given.gpu_bandwidth,
        "memory": given.gpu_memory,
        "link": given.gpu_link,
    }
    scale = {"flops": 1e12, "bandwidth": 1e9, "memory": 1e9, "link": 1e9}
    gpu = replace(gpu, **{name: scale[name] * value for name, value in asked_of.items() if value is not None})
    table(asked, Machine(gpu, had, given.gpu_price, given.overhead, given.outside, given.batch, given.batch_tokens))


def table(asked: list[Work], machine: Machine) -> None:
    """Print the shares that were had, and a row for each work, size and number of GPUs."""
    print(f"shares of the peaks: {json.dumps({k: round(v, 2) for k, v in asdict(machine.shares).items()})}")
    heads = ["Work", "Model", "GPUs", "Copies", "GB of weights a GPU", "Hours", "GPU-hours", "Money", "Bottleneck"]
    print(f"\n| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
    for work in asked:
        for size in SIZES:
            for gpus in (1, 8):
                row = cost(work, size, gpus, machine)
                cells = [work.name, size.name, gpus, row["copies"], f"{row['memory'] / 1e9:.0f}"]
                cells += [f"{row[key]:.3g}" for key in ("hours", "gpu_hours", "money")]
                print(f"| {' | '.join(map(str, cells))} | {row['bottleneck']} |")


if __name__ == "__main__":
    main()

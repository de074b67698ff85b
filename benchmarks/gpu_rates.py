"""Rates on GPUs as shares of a card's peaks: what measure_rates.py measured through our own code, and, beside it, what
others measured and published of engines tuned to the card.

Read and written: TensorRT-LLM 0.5.0, docs/source/performance.md (A100 80 GB SXM, FP16): a first token after 2,048
others at batch 1; tokens a second of all GPUs together at batch 64 with 128 tokens in and out.
Trained: NeMo AutoModel, docs/performance-summary.md of 2025-10-02 (LoRA of Llama 3 70B, eight H100, PyTorch, BF16).
Peaks, memory and links are NVIDIA's data sheets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Gpu:
    """Operations a second in 16 bits (dense), bytes a second and bytes of its memory, bytes a second to the host."""

    name: str
    flops: float
    bandwidth: float
    memory: float
    link: float


@dataclass(frozen=True)
class Run:
    """What was measured of a model on some GPUs: seconds of reading 2,048 tokens, and tokens written a second by 64
    answers of 128 tokens each to prompts of 128. `kept`: bytes of keys and values a token."""

    parameters: float
    kept: float
    gpus: int
    reading: float
    written: float


A100 = Gpu("A100 80 GB SXM", 312e12, 2039e9, 80e9, 32e9)
H100 = Gpu("H100 80 GB SXM", 989e12, 3350e9, 80e9, 64e9)
READ, BATCH, IN, OUT = 2048, 64, 128, 128
SMALL = Run(6.74e9, 2 * 2 * 32 * 4096, 1, 0.133, 3486)  # LLaMA 7B: all 32 heads have keys and values of their own
LARGE = Run(69.0e9, 2 * 2 * 80 * 8 * 128, 4, 0.377, 1237)  # LLaMA 70B
LORA_PARAMETERS, LORA_TOKENS = 70.6e9, 608.42  # tokens a second and GPU


@dataclass(frozen=True)
class Shares:
    """Of one GPU's peaks, what was had of a small model, and of a large one that several share.

    `together`: whether those that share a model work at once (tensor parallelism); blocks spread over them by a device
    map work one GPU after the other.
    """

    reading: float
    reading_spread: float
    writing: float
    writing_spread: float
    training: float
    training_spread: float
    together: bool


def published(gpu: Gpu = A100) -> Shares:
    """What the published rates are of the peaks: operations of reading, bytes of writing (weights and kept keys and
    values, each once a step), operations of training (4 a parameter)."""
    training = 4 * LORA_PARAMETERS * LORA_TOKENS / H100.flops
    return Shares(
        _reading(SMALL, gpu), _reading(LARGE, gpu), _writing(SMALL, gpu), _writing(LARGE, gpu), training, training, True
    )


def measured(small: dict[str, Any], large: dict[str, Any], gpu: Gpu = H100) -> Shares:
    """What two files of measure_rates.py are of the peaks, on the card that they were measured on."""
    one, other = (_measured(found, gpu) for found in (small, large))
    return Shares(one[0], other[0], one[1], other[1], one[2], other[2], False)


def _measured(found: dict[str, Any], gpu: Gpu) -> tuple[float, float, float]:
    """Shares of reading (TRAIT in likelihood mode: most of what a study reads), writing and training."""
    parameters, jobs = found["parameters"], found["jobs"]
    read, write, train = jobs["likelihood"], jobs["writing"], jobs["training"]
    speed = read["tokens"]["read"] / read["seconds"]
    steps = write["tokens"]["written"] / found["answers"]
    length = write["tokens"]["read"] / found["answers"] + steps / 2
    moved = 2 * parameters + 2 * 2 * found["layers"] * found["key_value"] * found["answers"] * length
    step = (write["seconds"] - write["tokens"]["read"] / speed) / steps
    training = train["seconds"] - train["tokens"]["read"] / speed  # (of the blocks below the adapter)
    return (
        2 * parameters * speed / gpu.flops,
        moved / step / gpu.bandwidth,
        4 * parameters * train["tokens"]["trained"] / training / gpu.flops,
    )


def _reading(run: Run, gpu: Gpu) -> float:
    return 2 * run.parameters * READ / run.reading / (run.gpus * gpu.flops)


def _writing(run: Run, gpu: Gpu) -> float:
    read_first = BATCH * IN * run.reading / READ
    step = (BATCH * OUT / run.written - read_first) / OUT
    moved = 2 * run.parameters + run.kept * BATCH * (IN + OUT / 2)
    return moved / step / (run.gpus * gpu.bandwidth)

"""Rates that others measured on GPUs and published, and what follows from them for a model of any size.

Read and written: TensorRT-LLM 0.5.0, docs/source/performance.md (A100 80 GB SXM, FP16): a first token after 2,048
others at batch 1; tokens a second of all GPUs together at batch 64 with 128 tokens in and out.
Trained: NeMo AutoModel, docs/performance-summary.md of 2025-10-02 (LoRA of Llama 3 70B, eight H100, PyTorch, BF16).
Peaks, memory and links are NVIDIA's data sheets.
"""

from __future__ import annotations

from dataclasses import dataclass


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
H100_FLOPS = 989e12
READ, BATCH, IN, OUT = 2048, 64, 128, 128
SMALL = Run(6.74e9, 2 * 2 * 32 * 4096, 1, 0.133, 3486)  # LLaMA 7B: all 32 heads have keys and values of their own
LARGE = Run(69.0e9, 2 * 2 * 80 * 8 * 128, 4, 0.377, 1237)  # LLaMA 70B
LORA_PARAMETERS, LORA_TOKENS = 70.6e9, 608.42  # tokens a second and GPU


@dataclass(frozen=True)
class Shares:
    """Of the peaks, what was had: by one GPU, and beside it by each of several that share a model."""

    reading: float
    reading_spread: float
    writing: float
    writing_spread: float
    training: float


def shares(gpu: Gpu = A100) -> Shares:
    """What the published rates are of the peaks: operations of reading, bytes of writing (weights and kept keys and
    values, each once a step), operations of training (4 a parameter)."""
    return Shares(
        _reading(SMALL, gpu), _reading(LARGE, gpu), _writing(SMALL, gpu), _writing(LARGE, gpu),
        4 * LORA_PARAMETERS * LORA_TOKENS / H100_FLOPS,
    )  # fmt: skip


def _reading(run: Run, gpu: Gpu) -> float:
    return 2 * run.parameters * READ / run.reading / (run.gpus * gpu.flops)


def _writing(run: Run, gpu: Gpu) -> float:
    read_first = BATCH * IN * run.reading / READ
    step = (BATCH * OUT / run.written - read_first) / OUT
    moved = 2 * run.parameters + run.kept * BATCH * (IN + OUT / 2)
    return moved / step / (run.gpus * gpu.bandwidth)

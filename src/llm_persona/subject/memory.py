"""What to do where memory ends: batches are halved, and large results go to a file that the system may page out."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch

from llm_persona.domain.errors import UserError
from llm_persona.subject.smollm2 import cache_folder

T = TypeVar("T")
TOKEN_BUDGET = 2048
"""Padded tokens in one batch on a CPU; larger batches gain less than 5% there."""
BUDGETS = ((40, 16384), (16, 8192), (0, 4096))
"""From how many GiB of an accelerator's memory on, how many padded tokens: a rule of thumb (what does not fit is
halved)."""
IN_MEMORY = 2**26
"""Bytes up to which recorded values stay in ordinary memory (64 MiB: 970 rows of a 135M model)."""


def halving(work: Callable[[Sequence[T]], None], batch: Sequence[T], what: str = "rows") -> None:
    """Do `work` on the batch; where memory runs out, on its halves, one after the other, with a warning.

    `work` must store what it makes only at its end, so that a failed attempt leaves nothing behind.

    Raises:
        UserError: not even a single element fits.
    """
    try:
        work(batch)
        return
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        reason = str(error).split("\n", 1)[0]
    # outside the handler: the error's frames hold the tensors that have to go
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if len(batch) < 2:
        raise UserError(
            f"out of memory on a single one of the {what} ({reason}); use a smaller model, --dtype bfloat16 or shorter "
            "texts"
        )
    middle = (len(batch) + 1) // 2
    warnings.warn(
        f"out of memory with {len(batch)} {what} at once: going on with {middle}", RuntimeWarning, stacklevel=2
    )
    halving(work, batch[:middle], what)
    halving(work, batch[middle:], what)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is torch's or Python's way of saying that memory is full (the CPU allocator has no type of its
    own)."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()
    return "not enough memory" in text or "out of memory" in text or "can't allocate memory" in text


def token_budget_of(device: torch.device) -> int:
    """Padded tokens in one batch, by the kind of device and its memory."""
    if device.type != "cuda":
        return TOKEN_BUDGET
    gib = torch.cuda.get_device_properties(device).total_memory / 2**30
    return next(budget for least, budget in BUDGETS if gib >= least)


def room(shape: tuple[int, ...]) -> np.ndarray:
    """Uninitialised float32 values of that shape: in memory up to `IN_MEMORY` bytes, else on disk, in a nameless file
    in the cache folder which is gone with the array (or with the process).

    Raises:
        UserError: the disk has no room for it.
    """
    size = 4 * int(np.prod(shape, dtype=np.int64))
    if size <= IN_MEMORY:
        return np.empty(shape, dtype=np.float32)
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)  # a full disk shows here, not as a bus error later
            return np.memmap(file, dtype=np.float32, mode="r+" if hasattr(os, "posix_fallocate") else "w+", shape=shape)
    except OSError as error:
        raise UserError(
            f"{folder}: no room for {size / 2**30:.1f} GB of activations ({error.strerror}); free some space, or "
            "record fewer rows"
        ) from error

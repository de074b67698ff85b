"""Deaths at chosen places: a forked process that ends by SIGKILL in the middle of its work.

The places are put in from outside (patched functions of the standard library and of PEFT), so that the code under test
knows nothing of them.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PLACES = {
    "stage": "right after the n-th stage's file appeared",
    "rename": "before the n-th finished file is renamed into its place",
    "half": "with half of the n-th file's bytes written",
    "adapter": "with half of the n-th saved adapter's bytes written",
    "checkpoint": "with the n-th checkpoint of a training half written",
    "removal": "before the n-th folder is removed",
}


@dataclass(frozen=True)
class Point:
    """Where to die: the n-th time at a place; or (`moment`) from outside, `seconds` after `number` stages are done."""

    place: str
    number: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        if self.place == "moment":
            return f"from outside at a random moment ({self.seconds:.2f} s after {self.number} stages)"
        return PLACES[self.place].replace("the n-th", f"number {self.number} of the")


def killed(
    work: Callable[[], Any], point: Point | None = None, log: Path | None = None, stages: Path | None = None
) -> tuple[bool, Counter]:
    """Do `work` in a forked process that dies at `point`; `stages` is the folder by which a moment is chosen.

    Returns:
        Whether it was killed (False: it came to its end, which `work` must reach without an error), and how often each
        place was passed (empty if killed).
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _work(work, point, writer, log)
    os.close(writer)
    if point is not None and point.place == "moment":
        _wait_and_kill(child, point, stages or Path())
    with os.fdopen(reader) as stream:
        text = stream.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return True, Counter()
    assert status == 0, f"the work itself failed (status {status}): {log.read_text()[-2000:] if log else ''}"
    return False, Counter(json.loads(text))


def _wait_and_kill(child: int, point: Point, stages: Path) -> None:
    while len(list(stages.glob("*.json"))) < point.number:
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return
        time.sleep(0.01)
    time.sleep(point.seconds)
    os.kill(child, signal.SIGKILL)  # (a process that has ended is not yet waited for)


def _work(work: Callable[[], Any], point: Point | None, writer: int, log: Path | None) -> None:
    """The forked process: it never returns."""
    status = 1
    try:
        import torch

        torch.set_num_threads(1)  # a thread pool does not survive a fork
        place = os.open(log or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(place, 1)
        os.dup2(place, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        passed = _put_in(point)
        result = work()
        status = result if isinstance(result, int) else 0
        os.write(writer, json.dumps(passed).encode())
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _put_in(point: Point | None) -> Counter:
    """Patch the places; counts how often each was passed."""
    from peft import PeftModel
    from transformers import Trainer

    passed: Counter = Counter()

    def reached(place: str) -> bool:
        passed[place] += 1
        return point is not None and (place, passed[place]) == (point.place, point.number)

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    replace, fsync, rmtree = os.replace, os.fsync, shutil.rmtree
    save, checkpoint = PeftModel.save_pretrained, Trainer._save_optimizer_and_scheduler

    def dying_replace(source: Any, target: Any, *rest: Any, **more: Any) -> None:
        if reached("rename"):
            die()
        replace(source, target, *rest, **more)
        path = Path(target)
        if path.parent.name == "stages" and path.suffix == ".json" and reached("stage"):
            die()

    def dying_fsync(handle: int) -> None:
        if reached("half"):
            os.truncate(Path(f"/proc/self/fd/{handle}").readlink(), os.fstat(handle).st_size // 2)
            die()
        fsync(handle)

    def dying_rmtree(*given: Any, **more: Any) -> None:
        if reached("removal"):
            die()
        rmtree(*given, **more)

    def dying_save(self: Any, folder: Any, *given: Any, **more: Any) -> None:
        save(self, folder, *given, **more)
        if reached("adapter"):
            file = Path(folder) / "adapter_model.safetensors"
            os.truncate(file, file.stat().st_size // 2)
            die()

    def dying_checkpoint(self: Any, *given: Any, **more: Any) -> None:
        if reached("checkpoint"):
            die()
        checkpoint(self, *given, **more)

    os.replace, os.fsync, shutil.rmtree = dying_replace, dying_fsync, dying_rmtree  # type: ignore[assignment]
    PeftModel.save_pretrained = dying_save
    Trainer._save_optimizer_and_scheduler = dying_checkpoint
    return passed

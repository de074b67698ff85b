"""Peak memory of `evaluate` at 8,000 items over that at 800, and a kill in the middle (items of the bank, distinct).
On a GPU the most that its allocator gave out is printed beside the process's own.

Usage: python benchmarks/many_items.py [--items 8000] [--model smollm2-135m] [--kill]
Without --model a tiny random model. --kill: SIGKILL once half of the items are done; the same command then goes on.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from llm_persona.studies.evaluation_parts import PART
from llm_persona.subject.locate import DEFAULT_MODEL
from llm_persona.subject.smollm2 import cache_folder

FETCH = "from llm_persona.subject.smollm2 import smollm2_folder; smollm2_folder()"
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))


def write_items(path: Path, count: int) -> None:
    import llm_persona as lp

    bank = list(lp.load_items("openness"))
    rows = []
    for number in range(count):
        item = bank[number % len(bank)]
        rows.append({"idx": number, "personality": "Openness", "situation": f"Case {number}. {item.situation}",
                     "query": item.query, **item.responses})  # fmt: skip
    path.write_text(json.dumps(rows), encoding="utf-8")


def command(model: str, items: Path) -> list[str]:
    """`evaluate` in a process of its own, which prints its peak memory last."""
    code = (
        "import sys, resource; from llm_persona.interfaces.cli.main import run; c = run(sys.argv[1:]); import torch; "
        "print('GPU', torch.cuda.max_memory_allocated() >> 20 if torch.cuda.is_available() else 0, 'MiB'); "
        "print('PEAK', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss); raise SystemExit(c)"
    )
    dtype = [] if model == DEFAULT_MODEL else ["--dtype", "float32"]
    return [sys.executable, "-c", code, "evaluate", "--model", model, *dtype, "--items", str(items)]


def peak(model: str, items: Path) -> float:
    """MiB at most; the command's own output goes on to the terminal."""
    printed = []
    with subprocess.Popen(command(model, items), stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        for line in running.stdout:
            print(line, end="", flush=True)
            printed.append(line)
    found = re.search(r"PEAK (\d+)", "".join(printed))
    assert running.returncode == 0 and found is not None
    return int(found[1]) / 1024


def kill_halfway(model: str, items: Path, count: int) -> None:
    """Start the command, wait until half of its parts are on disk, and kill it."""
    folder = cache_folder() / "evaluations"
    with subprocess.Popen(command(model, items), stdout=subprocess.DEVNULL) as running:
        while running.poll() is None and parts_done(folder) < count / PART / 2:
            time.sleep(1)
        running.send_signal(signal.SIGKILL)
    print(f"killed with {parts_done(folder)} parts of {PART} items on disk", flush=True)


def parts_done(folder: Path) -> int:
    """Finished parts of the evaluation that is furthest on."""
    return max((len(list(one.glob("*.json"))) for one in folder.glob("*")), default=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=8000)
    parser.add_argument("--model", help="a real one (default: a tiny random model)")
    parser.add_argument("--kill", action="store_true", help="kill the long run once in the middle")
    given = parser.parse_args()
    from conftest import save_tiny_model

    with tempfile.TemporaryDirectory() as folder:
        model = given.model or str(save_tiny_model(Path(folder) / "model"))
        if model == DEFAULT_MODEL:  # fetching and converting it takes more memory than measuring with it
            subprocess.run([sys.executable, "-c", FETCH], check=True)
        peaks = {}
        for count in (given.items // 10, given.items):
            path = Path(folder) / f"{count}.json"
            write_items(path, count)
            started = time.monotonic()
            if given.kill and count == given.items:
                kill_halfway(model, path, count)
                print(f"{time.monotonic() - started:.0f} s; the same command again", flush=True)
            peaks[count] = peak(model, path)
            print(f"{count} items: peak {peaks[count]:.0f} MiB, {time.monotonic() - started:.0f} s", flush=True)
    few, many = peaks.values()
    print(f"ratio {many / few:.3f} (own peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB)")


if __name__ == "__main__":
    main()

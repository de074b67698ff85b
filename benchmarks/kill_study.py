"""Kill a running study with SIGKILL at random moments, let it continue, and compare with an undisturbed one.

Usage: python benchmarks/kill_study.py [--kills 10] [--seed 0]
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STUDY = Path(__file__).with_name("tiny_study.yaml")
COMMAND = [sys.executable, "-c", "from llm_persona.interfaces.cli.main import main; main()", "run"]


def start(study: Path, folder: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [*COMMAND, str(study), "--out", str(folder)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    draw = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as text:
        work = Path(text)
        study = work / "study.yaml"
        study.write_text(STUDY.read_text(encoding="utf-8"), encoding="utf-8")
        began = time.monotonic()
        assert start(study, work / "whole").wait() == 0
        length = time.monotonic() - began
        expected = (work / "whole" / "results.json").read_bytes()
        killed = 0
        # Each attempt lives for a random share of the whole run: a kill falls anywhere, loading and writing included.
        while killed < given.kills:
            folder = work / f"killed-{killed}"
            finished = False
            while not finished:
                process = start(study, folder)
                try:
                    finished = process.wait(timeout=draw.uniform(0.2, 0.9) * length) == 0
                except subprocess.TimeoutExpired:
                    process.send_signal(signal.SIGKILL)
                    process.wait()
                    killed += 1
                    print(f"kill {killed} with {len(list(folder.rglob('*.json')))} files finished", flush=True)
                    if killed >= given.kills:
                        break
            if not finished:
                assert start(study, folder).wait() == 0
            assert (folder / "results.json").read_bytes() == expected, (
                f"{folder}: other numbers than the undisturbed run"
            )
            litter = [p for p in folder.rglob(".*") if p.name != ".lock"]
            assert not litter, f"left behind: {litter}"
        print(f"{killed} kills: every run ended with the numbers of the undisturbed one, nothing left behind")


if __name__ == "__main__":
    main()

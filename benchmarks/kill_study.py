"""Kill a running study with SIGKILL all over its course, let it continue, and compare with an undisturbed one.

A tiny random model, so that dozens of kills take minutes; every run is a process of its own (forked from one that has
the libraries loaded). A kill falls right after a stage's file appeared, before a file's renaming, with half of a
file's, an adapter's or a checkpoint's bytes written, before a folder's removal, or at a random moment. After each:
- results.json is byte for byte that of the undisturbed run;
- stages made before and after add up to those of the undisturbed run: none is made twice;
- no temporary file is left in the run folder, the cache, or the system's temporary folder.

Usage: python benchmarks/kill_study.py [--kills 25] [--sample N] [--seed 0] [--json PATH]
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
STUDY = Path(__file__).with_name("tiny_study.yaml")
LOADED = (
    "conftest", "failpoints", "llm_persona.studies.study", "llm_persona.studies.many", "llm_persona.studies.recommend",
    "llm_persona.training.trainer", "llm_persona.training.finetune", "llm_persona.interfaces.cli.terminal",
    "llm_persona.interfaces.cli.run", "llm_persona.interfaces.cli.report", "matplotlib.pyplot", "scipy.stats",
    "sklearn.linear_model", "sklearn.feature_extraction.text", "transformers.models.llama.modeling_llama", "peft",
    "matplotlib.backends.backend_svg", "matplotlib.backends.backend_agg", "transformers.trainer",
)  # fmt: skip
SHARES = ("stage", "half", "stage", "rename", "stage", "moment", "adapter", "stage", "checkpoint", "removal")
"""The kinds of points in the order in which they are drawn, so that a small sample is mixed too."""


def plan(kills: int, passed: Counter, seconds: float, draw: random.Random) -> Iterator:
    """`kills` points, of each kind spread evenly over the run (with a random shift)."""
    from failpoints import Point

    kinds = Counter(SHARES[n % len(SHARES)] for n in range(kills))
    for kind, count in kinds.items():
        for n in range(count):
            share = (n + draw.random()) / count
            if kind == "moment":
                number = int(share * (passed["stage"] - 3))
                yield Point(kind, number, draw.random() * seconds / passed["stage"])
            else:
                yield Point(kind, min(int(share * passed[kind]) + 1, passed[kind]))


def left_behind(work: Path, folder: Path, before: set[Path]) -> list[Path]:
    """Temporary files of killed processes, in their own folders and in the system's."""
    hidden = [p for place in (folder, work / "cache") for p in place.rglob(".*") if p.name != ".lock"]
    return hidden + [p for p in (work / "tmp").iterdir() if p not in before]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--sample", type=int, metavar="N", help="Only N kills (CI).")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="Write the figures as JSON.")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as text:
        work = Path(text)
        (work / "tmp").mkdir()
        os.environ |= {"LLM_PERSONA_CACHE": str(work / "cache"), "TMPDIR": str(work / "tmp"), "OMP_NUM_THREADS": "1"}
        tempfile.tempdir = None
        found = harness(work, given.sample or given.kills, random.Random(given.seed))
        if given.json:
            given.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def harness(work: Path, kills: int, draw: random.Random) -> dict:
    """All of it, in `work`."""
    for name in LOADED:
        importlib.import_module(name)
    from conftest import save_tiny_model
    from failpoints import killed

    from llm_persona.interfaces.cli.main import run

    began = time.monotonic()
    killed(lambda: save_tiny_model(work / "model") and None, log=work / "log")

    def study(folder: Path) -> int:
        return run(["run", str(STUDY), "--model", str(work / "model"), "--dtype", "float32", "--out", str(folder)])

    started = time.monotonic()
    _, passed = killed(lambda: study(work / "whole"), log=work / "log")
    seconds = time.monotonic() - started
    expected = (work / "whole" / "results.json").read_bytes()
    usual = set((work / "tmp").iterdir())  # (caches of libraries)
    total = json.loads((work / "whole" / "manifest.json").read_text())["stages_made"]
    print(f"undisturbed: {total} stages in {seconds:.1f} s; places passed: {dict(passed)}", flush=True)
    done: Counter = Counter()
    at_stages = []
    for number, point in enumerate(plan(kills, passed, seconds, draw), 1):
        folder = work / f"killed-{number}"
        was_killed, _ = killed(lambda folder=folder: study(folder), point, work / "log", folder / "stages")
        assert was_killed, f"the run ended before it could be killed {point}"
        before = len(list((folder / "stages").glob("*.json")))
        killed(lambda folder=folder: study(folder), log=work / "log")
        after = json.loads((folder / "manifest.json").read_text())["stages_made"]
        assert (folder / "results.json").read_bytes() == expected, f"{point}: other numbers than the undisturbed run"
        assert before + after == total, f"{point}: {before} stages made before, {after} after, {total} in all"
        litter = left_behind(work, folder, usual)
        assert not litter, f"{point}: left behind: {litter}"
        done[point.place] += 1
        at_stages.append(before)
        print(f"kill {number}: {point}: {before} stages before, {after} after; results equal", flush=True)
    took = time.monotonic() - began
    print(
        f"{kills} kills ({', '.join(f'{n} {kind}' for kind, n in done.items())}) after {min(at_stages)} to "
        f"{max(at_stages)} of {total} stages: every run ended with the undisturbed run's results.json, no stage made "
        f"twice, nothing left behind; {took:.0f} s"
    )
    return {"kills": kills, "points": dict(done), "stages": total, "stages_before": at_stages, "equal": kills,
            "seconds": took, "seconds_undisturbed": seconds}  # fmt: skip


if __name__ == "__main__":
    main()

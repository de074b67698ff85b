"""Reading labelled items (four responses a prompt), and LoRA training, against other packages, each in its environment.

    benchmarks/peers/setup.sh && .venv/bin/python benchmarks/peers/compare.py [reading] [training]

Every worker loads its model once and waits; the rounds are interleaved, one worker at a time, the order turned by one
each round, and every round has its own texts. The first round warms up and does not count. Ratios are medians of the
rounds' own ratios. Only ratios of one run say something.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from llm_persona import load_items
from llm_persona.domain.traits import list_traits
from llm_persona.subject.placement import cpu_has_bfloat16
from llm_persona.subject.smollm2 import smollm2_folder

HERE = Path(__file__).resolve().parent
READING = {"ours": 1.0, "saklas": 1.8, "steering-vectors": 2.5, "repeng": 2.5, "reference": 3.0}
"""How many times as fast as each ours is asked to be. A second word is an argument of the worker."""
TRAINING = {"ours": 1.0, "trl": 2.5, "trl bfloat16": 2.5}
OWN = ("ours", "reference")
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
"""The model lies in a folder: no package has anything to fetch (nor may a tokenizer take threads of its own)."""


class Worker:
    """A process of one peer, asleep between its rounds."""

    def __init__(
        self, name: str, work: str, folder: Path, model: str, environments: Path, threads: int, dtype: str
    ) -> None:
        peer, *given = name.split()
        python = sys.executable if peer in OWN else str(environments / peer / "bin" / "python")
        if not Path(python).exists():
            raise SystemExit(f"{python}: no such environment; run benchmarks/peers/setup.sh first")
        script = HERE / f"{work}_{peer.replace('-', '_')}.py"
        self.log = (folder / f"{work}-{name}.log").open("w")
        self.process = subprocess.Popen(
            [python, str(script), str(folder), model, *given],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(threads), "PEERS_DTYPE": dtype, **OFFLINE},
        )  # fmt: skip
        self.name = name
        self._line()

    def round(self, number: int) -> dict[str, Any]:
        """The job on a round's texts: `seconds`, and what else the worker says."""
        assert self.process.stdin is not None
        print(f"go {number}", file=self.process.stdin, flush=True)
        return json.loads(self._line())

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            tail = Path(self.log.name).read_text(encoding="utf-8")[-2000:]
            raise SystemExit(f"{self.name}: its process ended\n{tail}")
        return line

    def close(self) -> None:
        """Let it end."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process.wait(timeout=60)
        self.log.close()


def write_rounds(folder: Path, rounds: int, count: int) -> None:
    """Items of all traits, other ones each round."""
    every = [item for trait in list_traits() for item in load_items(trait)]
    if rounds * count > len(every):
        raise SystemExit(f"{rounds} rounds of {count} items: there are {len(every)} items; take fewer")
    for number in range(rounds):
        chosen = every[number * count : (number + 1) * count]
        data = [
            {"prompt": i.prompt, **{p: [i.responses[f"response_{p}{n}"] for n in (1, 2)] for p in ("high", "low")}}
            for i in chosen
        ]
        (folder / f"round-{number}.json").write_text(json.dumps(data), encoding="utf-8")


def race(work: str, bars: dict[str, float], arguments: argparse.Namespace, folder: Path, model: str) -> dict[str, Any]:
    """Interleaved rounds of every worker, and the ratios."""
    took: dict[str, list[dict[str, Any]]] = {name: [] for name in bars}
    workers: list[Worker] = []
    try:
        for name in bars:
            workers.append(
                Worker(name, work, folder, model, arguments.environments, arguments.threads, arguments.dtype)
            )
        for number in range(arguments.rounds + 1):
            turn = number % len(workers)
            for worker in workers[turn:] + workers[:turn]:
                took[worker.name].append(worker.round(number))
    finally:
        for worker in workers:
            worker.close()
    found: dict[str, Any] = {}
    for name, bar in bars.items():
        seconds = [r["seconds"] for r in took[name][1:]]
        ratios = [s / o["seconds"] for s, o in zip(seconds, took["ours"][1:], strict=True)]
        found[name] = {
            "seconds": statistics.median(seconds), "ratio": statistics.median(ratios),
            "ratio_range": [min(ratios), max(ratios)], "asked": bar, "rounds": took[name][1:],
        }  # fmt: skip
        said = f"{work}: {name}: {found[name]['seconds']:.2f} s"
        if name != "ours":
            low, high = found[name]["ratio_range"]
            holds = "holds" if found[name]["ratio"] >= bar else "does not hold"
            said += f", {found[name]['ratio']:.2f} times ours ({low:.2f} to {high:.2f}); asked {bar:g}: {holds}"
        losses = took[name][-1].get("losses")
        print(said + (f"; losses {losses}" if losses else ""), flush=True)
    return found


def main() -> None:
    """Both races, or the one named."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", choices=["reading", "training", []], help="default: both")
    parser.add_argument("--rounds", type=int, default=5, help="that count (default 5)")
    parser.add_argument("--items", type=int, default=32, help="items a round (default 32)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--dtype", choices=["bfloat16", "float32"], default="bfloat16" if cpu_has_bfloat16() else "float32",
        help="everyone's number format (default: bfloat16 where this processor has units for it)",
    )  # fmt: skip
    parser.add_argument(
        "--environments", type=Path, default=Path(os.environ.get("PEERS", cache / "llm-persona-peers")),
        help="where setup.sh made them",
    )  # fmt: skip
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    model = str(smollm2_folder())
    found: dict[str, Any] = {"dtype": arguments.dtype}
    with tempfile.TemporaryDirectory() as place:
        trainings = {name: bar for name, bar in TRAINING.items() if arguments.dtype == "bfloat16" or " " not in name}
        write_rounds(Path(place), arguments.rounds + 1, arguments.items)
        if not arguments.what or "reading" in arguments.what:
            found["reading"] = race("read", READING, arguments, Path(place), model)
        if not arguments.what or "training" in arguments.what:
            found["training"] = race("train", trainings, arguments, Path(place), model)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

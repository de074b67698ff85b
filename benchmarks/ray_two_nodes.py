"""Two nodes with one worker each against one worker, one thread each: a screening, an evaluation and a study's pieces.

Usage: python benchmarks/ray_two_nodes.py [--rounds 5] [--only evaluate] [--model FOLDER] [--rows 2400]

Rounds are interleaved (one worker, two nodes, one worker, ...), each with an empty cache. Starting the cluster is no
part of a round's time; starting the workers and loading the model is. Asked for: at least 1.5 times.
Without --model the default model is taken, in the number format it has on this machine.
Fails (exit 1) where two nodes find other numbers than one worker; a ratio below what is asked is only printed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
ASKED = 1.5
TIMED = ("tune high", "tune low")
"""Stages whose values hold places or seconds."""


@contextmanager
def cluster(nodes: int) -> Any:
    """An executor on a cluster of that many nodes of one core each."""
    import ray
    from clusters import start_cluster

    from llm_persona.studies.executors.on_ray import ray_executor

    made = start_cluster(nodes)
    try:
        with ray_executor(made.address) as executor:
            yield executor
    finally:
        ray.shutdown()
        made.shutdown()


def screening(executor: Any, model: str, rows: int, place: Path) -> tuple[float, Any]:
    """A screening of `rows` rows: its seconds, and what it found."""
    import numpy as np

    import llm_persona as lp
    from llm_persona.studies.screen import ScreenPlan, screen_by, survey
    from llm_persona.subject.load import load_subject

    items = list(lp.load_items("openness"))
    with (place / "chat.jsonl").open("w", encoding="utf-8") as file:
        for n in range(rows):
            item = items[n % len(items)]
            turns = [{"role": "user", "content": f"Case {n}. {item.prompt}"},
                     {"role": "assistant", "content": item.response_high1}]  # fmt: skip
            print(json.dumps({"messages": turns}), file=file)
    subject = load_subject(model)
    shape = (subject.n_layers, subject.hidden_size)
    vector = lp.PersonaVector(np.ones(shape, dtype=np.float32), np.ones(shape[0], dtype=np.float32), {"trait": "x"})
    del subject
    plan = ScreenPlan(full_rows=0)
    data = survey(place / "chat.jsonl", plan)
    started = time.monotonic()
    found = screen_by(executor, model, data, vector, shape[0] // 2, plan)
    return time.monotonic() - started, {**found, "data": None}  # (the file lies elsewhere each round)


def evaluating(executor: Any, model: str, rows: int, place: Path) -> tuple[float, Any]:
    """An evaluation of rows / 4 items of four responses: its seconds, and what it found."""
    import llm_persona as lp
    from llm_persona.domain.condition import BASE
    from llm_persona.domain.item_sources import load_items
    from llm_persona.instruments.trait_benchmark import TraitBenchmark
    from llm_persona.studies.evaluation import EvaluationPlan, evaluate_sets_by

    bank = list(lp.load_items("openness"))
    given = [
        {"idx": n, "personality": "Openness", "situation": f"Case {n}. {bank[n % len(bank)].situation}",
         "query": bank[n % len(bank)].query, **bank[n % len(bank)].responses}
        for n in range(rows // 4)
    ]  # fmt: skip
    (place / "items.json").write_text(json.dumps(given), encoding="utf-8")
    items = load_items(path=str(place / "items.json"))
    started = time.monotonic()
    found = evaluate_sets_by(
        executor, model, {"openness": items}, {"openness": BASE}, EvaluationPlan(TraitBenchmark(()))
    )
    return time.monotonic() - started, found


def studying(executor: Any, model: str, rows: int, place: Path) -> tuple[float, Any]:
    """The pieces of a study of two traits: their seconds, and the values of every stage."""
    import llm_persona as lp
    from llm_persona.studies.grid import make_ahead

    config = lp.StudyConfig(traits=["openness", "machiavellianism"], preset="smoke", model=model)
    started = time.monotonic()
    make_ahead([config], [place / "run"], executor, lambda piece, made: None)
    seconds = time.monotonic() - started
    stages = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((place / "run").rglob("stages/*.json"))]
    return seconds, {stage["stage"]: stage["value"] for stage in stages if not stage["stage"].endswith(TIMED)}


WORK: dict[str, Callable[..., tuple[float, Any]]] = {"screen": screening, "evaluate": evaluating, "study": studying}


def one_round(name: str, model: str, rows: int, nodes: int) -> tuple[float, Any]:
    """One run with an empty cache: its seconds, and what it found."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LLM_PERSONA_CACHE"] = folder
        with cluster(nodes) as executor:
            return WORK[name](executor, model, rows, Path(folder))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=2400)
    parser.add_argument("--only", nargs="*", choices=list(WORK), default=list(WORK))
    parser.add_argument("--model", help="a model's folder")
    given = parser.parse_args()
    from llm_persona.subject.smollm2 import smollm2_folder

    model, equal = given.model or str(smollm2_folder()), True
    for name in given.only:
        ratios = []
        for _ in range(given.rounds):
            (one, alone), (two, both) = (one_round(name, model, given.rows, nodes) for nodes in (1, 2))
            equal &= alone == both
            ratios.append(one / two)
            print(f"{name}: one worker {one:.1f} s, two nodes {two:.1f} s, ratio {ratios[-1]:.2f}, numbers "
                  f"{'equal' if alone == both else 'DIFFER'}", flush=True)  # fmt: skip
        middle = statistics.median(ratios)
        print(f"{name}: median ratio {middle:.2f} of {len(ratios)} ({min(ratios):.2f} to {max(ratios):.2f}); asked "
              f"for {ASKED}: {'met' if middle >= ASKED else 'missed'}", flush=True)  # fmt: skip
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())

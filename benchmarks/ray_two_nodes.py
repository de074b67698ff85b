"""Two nodes with one worker each against one worker, one thread each: a screening, an evaluation and a study's pieces.

Usage: python benchmarks/ray_two_nodes.py [--rounds 5] [--only evaluate] [--model FOLDER]

Rounds are interleaved (one worker, two nodes, one worker, ...), each with an empty cache. Starting the cluster is no
part of a round's time; starting the workers and loading the model is. Asked for: at least 1.5 times.
Without --model a random model of the default one's shape with fewer layers is made.
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


def screening(executor: Any, model: str, rows: int, place: Path) -> Any:
    """A screening of `rows` rows."""
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
    subject = load_subject(model, dtype="float32")
    shape = (subject.n_layers, subject.hidden_size)
    vector = lp.PersonaVector(np.ones(shape, dtype=np.float32), np.ones(shape[0], dtype=np.float32), {"trait": "x"})
    del subject
    plan = ScreenPlan(full_rows=0)
    data = survey(place / "chat.jsonl", plan)
    started = time.monotonic()
    screen_by(executor, model, data, vector, shape[0] // 2, plan, "float32")
    return time.monotonic() - started


def evaluating(executor: Any, model: str, rows: int, place: Path) -> Any:
    """An evaluation of rows / 4 items of four responses."""
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
    evaluate_sets_by(
        executor, model, {"openness": items}, {"openness": BASE}, EvaluationPlan(TraitBenchmark(())), "float32"
    )
    return time.monotonic() - started


def studying(executor: Any, model: str, rows: int, place: Path) -> Any:
    """The pieces of a study of two traits."""
    import llm_persona as lp
    from llm_persona.studies.grid import make_ahead

    config = lp.StudyConfig(traits=["openness", "machiavellianism"], preset="smoke", model=model, dtype="float32")
    started = time.monotonic()
    make_ahead([config], [place / "run"], executor, lambda piece, made: None)
    return time.monotonic() - started


WORK: dict[str, Callable[..., float]] = {"screen": screening, "evaluate": evaluating, "study": studying}


def random_model(folder: Path, layers: int) -> Path:
    """The default model's shape with fewer layers, and a byte tokenizer's vocabulary."""
    import torch
    from conftest import make_tokenizer
    from transformers import AutoConfig, AutoModelForCausalLM

    from llm_persona import load_items

    tokenizer = make_tokenizer(texts=[text for i in load_items("openness") for text in (i.prompt, i.response_low1)])
    config = AutoConfig.for_model(
        "llama", hidden_size=576, num_hidden_layers=layers, num_attention_heads=9, num_key_value_heads=3,
        intermediate_size=1536, vocab_size=len(tokenizer), max_position_embeddings=2048,
    )  # fmt: skip
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def one_round(name: str, model: str, rows: int, nodes: int) -> float:
    """Seconds of one run with an empty cache."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LLM_PERSONA_CACHE"] = folder
        with cluster(nodes) as executor:
            return WORK[name](executor, model, rows, Path(folder))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=2400)
    parser.add_argument("--layers", type=int, default=10, help="of the random model")
    parser.add_argument("--only", nargs="*", choices=list(WORK), default=list(WORK))
    parser.add_argument("--model", help="a model's folder (default: a random one)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = given.model or str(random_model(Path(folder) / "model", given.layers))
        for name in given.only:
            ratios = []
            for _ in range(given.rounds):
                one, two = (one_round(name, model, given.rows, nodes) for nodes in (1, 2))
                ratios.append(one / two)
                print(f"{name}: one worker {one:.1f} s, two nodes {two:.1f} s, ratio {ratios[-1]:.2f}", flush=True)
            middle = statistics.median(ratios)
            print(f"{name}: median ratio {middle:.2f} of {len(ratios)} ({min(ratios):.2f} to {max(ratios):.2f}); asked "
                  f"for {ASKED}: {'met' if middle >= ASKED else 'missed'}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()

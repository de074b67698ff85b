"""Does a study on vLLM give the vectors and scores that it gives on transformers?

    python benchmarks/vllm_agreement.py --dtype float32 --json agreement.json

One model, each engine loaded once. `parts`: a vector, and scores and answers in a few states; `steering`: every
operator at every position, recorded by both engines; `study`: one small study on both, its adapters trained once;
`speed`: recording and writing, in interleaved rounds.
Fails (exit 1) where a cosine is below .999 or a preference differs by more than the tolerance of the number format.
"""

from __future__ import annotations

import argparse
import functools
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import llm_persona as lp
from llm_persona.analysis.vectors import cosines
from llm_persona.domain.condition import BASE, Condition, Steer
from llm_persona.domain.config import StudyConfig
from llm_persona.instruments.trait_benchmark import TraitBenchmark
from llm_persona.studies import lab
from llm_persona.studies.study import run_study

LEAST_COSINE = 0.999
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.05}
"""Largest difference of one item's preference (a probability)."""
ENGINES = ("transformers", "vllm")
SMALL: dict[str, Any] = {
    "preset": "smoke", "traits": ["openness"], "fit_items": 10, "select_items": 3, "test_items": 8, "second_items": 2,
    "transfer_items": 2, "random_directions": 1, "neutral_passages": 1, "tuning_prompts": 4,
}  # fmt: skip


def main() -> int:
    """Measure, print, and say whether the engines agree."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--dtype", default="float32", choices=list(TOLERANCE))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--items", type=int, default=6, help="of parts and steering")
    parser.add_argument("--steps", nargs="*", default=list(STEPS), choices=list(STEPS))
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    # each engine is loaded once, also by the study
    load = lab.load_subject = functools.cache(lab.load_subject)  # type: ignore[assignment]
    subjects = {e: load(given.model, dtype=given.dtype, device="auto", engine=e) for e in ENGINES}
    say("both engines are loaded")
    found: dict[str, Any] = {"model": given.model, "dtype": given.dtype, "identity": subjects["vllm"].identity}
    for step in given.steps:
        found[step] = STEPS[step](subjects, given)
        found["faults"] = faults(found, TOLERANCE[given.dtype])
        if given.json:
            given.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))
    return 1 if found["faults"] else 0


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def ways(vector: Any, layer: int) -> Iterator[Condition]:
    """Every operator at every position."""
    gap = float(vector.norms[layer])
    for positions in ("all", "prompt", "response"):
        how: dict[str, Any] = {"positions": positions, "name": "v"}
        steers = (
            Steer(vector, layer, dose=0.2, **how),
            Steer(vector, layer, operator="ablate", **how),
            Steer(vector, layer, operator="cap", floor=gap, **how),
        )
        for steer in steers:
            yield Condition(steer.label, steers=(steer,))


def compare_parts(subjects: dict[str, Any], given: Any) -> dict[str, Any]:
    """A vector fitted on both engines, and what is asked in a few states: base, steered, with an adapter."""
    items = lp.load_items("openness")
    rows = lp.labelled(items.split("fit")[: given.items])
    vectors = [lp.fit(lp.record(subjects[e], rows)) for e in ENGINES]
    found: dict[str, Any] = {"vector_cosine": float(cosines(*vectors).min()), "n_items": given.items, "states": {}}
    say(str(found))
    layer = vectors[0].n_layers // 2
    asked, prompts = items.split("test")[: given.items // 2], [i.prompt for i in items.split("test")[-4:]]
    with tempfile.TemporaryDirectory() as place:
        states = [
            BASE,
            Condition("steered +0.2", steers=(Steer(vectors[0], layer, dose=0.2),)),
            Condition("adapter", adapter=random_adapter(subjects["transformers"], Path(place))),
        ]
        for state in states:
            found["states"][state.name] = row = {}
            answers = []
            for mode in ("likelihood", "choice"):
                preferences = []
                for subject in subjects.values():
                    with subject.under(state):
                        measured = TraitBenchmark(asked, mode).measure(subject)
                    preferences.append([r["preference"] for r in measured.rows])
                row[mode] = {"preferences": preferences, "difference": float(np.ptp(preferences, axis=0).max())}
            for subject in subjects.values():
                with subject.under(state):
                    answers.append([a.text for a in lp.generate(subject, prompts, 12)])
            row["same_answers"] = f"{sum(a == b for a, b in zip(*answers, strict=True))} of {len(prompts)}"
            row["answers"] = answers
            say(f"{state.name}: {row}")
    return found


def random_adapter(subject: Any, folder: Path) -> str:
    """A LoRA adapter of random weights: nothing that it does can be missed."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    settings = LoraConfig(r=8, lora_alpha=4, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False)
    wrapped = get_peft_model(subject.model, settings)
    wrapped.save_pretrained(folder)
    wrapped.unload()
    return str(folder)


def compare_steering(subjects: dict[str, Any], given: Any) -> list[dict[str, Any]]:
    """Recorded by both engines in every state: the least cosine of a row at any layer, and the largest difference as a
    share of the layer's norm. `moved` is the same share between steered and base: how much there was to agree about."""
    rows = lp.labelled(lp.load_items("openness").split("fit")[: max(2, given.items // 3)])
    base = {e: lp.record(s, rows).values for e, s in subjects.items()}
    vector = lp.fit(lp.record(subjects["transformers"], rows))
    layer = vector.n_layers // 2
    table = []
    for condition in (BASE, *ways(vector, layer)):
        values = {}
        for engine, subject in subjects.items():
            with subject.under(condition):
                values[engine] = lp.record(subject, rows).values
        one, other = (values[e] for e in ENGINES)
        table.append(
            {
                "state": condition.name,
                "cosine": float(cosine(one, other).min()),
                "difference": share(one, other),
                "moved": share(one, base["transformers"]),
            }
        )
        say(str(table[-1]))
    return table


def cosine(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    dots = (one * other).sum(axis=-1, dtype=np.float64)
    return dots / (np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1))


def share(one: np.ndarray, other: np.ndarray) -> float:
    return float((np.linalg.norm(one - other, axis=-1) / np.linalg.norm(one, axis=-1)).max())


def compare_studies(subjects: dict[str, Any], given: Any) -> dict[str, Any]:
    """The same study on both engines: vectors by layer, and every item's preference under every condition."""
    with tempfile.TemporaryDirectory() as place:
        return _studies(Path(place), given.model, given.dtype)


def _studies(place: Path, model: str, dtype: str) -> dict[str, Any]:
    folders, results = {}, {}
    for engine in ENGINES:
        folders[engine] = place / engine
        if engine == "vllm":  # the adapters are trained once: their key does not know the engine
            shutil.copytree(folders["transformers"], folders[engine])
        config = StudyConfig(**SMALL, model=model, dtype=dtype, engine=engine)
        results[engine] = run_study(config, folders[engine])
        say(f"the study on {engine} is done")
    trait = "openness"
    one, other = (results[e]["traits"][trait] for e in ENGINES)
    first, second = (lp.PersonaVector.load(folders[e] / "vectors" / f"{trait}.safetensors") for e in ENGINES)
    conditions = {}
    for (name, a), (_name, b) in zip(places(one), places(other), strict=True):
        gaps = [
            abs(x["preference"] - y["preference"])
            for x, y in zip(a["rows"], b["rows"], strict=True)
            if "preference" in x and "preference" in y
        ]
        same = [x["text"] == y["text"] for x, y in zip(a["samples"], b["samples"], strict=True)]
        conditions[name] = {
            "scores": [a["score"], b["score"]],
            "preference_difference": max(gaps),
            "n": len(gaps),
            "perplexity_ratio": b["perplexity"] / a["perplexity"],
            "same_answers": f"{sum(same)} of {len(same)}",
        }
    aucs = [[q["auc"] for q in r["vector"]["layers"]] for r in (one, other)]
    return {
        "vector_cosine": float(cosines(first, second).min()),
        "auc_difference": float(np.abs(np.subtract(*aucs)).max()),
        "layers": [r["vector"]["recommended"]["balanced"] for r in (one, other)],
        "conditions": conditions,
    }


def places(trait: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every condition's row in a trait's results."""
    yield "base", trait["baseline"]
    for kind in ("instructed", "combined", "tuned"):
        for pole, row in trait[kind].items():
            yield f"{kind} {pole}", row
    for point in trait["steering"]:
        yield f"steered {point['dose']:+g} at {point['layer']}", point


def time_both(subjects: dict[str, Any], given: Any) -> dict[str, Any]:
    """Median seconds of recording labelled items and of writing answers, and vLLM's speed in units of transformers'."""
    items = lp.load_items("openness").split("fit")
    work = {
        "record": lambda subject, n: lp.record(subject, lp.labelled(items[n % 3 * 4 : n % 3 * 4 + 4])),
        "write": lambda subject, n: lp.generate(subject, [i.prompt for i in items[n % 2 * 20 :][:20]], 32),
    }
    table: dict[str, Any] = {}
    for name, job in work.items():
        seconds: dict[str, list[float]] = {e: [] for e in ENGINES}
        for number in range(given.rounds):
            for engine in ENGINES if number % 2 else reversed(ENGINES):
                started = time.perf_counter()
                job(subjects[engine], number)
                seconds[engine].append(time.perf_counter() - started)
        middle = {e: statistics.median(s) for e, s in seconds.items()}
        ratios = sorted(a / b for a, b in zip(seconds["transformers"], seconds["vllm"], strict=True))
        table[name] = {**middle, "speed_up": statistics.median(ratios), "speed_up_range": [ratios[0], ratios[-1]]}
        say(f"{name}: {table[name]}")
    return table


def faults(found: dict[str, Any], tolerance: float) -> list[str]:
    """Where the engines disagree by more than is stated."""
    said = []
    for row in found.get("steering", []):
        if row["cosine"] < LEAST_COSINE:
            said.append(f"{row['state']}: cosine {row['cosine']}")
    for part in ("parts", "study"):
        if part in found and found[part]["vector_cosine"] < LEAST_COSINE:
            said.append(f"{part}: the vector's cosine is {found[part]['vector_cosine']}")
    gaps = {
        f"{name}, {mode}": row[mode]["difference"]
        for name, row in found.get("parts", {}).get("states", {}).items()
        for mode in ("likelihood", "choice")
    }
    gaps |= {n: row["preference_difference"] for n, row in found.get("study", {}).get("conditions", {}).items()}
    return said + [f"{n}: an item's preference differs by {gap}" for n, gap in gaps.items() if gap > tolerance]


STEPS = {"parts": compare_parts, "steering": compare_steering, "study": compare_studies, "speed": time_both}

if __name__ == "__main__":
    sys.exit(main())

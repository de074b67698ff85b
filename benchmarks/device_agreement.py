"""The default model on an accelerator against the same model on the CPU: how far every kind of number moves.

    python benchmarks/device_agreement.py [--items 12] [--device auto] [--dtype float32 bfloat16]

The CPU computes in float32. Differences are the largest over items, of log-probabilities each option's mean.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import llm_persona as lp
from llm_persona.analysis.vectors import PersonaVector
from llm_persona.domain.responses import labelled
from llm_persona.instruments.trait_benchmark import TraitBenchmark
from llm_persona.training.data import from_items
from llm_persona.training.recipe import PERSONA

QUESTIONS = ["How should I spend the weekend?", "What makes a good friend?", "Tell me about the sea."]


def measured(subject: lp.Subject, items: list[lp.Item], vector: PersonaVector | None) -> dict[str, Any]:
    """What studies are made of. Steered along `vector`, so that both sides add the same."""
    likely, letters = (TraitBenchmark(items, mode).measure(subject).rows for mode in ("likelihood", "choice"))
    recorded = lp.record(subject, labelled(items))
    own = lp.fit(recorded)
    layer = subject.n_layers // 2
    with lp.steering(subject, vector or own, layer=layer, dose=0.1):
        steered = TraitBenchmark(items).measure(subject).rows
        said = [a.text for a in lp.generate(subject, QUESTIONS, 24)]
    with tempfile.TemporaryDirectory() as place:
        tuned = lp.finetune(subject, from_items(items, "high"), Path(place) / "a", PERSONA)
    return {
        "vector": own,
        "log-probability": np.array([value for row in likely for value in row["logprobs"].values()]),
        "preference, likelihood": np.array([row["preference"] for row in likely]),
        "preference, choice": np.array([row["preference"] for row in letters]),
        "preference, likelihood, steered": np.array([row["preference"] for row in steered]),
        "losses of a training": np.array([loss for _, loss in tuned.losses]),
        "answers": [a.text for a in lp.generate(subject, QUESTIONS, 24)],
        "steered answers": said,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=12)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", nargs="*", default=["float32", "bfloat16"])
    given = parser.parse_args()
    items = list(lp.load_items("openness"))[: given.items]
    here = measured(lp.load_subject(dtype="float32", device="cpu"), items, None)
    for dtype in given.dtype:
        subject = lp.load_subject(dtype=dtype, device=given.device)
        there = measured(subject, items, here["vector"])
        place = f"{subject.device.type}, {dtype}"
        for name, values in here.items():
            if name == "vector":
                one, other = values.directions, there[name].directions
                cosines = (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
                print(f"{place}: {name}, least cosine over layers {cosines.min():.9f}")
            elif isinstance(values, list):
                same = sum(a == b for a, b in zip(values, there[name], strict=True))
                print(f"{place}: {name}, {same} of {len(values)} equal")
            else:
                print(f"{place}: {name}, {np.abs(values - there[name]).max():.2g} of some {np.abs(values).mean():.2f}")


if __name__ == "__main__":
    main()

"""How long the nulls take: 1,000 permutations over 30 layers and 200 questions, on synthetic activations.

Usage: python benchmarks/permutations.py [--questions 200] [--layers 30] [--hidden 576] [--permutations 1000]
A locked test flips the poles under the ranks of fixed projections; cross-fitting refits every fold for every flip,
through Gram matrices of the questions. Both print the best layer's family-wise p-value: on this noise it is any number.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

import llm_persona as lp

POLES = ["high", "low", "high", "low"]


def noise(questions: int, layers: int, hidden: int, seed: int) -> lp.Activations:
    """Four rows a question of standard normal numbers."""
    values = np.random.default_rng(seed).standard_normal((4 * questions, layers, hidden), dtype=np.float32)
    return lp.Activations(values, POLES * questions, np.repeat(np.arange(questions), 4).tolist())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--hidden", type=int, default=576)
    parser.add_argument("--permutations", type=int, default=1000)
    given = parser.parse_args()
    size = (given.questions, given.layers, given.hidden)
    acts, vector = noise(*size, seed=0), lp.fit(noise(*size, seed=1))
    for name, judged in (("locked test", vector), ("cross-fitted", None)):
        wall, processor = time.perf_counter(), time.process_time()
        found = lp.assess(acts, judged, permutations=given.permutations)
        spent = time.perf_counter() - wall, time.process_time() - processor
        p = min(layer.p_family for layer in found.layers)
        print(
            f"{name}: {given.permutations} permutations x {given.layers} layers x {given.questions} questions of 4 "
            f"rows, width {given.hidden}: {spent[0]:.1f} s ({spent[1]:.1f} s of the processor); family-wise p {p:.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()

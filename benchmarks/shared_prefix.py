"""How far numbers move when what all texts begin with is read once: against whole texts, and one text at a time.

    python benchmarks/shared_prefix.py [--items 40] [--dtype float32 bfloat16]

The default model on openness items; differences are the largest over items (of log-probabilities: each option's mean).
"""

from __future__ import annotations

import argparse

import numpy as np

import llm_persona as lp
from llm_persona.domain.responses import labelled
from llm_persona.instruments.trait_benchmark import TraitBenchmark
from llm_persona.studies.bench_forwards import option_rows
from llm_persona.subject.load import Subject
from llm_persona.subject.one_at_a_time import likelihoods
from llm_persona.subject.record import POSITIONS, record_positions


def measured(subject: Subject, items: list[lp.Item]) -> dict[str, np.ndarray]:
    """Everything that shares a prefix, by name."""
    likely, letters = (TraitBenchmark(items, mode).measure(subject).rows for mode in ("likelihood", "choice"))
    recorded = record_positions(subject, labelled(items), POSITIONS)
    return {
        "log-probability": np.array([value for row in likely for value in row["logprobs"].values()]),
        "preference, likelihood": np.array([row["preference"] for row in likely]),
        "preference, choice": np.array([row["preference"] for row in letters]),
        **{name: found.values.reshape(-1, subject.hidden_size) for name, found in recorded.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=40)
    parser.add_argument("--dtype", nargs="*", default=["float32", "bfloat16"])
    given = parser.parse_args()
    for dtype in given.dtype:
        subject = lp.load_subject(dtype=dtype)
        items = list(lp.load_items("openness"))[: given.items]
        shared = measured(subject, items)
        subject.shares_prefix = False
        whole = measured(subject, items)
        alone = np.array([values.mean() for values in likelihoods(subject, option_rows(items))])
        for name, values in shared.items():
            far = float(np.abs(values - whole[name]).max())
            if name in POSITIONS:
                lengths = np.linalg.norm(values, axis=1) * np.linalg.norm(whole[name], axis=1)
                least = float(((values * whole[name]).sum(axis=1) / lengths).min())
                print(
                    f"{dtype}, {name}: {far / float(np.abs(whole[name]).max()):.2g} of the largest, cosine {least:.7f}"
                )
            else:
                print(f"{dtype}, {name}: {far:.2g}")
        for name, values in (("prefix shared", shared), ("whole texts in batches", whole)):
            far = float(np.abs(values["log-probability"] - alone).max())
            print(f"{dtype}, log-probability against one text at a time, {name}: {far:.2g} (mean {alone.mean():.2f})")


if __name__ == "__main__":
    main()

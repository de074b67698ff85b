"""In which order prompts are trained on: steps of similar length, the same in every run and after every resume.

Not the library's LengthGroupedSampler: its order comes from a generator that a resumed run has to replay from the
start, so a training killed in its second epoch would go on in another order. Here it follows from seed and epoch alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

POOL = 8
"""Steps whose prompts are sorted together: enough to save most padding, few enough to leave the order random."""


def by_length(lengths: Sequence[int], size: int, seed: int, epoch: int = 0) -> list[int]:
    """Every index once, so that each run of `size` has similar lengths and the runs come in random order.

    Args:
        lengths: tokens of each prompt. size: prompts in a step. seed, epoch: decide the order.
    """
    rng = np.random.default_rng([seed, epoch])
    shuffled = rng.permutation(len(lengths))
    pools = [shuffled[k : k + POOL * size] for k in range(0, len(shuffled), POOL * size)]
    steps = []
    for pool in pools:
        ordered = sorted(pool.tolist(), key=lambda i: lengths[i])
        steps += [ordered[k : k + size] for k in range(0, len(ordered), size)]
    whole = [s for s in steps if len(s) == size]
    rest = [s for s in steps if len(s) < size]  # the short step comes last, or all after it would be shifted
    return [i for k in rng.permutation(len(whole)) for i in whole[k]] + [i for s in rest for i in s]


class ByLength(torch.utils.data.Sampler[int]):
    """`by_length` as a sampler; the trainer says which epoch it is."""

    def __init__(self, lengths: Sequence[int], size: int, seed: int) -> None:
        self.lengths, self.size, self.seed, self.epoch = lengths, size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Called before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        return iter(by_length(self.lengths, self.size, self.seed, self.epoch))

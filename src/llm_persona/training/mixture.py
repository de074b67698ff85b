"""One training set from several, with stated shares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from llm_persona.domain.errors import UserError
from llm_persona.training.data import TrainingData


def mix(parts: Sequence[TrainingData], shares: Sequence[float], seed: int = 0, rows: int | None = None) -> TrainingData:
    """As many examples as the shares allow without repeating one (or `rows` in all), drawn by `seed`, in random order.

    The shares are of examples, to the nearest whole one.

    Raises:
        UserError: shares that are no shares, or fewer examples than `rows` asks for.
    """
    if len(parts) != len(shares):
        raise UserError(f"--share: {len(shares)} shares for {len(parts)} data sets; give each one its share")
    if any(s <= 0 for s in shares) or abs(sum(shares) - 1) > 1e-6:
        raise UserError(f"--share: {', '.join(f'{s:g}' for s in shares)} are not shares that sum to 1")
    most = min(int(len(p.examples) / s + 1e-9) for p, s in zip(parts, shares, strict=True))
    total = most if rows is None else rows
    if total > most:
        scarce = min(zip(parts, shares, strict=True), key=lambda ps: len(ps[0].examples) / ps[1])[0]
        raise UserError(
            f"{scarce.source}: {len(scarce.examples)} usable rows allow {most} in all at these shares, not {total}; "
            "ask for fewer rows or another share"
        )
    rng = np.random.default_rng(seed)
    chosen = []
    for part, share in zip(parts, shares, strict=True):
        count = round(total * share)
        if count < 1:
            raise UserError(f"{part.source}: its share of {total} rows is not even one; ask for more rows")
        chosen += [part.examples[i] for i in rng.permutation(len(part.examples))[:count]]
    order = rng.permutation(len(chosen))
    skipped = [
        replace(s, reason=f"{part.source}: {s.reason}") if len(parts) > 1 else s for part in parts for s in part.skipped
    ]
    source = " + ".join(f"{s:g} {p.source}" for p, s in zip(parts, shares, strict=True))
    ids = tuple(i for p in parts for i in p.item_ids)
    return TrainingData([chosen[i] for i in order], skipped, source, ids)

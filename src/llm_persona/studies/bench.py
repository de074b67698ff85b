"""How fast this machine and model do what studies are made of, as ratios to a plain way of doing the same."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from llm_persona.domain.errors import UserError
from llm_persona.domain.item_sources import load_items
from llm_persona.studies.bench_jobs import comparisons, exported_comparison, training_comparison
from llm_persona.studies.rotation import Rotation
from llm_persona.studies.timing import Comparison, Timing, measure
from llm_persona.subject.load import Subject
from llm_persona.subject.rendered_once import of_tokenizer


def bench(subject: Subject, rounds: int = 5, items: int = 8) -> Iterator[Timing]:
    """Time every comparison on the subject, one after the other; each yields as it is done.

    Rounds alternate which way goes first, and each has items of its own, so that nothing that is kept answers for it.
    A first round warms up and does not count.

    Args:
        rounds: that count, at least 1. items: of the openness bank, a round.

    Raises:
        UserError: fewer than one round, or more items than the bank can rotate.
    """
    bank = load_items("openness")
    if rounds < 1 or not 2 <= items <= len(bank) // 2:
        raise UserError(f"bench: rounds must be at least 1, items 2 to {len(bank) // 2}; got {rounds} and {items}")
    rotation = Rotation(bank, items)
    forget = of_tokenizer(subject.tokenizer).forget  # (what one way has rendered must not serve the other)
    with tempfile.TemporaryDirectory() as place:
        for comparison in _all(subject, rotation, Rotation(bank, min(2 * items, len(bank))), Path(place) / "model"):
            timing = measure(comparison, rounds, before=forget)
            if timing is not None:
                yield timing


def _all(subject: Subject, rotation: Rotation, training: Rotation, folder: Path) -> Iterator[Comparison]:
    yield from comparisons(subject, rotation)
    for one in (training_comparison(subject, training), exported_comparison(subject, rotation, folder)):
        if one is not None:
            yield one

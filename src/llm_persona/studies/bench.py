"""How fast this machine and model do what studies are made of, as ratios to a plain way of doing the same."""

from __future__ import annotations

import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llm_persona.analysis.vectors import PersonaVector, fit
from llm_persona.domain.condition import Condition, Steer
from llm_persona.domain.errors import Shortfall, UserError, one_line
from llm_persona.domain.item_sources import load_items
from llm_persona.domain.items import OPTIONS, Item, Items
from llm_persona.domain.responses import Response, labelled
from llm_persona.instruments.trait_benchmark import TraitBenchmark
from llm_persona.subject.export import to_checkpoint
from llm_persona.subject.generate import generate
from llm_persona.subject.load import Subject, load_subject
from llm_persona.subject.memory import is_out_of_memory
from llm_persona.subject.one_at_a_time import letters, likelihoods, response_means
from llm_persona.subject.packing import Row, in_batches
from llm_persona.subject.reading import reading
from llm_persona.subject.record import record
from llm_persona.subject.rendered_once import of_tokenizer
from llm_persona.subject.reuse import reusing_below
from llm_persona.subject.stopping import stopping_after

DOSES = (-0.3, -0.2, -0.1, 0.1, 0.2, 0.3)
NEW_TOKENS = 32
SAME_TEXT = 1e-6
"""A dose that changes no answer, so that both sides of the comparison write the same tokens."""
AGREE = {torch.float32: 1e-3, torch.bfloat16: 0.25, torch.float16: 0.05}
"""How far the two ways may differ in mean log-probability (batches round differently)."""


@dataclass(frozen=True)
class Comparison:
    """Two ways of the same job. `ours` and `plain` take the round's number, and do the job on that round's texts.

    `ratio` says what is divided by what; `at_least` or `at_most` is what we ask of it.
    """

    name: str
    ratio: str
    ours: Callable[[int], Any]
    plain: Callable[[int], Any]
    at_least: float | None = None
    at_most: float | None = None
    times: int = 1
    """How often the plain way would be gone: its time counts so often,"""
    once: Callable[[int], Any] | None = None
    """but for this part of it, timed beside it, which counts once."""


@dataclass(frozen=True)
class Timing:
    """Medians over the rounds; the ratio is the median of the rounds' own ratios, with its range."""

    name: str
    what: str
    ours_seconds: float
    plain_seconds: float
    ratio: float
    ratio_range: tuple[float, float]
    rounds: int
    bar: str
    holds: bool

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {**self.__dict__, "ratio_range": list(self.ratio_range)}


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
    for comparison in comparisons(subject, rotation):
        yield measure(comparison, rounds, before=forget)
    with tempfile.TemporaryDirectory() as place:
        exported = exported_comparison(subject, rotation, Path(place) / "model")
        if exported is not None:
            yield measure(exported, rounds, before=forget)


def exported_comparison(subject: Subject, rotation: Rotation, folder: Path) -> Comparison | None:
    """Generation by an exported checkpoint against the model that it was made of; None, with a warning that says why,
    where the architecture has no bias that steering can be folded into or there is no room for a second model."""
    vector = fit(record(subject, labelled(rotation(0))))
    layer = subject.n_layers // 2
    try:
        to_checkpoint(subject, vector, folder, layer, vector.coefficient_for(SAME_TEXT, layer))
        made = load_subject(str(folder), dtype=str(subject.dtype).removeprefix("torch."), device=str(subject.device))
    except (UserError, OSError, RuntimeError, MemoryError) as error:
        if not isinstance(error, (UserError, OSError)) and not is_out_of_memory(error):
            raise
        # (a second model may have no room here; what was timed before must not be lost)
        warnings.warn(
            f"bench: the exported checkpoint is not timed: {one_line(str(error), 200)}", Shortfall, stacklevel=2
        )
        return None
    return Comparison(
        "exported checkpoint", "time over that of unsteered generation, same text",
        lambda n: _write(made, rotation(n), Condition()), lambda n: _write(subject, rotation(n), Condition()),
        at_most=1.03,
    )  # fmt: skip


def measure(
    comparison: Comparison,
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
    before: Callable[[], None] = lambda: None,
) -> Timing:
    """Interleaved rounds of both ways, by the clock (seconds); `before` is done, untimed, before each of them."""
    pairs = []
    for number in range(rounds + 1):
        ways = {"ours": comparison.ours, "plain": comparison.plain}
        order = ("ours", "plain") if number % 2 else ("plain", "ours")
        took = {}
        for way in order:
            before()
            begun = clock()
            ways[way](number)
            took[way] = clock() - begun
        shared = 0.0
        if comparison.once is not None:
            before()
            begun = clock()
            comparison.once(number)
            shared = clock() - begun
        if number:
            pairs.append((took["ours"], comparison.times * took["plain"] - (comparison.times - 1) * shared))
    upward = comparison.at_least is not None
    ratios = [plain / ours if upward else ours / plain for ours, plain in pairs]
    ratio = statistics.median(ratios)
    bar = f"at least {comparison.at_least:g}" if upward else f"at most {comparison.at_most:g}"
    holds = ratio >= (comparison.at_least or 0) if upward else ratio <= (comparison.at_most or 0)
    return Timing(
        comparison.name, comparison.ratio, statistics.median(o for o, _ in pairs),
        statistics.median(p for _, p in pairs), ratio, (min(ratios), max(ratios)), len(pairs), bar, holds,
    )  # fmt: skip


@dataclass(frozen=True)
class Rotation:
    """A different stretch of the bank each round."""

    bank: Items
    count: int

    def __call__(self, number: int) -> list[Item]:
        """The items of a round."""
        return [self.bank[(number * self.count + k) % len(self.bank)] for k in range(self.count)]


def comparisons(subject: Subject, rotation: Rotation) -> list[Comparison]:
    """What is compared; each pair is first held to give the same numbers."""
    vector = fit(record(subject, labelled(rotation(0))))
    layer = subject.n_layers // 2
    _agree(subject, rotation(0))
    return [
        Comparison(
            "recording, against a bare forward", "share of the bare forward's speed, same batches",
            lambda n: record(subject, _alone(rotation(n))), lambda n: _bare(subject, _alone(rotation(n))),
            at_least=0.95,
        ),
        Comparison(
            "recording labelled items", "times as fast as one text at a time",
            lambda n: record(subject, labelled(rotation(n))),
            lambda n: response_means(subject, _rows(labelled(rotation(n)))), at_least=3.0,
        ),
        Comparison(
            "TRAIT, likelihood", "times as fast as one prompt at a time",
            lambda n: TraitBenchmark(rotation(n)).measure(subject),
            lambda n: likelihoods(subject, _option_rows(rotation(n))), at_least=3.0,
        ),
        Comparison(
            "TRAIT, choice", "times as fast as one prompt at a time",
            lambda n: TraitBenchmark(rotation(n), "choice").measure(subject),
            lambda n: letters(subject, TraitBenchmark(rotation(n), "choice").prompts()), at_least=1.5,
        ),
        Comparison(
            f"{len(DOSES)} doses at layer {layer}", "time over that of the work that differs",
            lambda n: _sweep(subject, vector, layer, rotation(n)),
            lambda n: TraitBenchmark(rotation(n)).measure(subject), at_most=1.15,
            times=len(DOSES), once=lambda n: _below(subject, _option_rows(rotation(n)), layer),
        ),
        Comparison(
            "steered generation", "time over that of unsteered, same text",
            lambda n: _write(subject, rotation(n), Condition(steers=(Steer(vector, layer, dose=SAME_TEXT),))),
            lambda n: _write(subject, rotation(n), Condition()), at_most=1.03,
        ),
    ]  # fmt: skip


def _alone(items: Sequence[Item]) -> list[Response]:
    """One response a prompt, so that no prompt is shared and both ways do the same work."""
    return [r for n, r in enumerate(labelled(items)) if n % len(OPTIONS) == 0]


def _rows(responses: Sequence[Response]) -> list[Row]:
    return [Row(r.prompt, r.text, r.system) for r in responses]


def _option_rows(items: Sequence[Item]) -> list[Row]:
    return [Row(item.prompt, item.responses[name]) for item in items for name in OPTIONS]


@torch.no_grad()
def _bare(subject: Subject, responses: Sequence[Response]) -> None:
    """The decoder over the same batches, nothing kept: the floor of recording."""
    _below(subject, _rows(responses), subject.n_layers - 1)


@torch.no_grad()
def _below(subject: Subject, rows: Sequence[Row], layer: int) -> None:
    """The decoder over the rows' batches up to a layer, nothing kept: what doses at that layer have in common."""

    def forward(packed: Any) -> None:
        with reading(subject, packed.responses), stopping_after(subject, layer):
            subject.decoder(**packed.inputs, use_cache=False)

    in_batches(subject, rows, forward)


def _sweep(subject: Subject, vector: PersonaVector, layer: int, items: Sequence[Item]) -> None:
    with reusing_below(subject, layer):
        for dose in DOSES:
            with subject.under(Condition(steers=(Steer(vector, layer, dose=dose),))):
                TraitBenchmark(items).measure(subject)


def _write(subject: Subject, items: Sequence[Item], condition: Condition) -> None:
    with subject.under(condition):
        generate(subject, [item.prompt for item in items], max_new_tokens=NEW_TOKENS)


def _agree(subject: Subject, items: Sequence[Item]) -> None:
    """The plain ways give our numbers; a race between different jobs would say nothing.

    Raises:
        RuntimeError: they differ by more than batches round.
    """
    limit = AGREE.get(subject.dtype, 0.25)
    ours = record(subject, labelled(items)).values[:, :-1]
    plain = response_means(subject, _rows(labelled(items)))
    far = float(np.abs(ours - plain).max() / np.abs(plain).max())
    if far > limit:
        raise RuntimeError(f"bench: recording and one text at a time differ by {far:.2g} of the largest activation")
    rows = TraitBenchmark(items).measure(subject).rows
    means = [float(x.mean()) for x in likelihoods(subject, _option_rows(items))]
    ours_means = [row["logprobs"][name] for row in rows for name in OPTIONS]
    far = max(abs(a - b) for a, b in zip(ours_means, means, strict=True))
    if far > limit:
        raise RuntimeError(f"bench: likelihoods differ by {far:.2g} from those of one text at a time")

"""`bench`: a sweep of doses against the work that differs from dose to dose."""

from __future__ import annotations

from collections.abc import Callable

from llm_persona.analysis.vectors import PersonaVector
from llm_persona.domain.condition import Condition, Steer
from llm_persona.instruments.trait_benchmark import Mode, TraitBenchmark
from llm_persona.studies.bench_forwards import option_rows, orders, prompts_up_to, up_to
from llm_persona.studies.rotation import Rotation
from llm_persona.studies.timing import Comparison
from llm_persona.subject.load import Subject
from llm_persona.subject.reuse import reusing_below

DOSES = (-0.3, -0.2, -0.1, 0.1, 0.2, 0.3)
BAR = 1.15
ALL_ABOVE = "time over: all above it for each dose, the rest once"
BY_BLOCKS = "time over: the blocks above it for each dose, the rest and the output layer once"


def dose_comparisons(subject: Subject, vector: PersonaVector, rotation: Rotation, letters: bool) -> list[Comparison]:
    """The doses in likelihood mode and, with `letters`, in choice mode. What is above the steered layer differs with
    each dose, the output layer too; `by blocks` takes the decoder blocks alone to differ, and lets the output layer be
    gone through once."""
    layer = subject.n_layers // 2

    def below(number: int) -> None:
        up_to(subject, option_rows(rotation(number)), layer)

    def blocks(number: int) -> None:
        up_to(subject, option_rows(rotation(number)), subject.n_layers - 1)

    found = [
        Comparison(
            f"{len(DOSES)} doses at layer {layer}, likelihood, all above", ALL_ABOVE,
            _sweep(subject, vector, layer, rotation, "likelihood"),
            lambda n: TraitBenchmark(rotation(n)).measure(subject), at_most=BAR,
            # (what a measurement itself takes over its forward, another comparison says)
            times=len(DOSES), beside=[(1 - len(DOSES), below)],
        ),
        Comparison(
            f"{len(DOSES)} doses at layer {layer}, likelihood, by blocks", BY_BLOCKS,
            _sweep(subject, vector, layer, rotation, "likelihood"),
            lambda n: TraitBenchmark(rotation(n)).measure(subject), at_most=BAR,
            beside=[(len(DOSES) - 1, blocks), (1 - len(DOSES), below)],
        ),
    ]  # fmt: skip
    return [*found, *_choice(subject, vector, layer, rotation)] if letters else found


def _choice(subject: Subject, vector: PersonaVector, layer: int, rotation: Rotation) -> list[Comparison]:
    def below(number: int) -> None:
        prompts_up_to(subject, orders(rotation(number)), layer)

    def blocks(number: int) -> None:
        prompts_up_to(subject, orders(rotation(number)), subject.n_layers - 1)

    return [
        Comparison(
            f"{len(DOSES)} doses at layer {layer}, choice, by blocks", BY_BLOCKS,
            _sweep(subject, vector, layer, rotation, "choice"),
            lambda n: TraitBenchmark(rotation(n), "choice").measure(subject), at_most=BAR,
            beside=[(len(DOSES) - 1, blocks), (1 - len(DOSES), below)],
        )
    ]  # fmt: skip


def _sweep(
    subject: Subject, vector: PersonaVector, layer: int, rotation: Rotation, mode: Mode
) -> Callable[[int], None]:
    def sweep(number: int) -> None:
        asked = TraitBenchmark(rotation(number), mode)
        with reusing_below(subject, layer):
            for dose in DOSES:
                with subject.under(Condition(steers=(Steer(vector, layer, dose=dose),))):
                    asked.measure(subject)

    return sweep

"""From answers and openings to what the page draws."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llm_persona.interfaces.playground import paint
from llm_persona.interfaces.playground.settings import Settings
from llm_persona.interfaces.playground.shelf import Offer
from llm_persona.studies.side_by_side import Pair, Written, Zero

READERS = ("unsteered model: what was written", "its writer: with what steering adds")
BASE_TITLE, OTHER_TITLE = "Base", "With your settings"
UNSET = "Nothing is set: move a slider, choose an adapter or write a system turn."


@dataclass(frozen=True)
class Shown:
    """The answers on the page, so that they can be coloured anew without asking again."""

    pair: Pair
    offers: tuple[Offer, ...]
    zero: Zero


def waiting() -> tuple[str, str]:
    """Both panes before the first question."""
    text = "The answer comes here."
    return paint.answer(BASE_TITLE, None, None, 1.0, text), paint.answer(OTHER_TITLE, None, None, 1.0, text)


def panes(shown: Shown, colour: str | None, layer: float, reader: str) -> tuple[str, str, str]:
    """Both answers and the legend. `colour`: the vector whose projections colour the tokens, at `layer`."""
    pair, zero = shown.pair, shown.zero
    vectors = [offer.vector for offer in shown.offers]
    number = next((n for n, offer in enumerate(shown.offers) if offer.name == colour), None)
    place = 0 if number is None else min(max(int(layer), 0), vectors[number].n_layers - 1)

    def values(written: Written | None) -> np.ndarray | None:
        read = None if written is None else written.by_base if reader == READERS[0] else written.by_itself
        if read is None or number is None:
            return None
        found: np.ndarray = zero.gaps(read, vectors, prompt=False)[:, number, place]
        return found

    left, right = values(pair.base), values(pair.other)
    limit = paint.limit_of([v for v in (left, right) if v is not None])
    title = OTHER_TITLE if pair.other is None else f"{OTHER_TITLE}: {pair.condition.name}"
    drawn = (
        paint.answer(BASE_TITLE, pair.base, left, limit),
        paint.answer(title, pair.other, right, limit, UNSET if pair.other is None else ""),
    )
    if number is None or left is None:
        return (*drawn, "")
    text = (
        f"0 is the mean over {zero.n_responses} high and low responses to {zero.n_questions} questions about all "
        "traits."
    )
    return (*drawn, paint.legend(shown.offers[number].name, place, limit, text))


def gauge(settings: Settings, base: np.ndarray, other: np.ndarray | None, zero: Zero) -> str:
    """The gauge from openings [vectors, layers], each vector read at the layer it steers at."""
    if not settings.offers:
        return ""
    vectors = settings.vectors
    left = zero.gaps(base, vectors, prompt=True)
    right = left if other is None else zero.gaps(other, vectors, prompt=True)
    needles = [
        paint.Needle(
            offer.name,
            layer,
            float(left[n, layer]),
            None if other is None else float(right[n, layer]),
            float(zero.spread(offer.vector)[layer]),
        )
        for n, (offer, layer) in enumerate(zip(settings.offers, settings.layers, strict=True))
    ]
    return paint.gauge(
        needles,
        "Projection at the last token of the prompt, in pole gaps. 0 is the mean of "
        f"{zero.n_questions} questions about all traits, read by the unsteered model; the grey band is one standard "
        "deviation of theirs to either side. Hollow: base. Filled: with your settings, what steering adds included.",
    )


def changes(settings: Settings) -> bool:
    """Whether anything is set."""
    condition = settings.condition
    return condition.system is not None or condition.adapter is not None or bool(condition.steers)

"""What the page's controls say, understood and checked against what is on offer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_persona.analysis.vectors import PersonaVector
from llm_persona.domain.condition import Condition, Steer
from llm_persona.domain.errors import UserError
from llm_persona.interfaces.playground.recipe import Push, Recipe
from llm_persona.interfaces.playground.shelf import Offer, Shelf

NO_ADAPTER = "none"


@dataclass(frozen=True)
class Settings:
    """The same thing three ways: to copy, to put the model into, and to read along."""

    recipe: Recipe
    condition: Condition
    offers: tuple[Offer, ...]
    """The chosen vectors, those at dose 0 too."""
    layers: tuple[int, ...]
    """The steering layer of each."""
    warning: str

    @property
    def vectors(self) -> list[PersonaVector]:
        """The vectors of the offers."""
        return [offer.vector for offer in self.offers]


def understood(
    shelf: Shelf,
    model: str,
    adapter: str | None,
    chosen: Sequence[str] | None,
    system: str | None,
    tokens: float,
    question: str | None,
    doses: Sequence[Any],
    layers: Sequence[Any],
    dtype: str = "auto",
    device: str = "auto",
) -> Settings:
    """The settings of the controls. `doses` and `layers` stand in the order of the shelf's offers (more are ignored).

    Raises:
        UserError: a model or adapter that is not on offer.
    """
    if model not in shelf.models:
        raise UserError("this model is not on offer here; start the playground with --model")
    given = None if adapter in (None, NO_ADAPTER) else str(adapter)
    if given is not None and given not in shelf.adapters_of(model):
        raise UserError("this adapter is not on offer for this model")
    offers, at, pushes, steers, beyond = [], [], [], [], []
    for offer, strength, place in zip(shelf.offers, doses, layers, strict=False):
        if offer.model != model or offer.name not in (chosen or ()):
            continue
        dose = round(float(strength or 0.0), 4)
        layer = min(max(int(place or 0), 0), offer.vector.n_layers - 1)
        offers.append(offer)
        at.append(layer)
        if dose != 0:
            pushes.append(Push(offer.name, offer.path, layer, dose))
            steers.append(Steer(offer.vector, layer, dose=dose, name=offer.name))
            if offer.usable is not None and not offer.usable[0] <= dose <= offer.usable[1]:
                ends = f"{offer.usable[0]:+g} to {offer.usable[1]:+g}"
                beyond.append(f"{offer.name}: dose {dose:+g} is beyond the usable range ({ends}); text may break.")
    turn = system if system and system.strip() else None
    parts = ["system turn" if turn else "", f"adapter {Path(given).name}" if given else ""]
    name = " + ".join(p for p in (*parts, *[s.label for s in steers]) if p) or "base"
    return Settings(
        Recipe(model, question or "", tuple(pushes), given, turn, int(tokens), dtype, device),
        Condition(name, turn, given, tuple(steers)),
        tuple(offers),
        tuple(at),
        " ".join(beyond),
    )

"""What each vector's sliders say and how far they go."""

from __future__ import annotations

from typing import Any

from llm_persona.interfaces.playground.shelf import Offer

REACH = 0.4
"""Largest dose of a slider where no wider range was measured."""


def reach_of(offer: Offer) -> float:
    """The largest dose of an offer's slider: half as much again as its usable range, so that the end can be seen."""
    return max([REACH, *[round(1.5 * abs(end), 2) for end in offer.usable or ()]])


def dose_slider(offer: Offer | None, visible: bool) -> dict[str, Any]:
    """Properties of a dose slider; without an offer, of one that waits for a vector."""
    reach = REACH if offer is None else reach_of(offer)
    found = {"minimum": -reach, "maximum": reach, "value": 0.0, "step": 0.01, "label": "dose", "visible": visible}
    if offer is None:
        return {**found, "visible": False}
    if offer.usable is None:
        info = "Usable range not measured; text often holds to about 0.2."
    else:
        info = f"Usable: {offer.usable[0]:+g} to {offer.usable[1]:+g}, marked on the track."
    return {**found, "label": f"{offer.name}: dose", "info": info}


def layer_slider(offer: Offer | None, visible: bool) -> dict[str, Any]:
    """Properties of a layer slider."""
    if offer is None:
        return {"minimum": 0, "maximum": 1, "value": 0, "step": 1, "label": "layer", "visible": False}
    return {
        "minimum": 0,
        "maximum": max(1, offer.vector.n_layers - 1),
        "value": offer.layer,
        "step": 1,
        "label": f"{offer.name}: layer",
        "info": f"Starts at {offer.layer}: {offer.layer_from}.",
        "visible": visible,
    }


def marks(offers: list[Offer]) -> str:
    """CSS that draws the usable part of each dose slider's track stronger (`#dose-N`, in the offers' order)."""
    return "\n".join(
        _track(f"#dose-{number}", offer.usable, reach_of(offer))
        for number, offer in enumerate(offers)
        if offer.usable is not None
    )


def _track(selector: str, usable: tuple[float, float], reach: float) -> str:
    # where the middle of the thumb, 16 pixels wide, stands at each end of the range
    low, high = (f"calc(8px + (100% - 16px) * {(end + reach) / (2 * reach):.4f})" for end in usable)
    stops = f"var(--lp-off) {low}, var(--lp-on) {low}, var(--lp-on) {high}, var(--lp-off) {high}"
    rule = f"background: linear-gradient(to right, {stops}) !important;"
    tracks = ("-webkit-slider-runnable-track", "-moz-range-track")
    return "\n".join(f"{selector} input[type=range]::{track} {{ {rule} }}" for track in tracks)

"""Tokens coloured by projection: one scale for terminal and page, and the page itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from llm_persona.studies.page import render_page

STRONGEST = 45
"""Percent of a pole's colour behind a token at the end of the scale: the text on it stays well readable."""
MARKED = 0.5
"""Share of the scale from which on a token is underlined too, so that colour alone says nothing."""


def colour_scale(gaps: Sequence[float]) -> float:
    """Pole gaps at which the colour is full: the 90th percentile of the distances from zero, 0.5 at the least.

    Single tokens lie further out than means over answers, and a few lie very far out.
    """
    values = np.abs(np.asarray(gaps, dtype=np.float64))
    return max(0.5, float(np.percentile(values, 90))) if len(values) else 1.0


def shade(gap: float, scale: float) -> float:
    """Where a token lies on the scale: -1 (low) to 1 (high)."""
    return float(np.clip(gap / scale, -1.0, 1.0))


def page_of(conversations: Sequence[Mapping[str, Any]], about: Mapping[str, Any]) -> str:
    """One self-contained page of traces (`Trace.as_json`), each token behind its colour; model text is escaped.

    Args:
        about: `model` and `condition` (its name).
    """
    views = [_view(conversation, k) for conversation in conversations for k in range(len(conversation["vectors"]))]
    return render_page("trace.html.j2", {}, script_file="trace.js", views=views, about=about)


def _view(conversation: Mapping[str, Any], k: int) -> dict[str, Any]:
    vector, tokens = conversation["vectors"][k], conversation["tokens"]
    scale = colour_scale([t["pole_gaps"][k] for t in tokens if t["turn"] is not None])
    at = conversation["answer_at"]

    def in_gaps(value: float | None) -> float | None:
        return None if value is None else (value - vector["zero"]) / vector["pole_gap"]

    return {
        "vector": vector,
        "scale": scale,
        "prompt_last": in_gaps(vector["prompt_last"]),
        "response_mean": in_gaps(vector["response_mean"]),
        "blocks": _blocks([_cell(t, k, scale, n == at - 1) for n, t in enumerate(tokens)]),
        "written": conversation["finish"],
    }


def _cell(token: Mapping[str, Any], k: int, scale: float, last: bool) -> dict[str, Any]:
    gap = token["pole_gaps"][k]
    share = shade(gap, scale)
    name = f"{'h' if share > 0 else 'l'}{round(abs(share) * 9)}"
    if abs(share) >= MARKED:
        name += " up" if share > 0 else " down"
    return {
        "text": token["text"],
        "role": token["role"],
        "gap": gap,
        "projection": token["projection"][k],
        "class": f"{name} now" if last else name,
        "last": last,
    }


def _blocks(cells: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Runs of tokens of one role."""
    blocks: list[dict[str, Any]] = []
    for cell in cells:
        if not blocks or blocks[-1]["role"] != cell["role"]:
            blocks.append({"role": cell["role"], "cells": []})
        blocks[-1]["cells"].append(cell)
    return blocks

"""How far a vector moves its own trait, and how far it spills over into the others: with intervals over items."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from llm_persona.analysis.stats import bootstrap_weights, corrected_interval, percentile_interval, widened

DRAWS = 2000
Shifts = Mapping[str, Mapping[str, float]]
"""By measured trait, each item's shift."""


def compared_effects(own: str, whole: Shifts, without: Shifts, seed: int = 0) -> dict[str, Any]:
    """The effects of two vectors on the same items, and the difference of their spill, paired by item.

    Items are resampled within each measured trait, the same ones for both vectors. Items of one vector alone are left
    out. Absolute means are above 0 by noise alone, in both vectors alike.

    Returns:
        `whole` and `without`, each with `own` (mean shift of the trait that is steered), `others` (mean over the other
        traits of the absolute mean shift), `ratio` (others over absolute own) and their `_ci`; `ratio_difference`
        (without less whole: below 0 is more specific) and `ratio_difference_ci`. None where there is no item.
    """
    means: list[dict[str, float]] = [{}, {}]
    draws: list[dict[str, np.ndarray]] = [{}, {}]
    fewest = None
    for place, trait in enumerate(whole):
        ids = [i for i in whole[trait] if i in without.get(trait, {})]
        if not ids:
            continue
        fewest = len(ids) if fewest is None else min(fewest, len(ids))
        weights = bootstrap_weights(len(ids), DRAWS, seed + place) / len(ids)
        for k, shifts in enumerate((whole, without)):
            values = np.array([shifts[trait][i] for i in ids], dtype=np.float64)
            means[k][trait], draws[k][trait] = float(values.mean()), weights @ values
    n = fewest or 0
    found: dict[str, Any] = {}
    ratios = []
    for k, name in enumerate(("whole", "without")):
        summary, ratio = _effect(own, means[k], draws[k], n)
        found[name] = summary
        ratios.append(ratio)
    difference: float | None = None
    ci: list[float | None] = [None, None]
    if None not in (found["whole"]["ratio"], found["without"]["ratio"]):
        difference = found["without"]["ratio"] - found["whole"]["ratio"]
        ci = _interval(ratios[1] - ratios[0], difference, n)
    return {**found, "ratio_difference": difference, "ratio_difference_ci": ci, "n_items": n}


def _effect(
    own: str, means: Mapping[str, float], draws: Mapping[str, np.ndarray], n: int
) -> tuple[dict[str, Any], np.ndarray]:
    """Own and others with intervals, and the draws of their ratio."""
    rest = [trait for trait in means if trait != own]
    value = means.get(own)
    others = float(np.mean([abs(means[t]) for t in rest])) if rest else None
    spilled = np.mean([np.abs(draws[t]) for t in rest], axis=0) if rest else np.full(DRAWS, np.nan)
    moved = draws.get(own, np.full(DRAWS, np.nan))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.where(moved != 0, spilled / np.abs(moved), np.nan)
    ratio = others / abs(value) if others is not None and value else None
    return {
        "own": value,
        "own_ci": _interval(moved, value, n),
        "others": others,
        "others_ci": _corrected(spilled, others, n),
        "ratio": ratio,
        "ratio_ci": _corrected(ratios, ratio, n),
    }, ratios


def _corrected(draws: np.ndarray, value: float | None, n: int) -> list[float | None]:
    """Of means of absolute values, which resampling moves up."""
    if value is None or n < 2 or not np.isfinite(draws).any():
        return [None, None]
    return list(corrected_interval(draws, value))


def _interval(draws: np.ndarray, value: float | None, n: int) -> list[float | None]:
    if value is None or n < 2 or not np.isfinite(draws).any():
        return [None, None]
    return list(widened(percentile_interval(draws), value, n))

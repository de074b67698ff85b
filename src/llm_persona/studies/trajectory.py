"""How the persona moves while a model is trained: what is watched, and its picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llm_persona.domain.adapters import adapter_record
from llm_persona.domain.errors import UserError
from llm_persona.domain.items import Items
from llm_persona.domain.traits import load_trait
from llm_persona.instruments.trait_benchmark import TraitBenchmark
from llm_persona.studies.figures import NEUTRAL, prepare_matplotlib, save_figure
from llm_persona.studies.profile_figure import MARKERS, PALETTE
from llm_persona.subject.load import Subject
from llm_persona.training.along import MEASURED, Watch
from llm_persona.training.data import TrainingData
from llm_persona.training.recipe import Recipe


def watch_for(traits: Sequence[str], data: TrainingData, recipe: Recipe, every: int | None = None) -> Watch:
    """Watch the TRAIT preference of each trait on its select split (15 items; no adapter is trained on them).

    The row of a step holds `preference TRAIT`, the mean probability of high in likelihood mode, and `interval TRAIT`,
    its 95% interval over the items.
    """
    sets = {name: Items(load_trait(name).bank, name).split("select") for name in traits}

    def measure(subject: Subject) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, items in sets.items():
            summary = TraitBenchmark(items).measure(subject).summary
            found |= {f"preference {name}": summary["preference"], f"interval {name}": summary["preference_ci"]}
        return found

    if every is None:
        prompts = len({(e.system, e.earlier, e.prompt) for e in data.examples})
        steps = -(-prompts // recipe.prompts_per_step) * recipe.epochs
        every = max(1, min(steps, recipe.max_steps or steps) // MEASURED)
    return Watch(every, measure, {name: items.digest for name, items in sets.items()})


def save_trajectory(folder: Path) -> list[Path]:
    """Draw what was measured along a training into its folder: trajectory.svg and .png.

    Raises:
        UserError: nothing was measured along the way.
    """
    rows = (adapter_record(folder) or {}).get("result", {}).get("along", [])
    if not rows:
        raise UserError(f"{folder}: nothing was measured along the way; train with --watch TRAIT or --held-out SHARE")

    def known(ci: Any) -> bool:
        return bool(ci) and ci[0] is not None

    plt = prepare_matplotlib()
    watched = sorted({key for row in rows for key in row if key.startswith("preference ")})
    losses = [(row["step"], row["held_out"]) for row in rows if "held_out" in row]
    panels = bool(watched) + bool(losses)
    figure, axes = plt.subplots(1, panels, figsize=(4.2 * panels, 3.0), squeeze=False)
    places = list(axes[0])
    if watched:
        axis = places.pop(0)
        for number, key in enumerate(watched):
            points = [(row["step"], 100 * row[key]) for row in rows if row.get(key) is not None]
            colour, marker = PALETTE[number % len(PALETTE)], MARKERS[number % len(MARKERS)]
            name = key.removeprefix("preference ")
            axis.plot(*zip(*points, strict=True), color=colour, marker=marker, markersize=4, label=name)
            spans = [(row["step"], *row[f"interval {name}"]) for row in rows if known(row.get(f"interval {name}"))]
            if spans:  # (adapters of earlier versions have none)
                steps, low, high = (np.array(part, dtype=np.float64) for part in zip(*spans, strict=True))
                axis.fill_between(steps, 100 * low, 100 * high, color=colour, alpha=0.15, lw=0)
        axis.set(xlabel="step", ylabel="preference for high, %", ylim=(0, 100))
        axis.legend(frameon=False)
    if losses:
        axis = places.pop(0)
        axis.plot(*zip(*losses, strict=True), color=NEUTRAL, marker="o", markersize=4)
        axis.set(xlabel="step", ylabel="held-out loss per answer token")
    figure.tight_layout()
    return save_figure(figure, folder / "trajectory")

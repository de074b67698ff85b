"""Persona profiles as one picture: a radar of the scores, and bars with their intervals."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from llm_persona.studies.figures import HIGH, INK, LOW, NEUTRAL, prepare_matplotlib, save_figure

PALETTE = (NEUTRAL, "#1b9e77", "#9467bd", "#b8860b", "#d1548f", "#5b8c2a", "#4c9aa8", "#a0522d")
"""For what is no pole: neither orange nor blue among them. Markers differ too; beyond eight the hatching."""
HATCHES = (None, "//", "..", "xx")
"""Runs of one colour differ by these."""
MARKERS = "osD^vPX*"


def profile_figure(comparison: dict[str, Any]) -> tuple[Any, str]:
    """Figure and alternative text of the runs in a comparison (percent of high answers; 95% intervals)."""
    plt = prepare_matplotlib()
    runs = comparison["runs"]
    traits = list(dict.fromkeys(name for run in runs for name in run["traits"]))
    radar = len(traits) >= 3
    height = max(3.2, 0.22 * len(traits) * (len(runs) + 1) + 1.2)
    figure = plt.figure(figsize=(10.5 if radar else 6.5, height))
    if radar:
        _radar(figure.add_subplot(1, 2, 1, projection="polar"), runs, traits)
    _bars(figure.add_subplot(1, 2 if radar else 1, 2 if radar else 1), runs, traits)
    figure.tight_layout()
    words = []
    for run in runs:
        scores = [f"{name} {t['score']:.0f}%" for name, t in run["traits"].items() if t["score"] is not None]
        words.append(f"{run['label']}: {', '.join(scores) or 'nothing scored'}")
    return figure, "Percent of items with a high answer. " + "; ".join(words) + "."


def colours(runs: list[dict[str, Any]]) -> list[str]:
    """A colour for each run: that of its pole where its condition aims at one."""
    found, free = [], 0
    for run in runs:
        words = str(run.get("condition", {}).get("name", "")).split()
        pole = HIGH if "high" in words else LOW if "low" in words else None
        found.append(pole or PALETTE[free % len(PALETTE)])
        free += pole is None
    return found


def _radar(axis: Any, runs: list[dict[str, Any]], traits: list[str]) -> None:
    inks = colours(runs)
    angles = [2 * math.pi * n / len(traits) for n in range(len(traits))]
    for number, run in enumerate(runs):
        scores = [(run["traits"].get(name) or {}).get("score") for name in traits]
        values = [math.nan if s is None else s for s in scores]
        colour, marker = inks[number], MARKERS[number % len(MARKERS)]
        axis.plot([*angles, angles[0]], [*values, values[0]], color=colour, marker=marker, ms=3.5, lw=1.3)
    axis.set_xticks(angles, traits)
    axis.set_ylim(0, 100)
    axis.set_yticks([25, 50, 75], ["25", "50", "75"], color=NEUTRAL, fontsize=7)
    axis.tick_params(axis="x", pad=10)


def _bars(axis: Any, runs: list[dict[str, Any]], traits: list[str]) -> None:
    inks = colours(runs)
    step = 0.8 / len(runs)
    for number, run in enumerate(runs):
        colour = inks[number]
        hatch = HATCHES[inks[:number].count(colour) % len(HATCHES)]
        for place, name in enumerate(traits):
            trait = run["traits"].get(name)
            if trait is None or trait["score"] is None:
                continue
            low, high = trait["score_ci"]
            y = place - 0.4 + step * (number + 0.5)
            axis.barh(y, trait["score"], height=step * 0.9, color=colour, alpha=0.85, hatch=hatch)
            gaps = [[max(0.0, trait["score"] - low)], [max(0.0, high - trait["score"])]]
            axis.errorbar(trait["score"], y, xerr=gaps, color=INK, lw=0.8, capsize=1.5)
        axis.barh(0, 0, color=colour, hatch=hatch, label=run["label"])
    axis.set_yticks(range(len(traits)), traits)
    axis.invert_yaxis()
    axis.set_xlim(0, 100)
    axis.set_xlabel("items with a high answer, % (95% interval)")
    axis.legend(frameon=False, fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.14 - 0.3 / len(traits)))


def save_profile(comparison: dict[str, Any], path: Path) -> list[Path]:
    """Write the picture as PNG and SVG beside one another (whatever suffix `path` has); returns both paths."""
    figure, _ = profile_figure(comparison)
    return save_figure(figure, path.with_suffix(""))

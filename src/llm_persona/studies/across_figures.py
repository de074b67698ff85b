"""The figures over all traits: persona profile, specificity, geometry."""

from __future__ import annotations

from typing import Any

from llm_persona.studies.figures import HIGH, LOW, NEUTRAL, NULL, WIDTH, Drawing, diverging
from llm_persona.studies.findings import interval, number

PROFILE = {
    "base": (NEUTRAL, "o", 0.0),
    "tuned high": (HIGH, "^", -0.2),
    "tuned low": (LOW, "v", 0.2),
}
"""Conditions of the profile: colour, marker, and place beside the line of the trait."""


def draw_profile(results: dict[str, Any]) -> Drawing:
    """Every trait's score as the model stands, and tuned to either pole (where it was), with 95% intervals."""
    import matplotlib.pyplot as plt

    names = list(results["traits"])
    figure, axis = plt.subplots(figsize=(WIDTH, 0.42 * len(names) + 0.9))
    drawing = Drawing(figure, "")
    said = []
    for condition, (colour, marker, shift) in PROFILE.items():
        rows = {n: r for n, r in (results["profile"].get(condition) or {}).items() if r["score"] is not None}
        if not rows:
            continue
        places = [names.index(n) + shift for n in rows]
        for place, row in zip(places, rows.values(), strict=True):
            axis.plot(row["score_ci"], [place, place], color=colour, lw=1.6, alpha=0.7, solid_capstyle="butt")
        scores = [r["score"] for r in rows.values()]
        line = axis.plot(scores, places, marker=marker, color=colour, lw=0, label=condition, ms=6)
        drawing.tell(line[0], [f"{results['traits'][n]['title']}, {condition}: {r['score']:.0f}% "
                               f"({interval(r['score_ci'], 0)}, n = {r['n']})" for n, r in rows.items()])  # fmt: skip
        said += [f"{n} {condition} {r['score']:.0f}%" for n, r in rows.items()]
    axis.axvline(50, color=NULL, lw=0.7, ls=":")
    axis.set(yticks=range(len(names)), yticklabels=names, xlim=(-2, 102), ylim=(len(names) - 0.5, -0.5),
             xlabel="high answers, % (95% interval)")  # fmt: skip
    axis.tick_params(axis="y", length=0)
    axis.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=3, borderpad=0, handletextpad=0.3)
    drawing.alt = "Persona profile with 95% intervals: " + (", ".join(said) or "nothing was scored") + "."
    return drawing


def draw_specificity(specificity: dict[str, Any]) -> Drawing:
    """Who moves whom: steered trait by measured trait at +dose, in points of preference."""
    names, dose = specificity["traits"], specificity["dose"]
    cells = [
        [specificity["matrix"][steered].get(measured, {}).get(f"{dose:+g}", {}).get("preference") for measured in names]
        for steered in names
    ]
    drawing = _heat(names, cells, f"preference shift at dose {dose:+g}, points", 1)
    drawing.figure.axes[0].set(ylabel="steered", xlabel="measured")
    said = [f"{s} moves {m} by {v:+.1f}" for s, row in zip(names, cells, strict=True)
            for m, v in zip(names, row, strict=True) if v is not None]  # fmt: skip
    drawing.alt = f"Specificity, points of preference at dose {dose:+g}: {'; '.join(said)}."
    return drawing


def draw_geometry(geometry: dict[str, Any]) -> Drawing:
    """Cosines between the traits' vectors."""
    names = geometry["traits"]
    drawing = _heat(names, geometry["cosines"], f"cosine at layer {geometry['layer']}", 2, 1.0)
    pairs = [f"{a} and {b} {geometry['cosines'][i][j]:+.2f}" for i, a in enumerate(names)
             for j, b in enumerate(names) if i < j]  # fmt: skip
    drawing.alt = f"Cosines of the persona vectors at layer {geometry['layer']}: {', '.join(pairs)}."
    return drawing


def _heat(names: list[str], cells: list[list[float | None]], title: str, digits: int, limit: float = 0.0) -> Drawing:
    import matplotlib.pyplot as plt

    limit = limit or max((abs(v) for row in cells for v in row if v is not None), default=0.0) or 1.0
    side = 0.48 * len(names)
    figure, axis = plt.subplots(figsize=(max(2.6, 1.3 + side), max(1.6, 0.9 + 0.8 * side)))
    values = [[float("nan") if v is None else v for v in row] for row in cells]
    axis.imshow(values, cmap=diverging(), vmin=-limit, vmax=limit, aspect="auto")
    for y, row in enumerate(cells):
        for x, value in enumerate(row):
            if value is not None:
                axis.text(x, y, number(value, digits), ha="center", va="center", fontsize=7.5, color="#111111")
    axis.set_xticks(range(len(names)), names, rotation=35, ha="right")
    axis.set_yticks(range(len(names)), names)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    axis.set_title(title)
    return Drawing(figure, "")

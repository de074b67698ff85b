"""Figures of a study: one look, one colour for a pole throughout; each saved as SVG and PNG, and put into the page."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llm_persona.domain.inside import inside

HIGH, LOW, NEUTRAL, NULL = "#c8640a", "#2f7fc1", "#757575", "#9a9a9a"
"""High, low, base, and null bands. Orange and blue are distinct in every common colour-vision deficiency; each of the
four has a contrast of more than 3 on white and on the page's dark paper (NULL is for areas)."""
INK = "#000000"
"""What is neither pole nor null; on the page it takes the colour of the text."""
WIDTH = 4.6
"""Inches: about a column of a paper, and text that can still be read on a phone."""


@dataclass
class Drawing:
    """A matplotlib figure, what it says in words, and the words of single points (by the drawn line's gid)."""

    figure: Any
    alt: str
    points: dict[str, list[str]] = field(default_factory=dict)

    def tell(self, line: Any, words: list[str]) -> None:
        """Words for each marker of a line, shown when one points at it."""
        gid = f"points-{len(self.points)}"
        line.set_gid(gid)
        self.points[gid] = words


def prepare_matplotlib() -> Any:
    """pyplot without a screen, with our settings: the same drawing on every machine."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update(
        {
            "svg.hashsalt": "llm-persona",
            "svg.fonttype": "path",
            "font.size": 9,
            "axes.titlesize": 9,
            "axes.titlelocation": "left",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.linewidth": 0.7,
            "xtick.major.width": 0.7,
            "ytick.major.width": 0.7,
            "legend.frameon": False,
            "legend.fontsize": 7.5,
            "legend.handlelength": 1.4,
            "figure.dpi": 100,
        }
    )
    matplotlib.rcParams["text.parse_math"] = False  # names are text: a dollar sign in one is no formula
    import matplotlib.pyplot as plt

    return plt


def diverging() -> Any:
    """Colour map from the low pole's colour over white to the high pole's."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("poles", [LOW, "#ffffff", HIGH])


def svg_of(figure: Any) -> str:
    """The figure as SVG text, without a date."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    return buffer.getvalue()


def save_figure(figure: Any, stem: Path) -> list[Path]:
    """Write `stem`.svg and `stem`.png (300 dpi), close the figure, and return both paths."""
    import matplotlib.pyplot as plt

    from llm_persona.domain.store import appearing

    paths = [stem.parent / f"{stem.name}.svg", stem.parent / f"{stem.name}.png"]
    with appearing(paths[0]) as path:
        path.write_text(svg_of(figure), encoding="utf-8")
    with appearing(paths[1]) as path:
        figure.savefig(path, format="png", dpi=300, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)
    return paths


def draw_figures(results: dict[str, Any]) -> Iterator[tuple[str, Drawing]]:
    """Every figure of a study with its name, drawn when it is asked for."""
    from llm_persona.studies.across_figures import draw_geometry, draw_profile, draw_specificity
    from llm_persona.studies.trait_figures import draw_conditions, draw_dose, draw_layers, draw_tuned

    prepare_matplotlib()
    yield "profile", draw_profile(results)
    for name, trait in results["traits"].items():
        yield f"{name}-layers", draw_layers(name, trait)
        yield f"{name}-dose", draw_dose(name, trait)
        yield f"{name}-conditions", draw_conditions(name, trait)
        if trait["tuned"]:
            yield f"{name}-tuned", draw_tuned(name, trait)
    if results["specificity"]:
        yield "specificity", draw_specificity(results["specificity"])
    if results["geometry"]:
        yield "geometry", draw_geometry(results["geometry"])


def save_figures(drawings: Iterable[tuple[str, Drawing]], folder: Path) -> dict[str, dict[str, str]]:
    """Write each figure as SVG and PNG; returns name to `svg` (text, for the page) and `alt`."""
    from llm_persona.studies.inline_svg import inline_svg

    saved = {}
    for name, drawing in drawings:
        saved[name] = {"svg": inline_svg(drawing, name), "alt": drawing.alt}
        save_figure(drawing.figure, inside(folder, name, "results: traits"))
    return saved

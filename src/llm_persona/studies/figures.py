"""Figures of a study, from results.json alone: one colour for a pole throughout, safe for colour blindness."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from llm_persona.domain.inside import inside

HIGH, LOW, NEUTRAL, NULL = "#b35806", "#2166ac", "#4d4d4d", "#bdbdbd"
"""High, low, base, and null bands (orange and blue: distinct in every common colour-vision deficiency)."""


def prepare_matplotlib() -> Any:
    """pyplot without a screen, with our settings: the same drawing on every machine."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update(
        {
            "svg.hashsalt": "llm-persona",
            "svg.fonttype": "path",
            "font.size": 9,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "figure.dpi": 100,
        }
    )
    matplotlib.rcParams["text.parse_math"] = False  # names are text: a dollar sign in one is no formula
    import matplotlib.pyplot as plt

    return plt


def svg_of(figure: Any) -> str:
    """The figure as SVG text, without a date."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    return buffer.getvalue()


def save_figure(figure: Any, stem: Path) -> list[Path]:
    """Write `stem`.svg and `stem`.png (200 dpi), close the figure, and return both paths."""
    import matplotlib.pyplot as plt

    from llm_persona.domain.store import appearing

    paths = [stem.parent / f"{stem.name}.svg", stem.parent / f"{stem.name}.png"]
    with appearing(paths[0]) as path:
        path.write_text(svg_of(figure), encoding="utf-8")
    with appearing(paths[1]) as path:
        figure.savefig(path, format="png", dpi=200, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)
    return paths


def draw_figures(results: dict[str, Any]) -> dict[str, tuple[Any, str]]:
    """Name to (matplotlib figure, alternative text)."""
    prepare_matplotlib()
    figures = {}
    for name, trait in results["traits"].items():
        figures[f"{name}-layers"] = _layers(name, trait)
        figures[f"{name}-dose"] = _dose(name, trait)
        figures[f"{name}-conditions"] = _conditions(name, trait)
    figures["profile"] = _profile(results)
    return figures


def save_figures(results: dict[str, Any], folder: Path) -> dict[str, dict[str, str]]:
    """Write each figure as SVG and PNG; returns name to `svg` (text, for the page) and `alt`."""
    saved = {}
    for name, (figure, alt) in draw_figures(results).items():
        paths = save_figure(figure, inside(folder, name, "results.json: traits"))
        text = paths[0].read_text(encoding="utf-8")
        saved[name] = {"svg": text[text.index("<svg") :], "alt": alt}
    return saved


def _axes(width: float = 5.2, height: float = 2.9) -> Any:
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=(width, height))


def _layers(name: str, trait: dict[str, Any]) -> tuple[Any, str]:
    import matplotlib.pyplot as plt

    vector = trait["vector"]
    rows = vector["layers"]
    x = [r["layer"] for r in rows]
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(5.2, 4.2), sharex=True, height_ratios=[3, 2])
    null = vector["controls"]["random_auc"]
    top.axhspan(null[0], null[1], color=NULL, alpha=0.45, lw=0, label="random directions, 95%")
    top.fill_between(x, [r["auc_ci"][0] for r in rows], [r["auc_ci"][1] for r in rows], color=HIGH, alpha=0.22, lw=0)
    top.plot(x, [r["auc"] for r in rows], color=HIGH, marker="o", ms=2.5, lw=1.3, label="persona vector, 95% interval")
    lexical = vector["controls"]["lexical_auc"]
    if lexical is not None:
        top.axhline(lexical, color=NEUTRAL, ls="--", lw=1, label=f"bag of words {lexical:.2f}")
    layer = vector["recommended"]["balanced"]
    for axis in (top, bottom):
        axis.axvline(layer, color=NEUTRAL, lw=0.8, ls=":")
    top.set(ylabel="held-out AUC", ylim=(min(0.3, null[0] - 0.02), 1.02), title=f"{name}: how well each layer reads it")
    top.legend(frameon=False, fontsize=7, loc="lower right")
    bottom.fill_between(
        x, [r["separation_ci"][0] for r in rows], [r["separation_ci"][1] for r in rows], color=LOW, alpha=0.22, lw=0
    )
    bottom.plot(x, [r["separation"] for r in rows], color=LOW, marker="o", ms=2.5, lw=1.3)
    bottom.set(xlabel="layer (output of decoder block)", ylabel="separation")
    best = max(rows, key=lambda r: r["auc"])
    alt = (
        f"Held-out AUC and separation of the {name} vector by layer. The best AUC is {best['auc']:.2f} at layer "
        f"{best['layer']}; the recommended layer {layer} has {rows[layer]['auc']:.2f}. Random directions lie "
        f"between {null[0]:.2f} and {null[1]:.2f}."
    )
    return figure, alt


def _dose(name: str, trait: dict[str, Any]) -> tuple[Any, str]:
    import matplotlib.pyplot as plt

    base = {**trait["baseline"], "dose": 0.0}
    points = sorted([*trait["steering"], base], key=lambda p: p["dose"])
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(5.2, 4.2), sharex=True, height_ratios=[3, 2])
    usable = trait["dose_response"]["usable_range"]
    for axis in (top, bottom):
        axis.axvspan(*usable, color=NULL, alpha=0.35, lw=0, label="usable range")
    scored = [p for p in points if p["score"] is not None]
    top.errorbar(
        [p["dose"] for p in scored],
        [p["score"] for p in scored],
        yerr=[
            [p["score"] - p["score_ci"][0] for p in scored],
            [p["score_ci"][1] - p["score"] for p in scored],
        ],
        color=HIGH, marker="o", ms=3.5, lw=1.3, capsize=2, label="score, 95% interval",
    )  # fmt: skip
    controls = trait["controls"]
    for shift in controls["random"]:
        if shift["score_shift"] is None:
            continue
        top.plot(controls["dose"], (base["score"] or 0) + shift["score_shift"], marker="x", color=NEUTRAL, ms=4, lw=0)
    if controls["random"]:
        top.plot([], [], marker="x", color=NEUTRAL, ms=4, lw=0, label="random directions")
    top.set(ylabel="high answers (%)", ylim=(-3, 103), title=f"{name}: dose-response at layer {controls['layer']}")
    top.legend(frameon=False, fontsize=7, loc="upper left")
    costs = [(p["dose"], p["perplexity"]) for p in points if p["perplexity"] is not None]
    bottom.plot(*zip(*costs, strict=True), color=NEUTRAL, marker="s", ms=3, lw=1.2, label="neutral text")
    answers = [(p["dose"], p["response_perplexity"]) for p in points if p.get("response_perplexity") is not None]
    if answers:
        bottom.plot(
            *zip(*answers, strict=True), color=LOW, marker="^", ms=3, lw=1.2, label="its own answers, read by base"
        )
    bottom.set(xlabel="dose (share of the layer's activation norm)", ylabel="perplexity", yscale="log")
    bottom.legend(frameon=False, fontsize=7)
    ends = "no dose was scored"
    if scored:
        a, b = scored[0], scored[-1]
        ends = f"from {a['score']:.0f}% at dose {a['dose']:+g} to {b['score']:.0f}% at dose {b['dose']:+g}"
    return (
        figure,
        f"Score and perplexity against steering dose for {name}: {ends}; usable from {usable[0]:+g} to {usable[1]:+g}.",
    )


def _bars(trait: dict[str, Any]) -> list[tuple[str, dict[str, Any], str]]:
    rows = [("base", trait["baseline"], NEUTRAL)]
    rows += [(f"instructed {p}", trait["instructed"][p], HIGH if p == "high" else LOW) for p in ("high", "low")]
    usable = trait["dose_response"]["usable_range"]
    for end, colour in zip(reversed(usable), (HIGH, LOW), strict=True):
        point = next((p for p in trait["steering"] if p["dose"] == end), None)
        if point is not None:
            rows.append((f"steered {end:+g}", point, colour))
    rows += [(f"tuned {p}", row, HIGH if p == "high" else LOW) for p, row in trait["tuned"].items()]
    return [row for row in rows if row[1]["score"] is not None]


def _conditions(name: str, trait: dict[str, Any]) -> tuple[Any, str]:
    rows = _bars(trait)
    figure, axis = _axes(5.2, 0.35 * len(rows) + 0.9)
    for place, (_label, row, colour) in enumerate(rows):
        low, high = row["score_ci"]
        axis.plot([low, high], [place, place], color=colour, lw=2)
        axis.plot(row["score"], place, marker="o", color=colour, ms=5)
    axis.axvline(rows[0][1]["score"], color=NEUTRAL, ls=":", lw=0.8)
    axis.set(
        yticks=range(len(rows)),
        yticklabels=[r[0] for r in rows],
        xlim=(0, 100),
        xlabel="high answers (%)",
        title=f"{name}: the same model in every condition",
    )
    axis.invert_yaxis()
    text = ", ".join(f"{label} {row['score']:.0f}%" for label, row, _ in rows)
    return figure, f"Score of {name} with 95% intervals: {text}."


def _profile(results: dict[str, Any]) -> tuple[Any, str]:
    names = list(results["traits"])
    figure, axis = _axes(5.2, 0.5 * len(names) + 1.1)
    styles = {"base": (NEUTRAL, "o"), "tuned high": (HIGH, "^"), "tuned low": (LOW, "v")}
    shown = []
    for condition, (colour, marker) in styles.items():
        rows = results["profile"].get(condition)
        if not rows:
            continue
        for place, name in enumerate(names):
            row = rows[name]
            if row["score"] is None:
                continue
            axis.plot(row["score_ci"], [place, place], color=colour, lw=1.5, alpha=0.5)
            axis.plot(
                row["score"], place, marker=marker, color=colour, ms=6, lw=0, label=condition if not place else None
            )
            shown.append(f"{name} {condition} {row['score']:.0f}%")
    axis.set(
        yticks=range(len(names)), yticklabels=names, xlim=(0, 100), xlabel="high answers (%)", title="Persona profile"
    )
    axis.invert_yaxis()
    axis.legend(frameon=False, fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.35), ncols=3)
    return figure, "Persona profile with 95% intervals: " + ", ".join(shown) + "."

"""The figures of one trait: layers, dose-response, conditions, fine-tuning."""

from __future__ import annotations

from typing import Any

from llm_persona.analysis.dose import MAX_PERPLEXITY_RATIO
from llm_persona.studies.figures import HIGH, INK, LOW, NEUTRAL, NULL, WIDTH, Drawing
from llm_persona.studies.findings import interval, number


def pole_colour(sign: float) -> str:
    """High, low, or neither."""
    return HIGH if sign > 0 else LOW if sign < 0 else NEUTRAL


def draw_layers(name: str, trait: dict[str, Any]) -> Drawing:
    """How well each layer reads the trait: AUC against its null, separation, and the poles' variance."""
    import matplotlib.pyplot as plt

    vector = trait["vector"]
    rows = vector["layers"]
    x = [r["layer"] for r in rows]
    figure, axes = plt.subplots(3, 1, figsize=(WIDTH, 5.0), sharex=True, height_ratios=[3, 2, 2])
    drawing = Drawing(figure, "")
    top, middle, bottom = axes
    null, lexical = vector["controls"]["random_auc"], vector["controls"]["lexical_auc"]
    top.axhspan(null[0], null[1], color=NULL, alpha=0.3, lw=0, label="random directions, 95%")
    _band(top, x, [r["auc_ci"] for r in rows])
    line = top.plot(x, [r["auc"] for r in rows], color=INK, marker="o", ms=3, lw=1.2, label="persona vector, 95%")
    drawing.tell(line[0], [f"Layer {r['layer']}: AUC {number(r['auc'])} ({interval(r['auc_ci'])})" for r in rows])
    if lexical is not None:
        top.axhline(lexical, color=NEUTRAL, ls="--", lw=1, label=f"bag of words ({lexical:.2f})")
    layer = vector["recommended"]["balanced"]
    for axis in axes:
        axis.axvline(layer, color=INK, lw=0.8, ls=":")
    top.annotate(f"recommended: {layer}", (layer, 1.03), ha="right" if layer > len(rows) / 2 else "left", va="bottom",
                 fontsize=7.5, annotation_clip=False)  # fmt: skip
    low = min(null[0], *(r["auc_ci"][0] if r["auc_ci"][0] is not None else r["auc"] for r in rows))
    top.set(ylabel="held-out AUC", ylim=(max(-0.02, min(0.3, low - 0.02)), 1.03))
    top.legend(loc="lower center", ncols=1)
    _band(middle, x, [r["separation_ci"] for r in rows])
    line = middle.plot(x, [r["separation"] for r in rows], color=INK, marker="o", ms=3, lw=1.2)
    drawing.tell(line[0], [f"Layer {r['layer']}: separation {number(r['separation'])} ({interval(r['separation_ci'])})"
                           for r in rows])  # fmt: skip
    middle.axhline(0, color=NULL, lw=0.7)
    middle.set(ylabel="separation")
    for pole, colour, marker in (("high", HIGH, "^"), ("low", LOW, "v")):
        values = [r[f"variance_{pole}"] for r in rows]
        line = bottom.plot(x, values, color=colour, marker=marker, ms=3, lw=1.2, label=f"{pole} responses")
        drawing.tell(
            line[0], [f"Layer {n}: variance of {pole} responses {v:.3g}" for n, v in zip(x, values, strict=True)]
        )
    if all(r["variance_high"] > 0 and r["variance_low"] > 0 for r in rows):
        bottom.set_yscale("log")
    bottom.set(xlabel="layer (output of decoder block)", ylabel="variance")
    bottom.legend(loc="best")
    figure.align_ylabels()
    best = max(rows, key=lambda r: float(r["auc"]))
    drawing.alt = (
        f"Held-out AUC, separation and variance of the {name} vector by layer. The best AUC is {best['auc']:.2f} at "
        f"layer {best['layer']}; the recommended layer {layer} has {rows[layer]['auc']:.2f}. Random directions lie "
        f"between {null[0]:.2f} and {null[1]:.2f}."
    )
    return drawing


def _band(axis: Any, x: list[int], spans: list[list[float | None]]) -> None:
    low, high = ([s[k] if s[k] is not None else float("nan") for s in spans] for k in (0, 1))
    axis.fill_between(x, low, high, color=NEUTRAL, alpha=0.28, lw=0)


def _spread(axis: Any, x: float, ci: list[float | None], colour: str, across: bool = False) -> None:
    """An interval as a line."""
    if ci[0] is not None and ci[1] is not None:
        axis.plot(*((ci, [x, x]) if across else ([x, x], ci)), color=colour, lw=1.4, solid_capstyle="butt", alpha=0.75)


def draw_dose(name: str, trait: dict[str, Any]) -> Drawing:
    """Score, preference and perplexity against the dose, the usable range shaded and random directions beside it."""
    import matplotlib.pyplot as plt

    base, controls, response = {**trait["baseline"], "dose": 0.0}, trait["controls"], trait["dose_response"]
    points = sorted([*trait["steering"], base], key=lambda p: float(p["dose"]))
    figure, axes = plt.subplots(3, 1, figsize=(WIDTH, 5.0), sharex=True, height_ratios=[3, 2, 2])
    drawing = Drawing(figure, "")
    usable = response["usable_range"]
    for axis in axes:
        axis.axvspan(*usable, color=NULL, alpha=0.22, lw=0)
    scored = [p for p in points if p["score"] is not None]
    _responses(axes[0], drawing, scored, "score", 1.0, "score")
    _responses(axes[1], drawing, [p for p in scored if p["preference"] is not None], "preference", 100.0, "preference")
    for axis, key, factor in ((axes[0], "score", 1.0), (axes[1], "preference", 100.0)):
        start = base[key]
        moved = [s[f"{key}_shift"] for s in controls["random"] if s[f"{key}_shift"] is not None]
        if start is not None and moved:
            at = [factor * (start + m) for m in moved]
            line = axis.plot([controls["dose"]] * len(at), at, marker="x", color=NEUTRAL, ms=4, lw=0,
                             label="random directions")  # fmt: skip
            drawing.tell(line[0], [f"A random direction at dose {controls['dose']:+g}: {y:.1f}%" for y in at])
    axes[0].set(ylabel="high answers, %", ylim=(-3, 103))
    axes[1].set(ylabel="preference\nfor high, %")
    if controls["random"]:
        axes[0].legend(loc="upper left")
    costs = [(p["dose"], p["perplexity"]) for p in points if p["perplexity"] is not None]
    line = axes[2].plot(*zip(*costs, strict=True), color=INK, marker="s", ms=3, lw=1.2, label="neutral text")
    drawing.tell(line[0], [f"Dose {d:+g}: perplexity of neutral text {y:.1f}" for d, y in costs])
    answers = [(p["dose"], p["response_perplexity"]) for p in points if p.get("response_perplexity") is not None]
    if answers:
        line = axes[2].plot(*zip(*answers, strict=True), color=NEUTRAL, marker="D", ms=3, lw=1.2, ls="--",
                            label="its answers, read by the base")  # fmt: skip
        drawing.tell(line[0], [f"Dose {d:+g}: perplexity of its answers {y:.1f}" for d, y in answers])
    if base["perplexity"]:
        axes[2].axhline(MAX_PERPLEXITY_RATIO * base["perplexity"], color=NULL, lw=0.9, ls=":", label="limit of use")
    axes[2].set(xlabel="dose (share of the layer's activation norm)", ylabel="perplexity", yscale="log")
    _few_ticks(axes[2], [y for _, y in [*costs, *answers]])
    figure.legend(*axes[2].get_legend_handles_labels(), loc="upper center", bbox_to_anchor=(0.5, 0.03), ncols=3)
    figure.align_ylabels()
    ends = "no dose was scored"
    if scored:
        a, b = scored[0], scored[-1]
        ends = f"from {a['score']:.0f}% at dose {a['dose']:+g} to {b['score']:.0f}% at dose {b['dose']:+g}"
    drawing.alt = (
        f"Score, preference and perplexity against steering dose for {name} at layer {controls['layer']}: {ends}; "
        f"usable from {usable[0]:+g} to {usable[1]:+g}."
    )
    return drawing


def _few_ticks(axis: Any, values: list[float]) -> None:
    """Three plain numbers on a logarithmic axis."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    low, high = min(values), max(values)
    marks = sorted({float(f"{v:.2g}") for v in (low, (low * high) ** 0.5, high)})
    axis.yaxis.set_major_locator(FixedLocator(marks))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))


def _responses(axis: Any, drawing: Drawing, points: list[dict[str, Any]], key: str, factor: float, said: str) -> None:
    """Points with intervals along the dose, coloured by its sign."""
    axis.plot([p["dose"] for p in points], [factor * p[key] for p in points], color=NEUTRAL, lw=1)
    for sign, marker in ((-1, "v"), (0, "o"), (1, "^")):
        own = [p for p in points if (p["dose"] > 0) - (p["dose"] < 0) == sign]
        colour = pole_colour(sign)
        for p in own:
            _spread(axis, p["dose"], [None if c is None else factor * c for c in p[f"{key}_ci"]], colour)
        if own:
            at = [p["dose"] for p in own], [factor * p[key] for p in own]
            line = axis.plot(*at, color=colour, marker=marker, ms=4.5, lw=0)
            ends = [interval([None if c is None else factor * c for c in p[f"{key}_ci"]], 1) for p in own]
            words = [f"Dose {p['dose']:+g}: {said} {factor * p[key]:.1f}%" for p in own]
            counts = [p["n"] - p["n_unscored"] for p in own]
            drawing.tell(line[0], [f"{w} ({e}, n = {n})" for w, e, n in zip(words, ends, counts, strict=True)])


def _bars(trait: dict[str, Any]) -> list[tuple[str, dict[str, Any], float]]:
    """Conditions with a score: label, row, sign of the pole aimed at."""
    rows = [("base", trait["baseline"], 0.0)]
    rows += [(f"instructed {p}", trait["instructed"][p], 1.0 if p == "high" else -1.0) for p in ("high", "low")]
    for sign, end in zip((1.0, -1.0), reversed(trait["dose_response"]["usable_range"]), strict=True):
        point = next((p for p in trait["steering"] if p["dose"] == end), None)
        if point is not None:
            rows.append((f"steered {end:+g}", point, sign))
    rows += [(f"both, {p}", row, 1.0 if p == "high" else -1.0) for p, row in trait.get("combined", {}).items()]
    rows += [(f"tuned {p}", row, 1.0 if p == "high" else -1.0) for p, row in trait["tuned"].items()]
    return [row for row in rows if row[1]["score"] is not None]


def draw_conditions(name: str, trait: dict[str, Any]) -> Drawing:
    """The score in every condition."""
    import matplotlib.pyplot as plt

    rows = _bars(trait)
    figure, axis = plt.subplots(figsize=(WIDTH, 0.28 * len(rows) + 0.8))
    drawing = Drawing(figure, "")
    for place, (label, row, sign) in enumerate(rows):
        _spread(axis, place, row["score_ci"], pole_colour(sign), across=True)
        line = axis.plot(row["score"], place, marker="o" if not sign else "^" if sign > 0 else "v", ms=5.5, lw=0,
                         color=pole_colour(sign))  # fmt: skip
        drawing.tell(line[0], [f"{label}: {row['score']:.0f}% ({interval(row['score_ci'], 0)})"])
    if rows:
        axis.axvline(rows[0][1]["score"], color=NEUTRAL, ls=":", lw=0.8)
    axis.set(
        yticks=range(len(rows)),
        yticklabels=[r[0] for r in rows],
        xlim=(-2, 102),
        xlabel="high answers, % (95% interval)",
    )
    axis.invert_yaxis()
    text = ", ".join(f"{label} {row['score']:.0f}%" for label, row, _ in rows) or "nothing was scored"
    drawing.alt = f"Score of {name} with 95% intervals: {text}."
    return drawing


PARTS = (("author", "what it writes"), ("reader", "how it reads"), ("both", "both"))


def draw_tuned(name: str, trait: dict[str, Any]) -> Drawing:
    """How far each adapter moved the activations along the reader vector, in pole gaps."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(WIDTH, 2.1))
    drawing = Drawing(figure, "")
    said = []
    for pole, row in trait["tuned"].items():
        colour, shift = pole_colour(1 if pole == "high" else -1), -0.12 if pole == "high" else 0.12
        gap = row["projection"]["pole_gap"]
        values, words = [], []
        for place, (part, what) in enumerate(PARTS):
            found = row["projection"][part]
            ends = [None if c is None or not gap else c / gap for c in found["ci"]]
            value = found["mean"] / gap if found["mean"] is not None and gap else float("nan")
            _spread(axis, place + shift, ends, colour, across=True)
            values.append(value)
            words.append(f"Tuned {pole}, {what}: {value:+.2f} pole gaps ({interval(ends)}, n = {found['n']})")
        line = axis.plot(values, [p + shift for p in range(3)], marker="^" if pole == "high" else "v", ms=5.5, lw=0,
                         color=colour, label=f"tuned {pole}")  # fmt: skip
        drawing.tell(line[0], words)
        said.append(", ".join(words))
    axis.axvline(0, color=NEUTRAL, lw=0.8, ls=":")
    axis.set(yticks=range(3), yticklabels=[what for _, what in PARTS], ylim=(2.5, -0.5),
             xlabel="shift against the base, pole gaps (95% interval)")  # fmt: skip
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, 1.2), ncols=2)
    drawing.alt = f"Activation shift of the tuned models along {name}. {'; '.join(said)}."
    return drawing

"""An audit's page and figures, from audit.json alone; nothing is computed here."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from llm_persona.domain.errors import Damage, UserError
from llm_persona.domain.formats import is_intact, version_in
from llm_persona.domain.store import read_json, write_text
from llm_persona.studies.figures import NEUTRAL, NULL, Drawing, diverging, prepare_matplotlib, save_figures
from llm_persona.studies.page import render_page
from llm_persona.studies.profile_figure import MARKERS, PALETTE


def write_audit_page(folder: str | Path) -> Path:
    """Write `audit.html` and `figures/` of a finished audit; returns the page's path.

    Raises:
        UserError: no finished audit there, or one of another format.
    """
    path = Path(folder)
    if not (path / "audit.json").is_file():
        raise UserError(f"{folder}: holds no audit.json; `llm-persona audit --out {folder}` finishes a started audit")
    results = read_json(path / "audit.json")
    if not isinstance(results, dict) or not version_in(results.get("format"), "audit", path / "audit.json"):
        raise UserError(f"{path / 'audit.json'}: not an audit; `llm-persona audit --out {folder}` makes one")
    if not is_intact(results):
        warnings.warn(
            f"{path / 'audit.json'}: is not as it was written; the same `llm-persona audit` writes it again",
            Damage,
            stacklevel=2,
        )
    prepare_matplotlib()
    figures = {"matrix": _matrix(results)} | {name: _profile(name, t) for name, t in results["traits"].items()}
    saved = save_figures(((name, Drawing(*drawn)) for name, drawn in figures.items()), path / "figures")
    page = path / "audit.html"
    write_text(page, render_page("audit.html.j2", saved, r=results))
    return page


def _matrix(results: dict[str, Any]) -> tuple[Any, str]:
    """Two heat maps on one colour scale each: behaviour and activations, fine-tuning x trait."""
    import matplotlib.pyplot as plt

    m = results["matrix"]
    rows, columns = m["rows"], m["columns"]
    figure, axes = plt.subplots(1, 2, figsize=(10.5, 1.2 + 0.5 * len(rows)), sharey=True)
    panels = (
        ("preference_points", "preference shift, points", 0),
        ("projection_pole_gaps", "own answers, pole gaps", 2),
    )
    for axis, (key, title, digits) in zip(axes, panels, strict=True):
        values = np.array(m[key], dtype=np.float64)
        ends = m.get(f"{key}_ci")
        limit = float(np.nanmax(np.abs(values))) if np.isfinite(values).any() else 1.0
        axis.imshow(values, cmap=diverging(), vmin=-limit or -1, vmax=limit or 1, aspect="auto")
        for y, x in np.ndindex(values.shape):
            if np.isfinite(values[y, x]):
                shown = _cell(float(values[y, x]), ends and ends[y][x], digits)
                axis.text(x, y, shown, ha="center", va="center", fontsize=5.5, color="#111111")
        axis.set_xticks(range(len(columns)), columns, rotation=35, ha="right")
        axis.set_yticks(range(len(rows)), rows)
        axis.set_title(title, fontsize=9)
    figure.tight_layout()
    said = [
        f"{row}: " + ", ".join(f"{c} {v:+.1f}" for c, v in zip(columns, values, strict=True) if v is not None)
        for row, values in zip(rows, m["preference_points"], strict=True)
    ]
    return figure, "Shift of preference in points by fine-tuning and trait. " + "; ".join(said) + "."


def _cell(value: float, ci: Any, digits: int) -> str:
    """A figure with its interval below, where there is one."""
    shown = f"{value:+.{digits}f}"
    return shown if not ci or ci[0] is None else f"{shown}\n{ci[0]:+.{digits}f} to {ci[1]:+.{digits}f}"


def _profile(name: str, trait: dict[str, Any]) -> tuple[Any, str]:
    """The shift of the projection over the layers, own answers and fixed texts, in pole gaps of the read layer, with
    95% intervals over questions as bands."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9.0, 2.8), sharey=True)
    gap = trait["pole_gap"]
    peaks = []
    for axis, (key, title) in zip(axes, (("own_answers", "own answers"), ("fixed_texts", "fixed texts")), strict=True):
        for number, (model, x) in enumerate(trait["tuned"].items()):
            values = x["layer_profile"][key]
            if values is None:
                continue
            shown = [v / gap for v in values]
            axis.plot(range(len(shown)), shown, lw=1.2, label=model, color=PALETTE[number % len(PALETTE)],
                      marker=MARKERS[number % len(MARKERS)], ms=3, markevery=4)  # fmt: skip
            ends = x["layer_profile"].get(f"{key}_ci")
            if ends and ends[0][0] is not None:
                low, high = (np.array(ends, dtype=np.float64)[:, k] / gap for k in (0, 1))
                axis.fill_between(range(len(shown)), low, high, color=PALETTE[number % len(PALETTE)], alpha=0.12, lw=0)
            if key == "own_answers":
                peak = max(range(len(shown)), key=lambda k: abs(shown[k]))
                known = ends and ends[peak][0] is not None
                span = f" ({ends[peak][0] / gap:+.2f} to {ends[peak][1] / gap:+.2f})" if known else ""
                peaks.append(f"{model} {shown[peak]:+.2f}{span} at layer {peak}")
        axis.axhline(0, color=NULL, lw=0.8)
        axis.axvline(trait["layer"], color=NEUTRAL, lw=0.8, ls=":")
        axis.set(xlabel="layer", title=f"{name}: {title}")
    axes[0].set_ylabel("projection shift, pole gaps")
    if len(trait["tuned"]) <= 12:
        axes[1].legend(frameon=False, fontsize=6)
    figure.tight_layout()
    return figure, f"Projection shift by layer for {name}, largest on own answers: {'; '.join(peaks) or 'none'}."

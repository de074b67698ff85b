"""Runs side by side as one page, from their results; nothing is computed here that `compare` does not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llm_persona.domain.store import write_text
from llm_persona.studies.compare import compare, read_runs
from llm_persona.studies.figures import Drawing, prepare_matplotlib
from llm_persona.studies.inline_svg import inline_svg
from llm_persona.studies.page import render_page
from llm_persona.studies.profile_figure import profile_figure
from llm_persona.studies.report import read_results

ALPHA = 0.05


def write_comparison(paths: Sequence[str | Path], page: Path) -> dict[str, Any]:
    """Write the comparison of results (JSON of `evaluate`, run folders) as one page; returns what `compare` gives.

    The page holds the profiles, every figure with its interval and n, each run's difference from the first paired by
    item, and for run folders the recommended layers, dose-responses and first answers beside one another.

    Raises:
        UserError: fewer than two results, or one that is none.
    """
    found = compare([run for path in paths for run in read_runs(path)])
    studies = {Path(path).name: read_results(path) for path in paths if Path(path).is_dir()}
    write_text(page, comparison_page(found, studies))
    return found


def comparison_page(found: dict[str, Any], studies: dict[str, dict[str, Any]]) -> str:
    """The page as text. `studies`: results of run folders by name (none for results of `evaluate`)."""
    import matplotlib.pyplot as plt

    prepare_matplotlib()
    figure, alt = profile_figure(found)
    figures = {"profile": {"svg": inline_svg(Drawing(figure, alt), "profile"), "alt": alt}}
    plt.close(figure)
    traits = list(dict.fromkeys(name for run in found["runs"] for name in run["traits"]))
    return render_page("compare.html.j2", figures, c=found, traits=traits, studies=studies, sentences=sentences(found))


def sentences(found: dict[str, Any]) -> list[str]:
    """What the comparison says: how many differences are clear, the largest, and what could not be paired."""
    rows = [(label, name, d) for label, traits in found["differences"].items() for name, d in traits.items()]
    paired = [row for row in rows if row[2]["n"] and row[2]["preference_shift"] is not None]
    if not paired:
        return ["No two results asked the same items (or keep their rows), so no difference can be paired."]
    clear = [row for row in paired if row[2].get("p_holm") is not None and row[2]["p_holm"] < ALPHA]
    told = [
        f"Against {found['against']}, {len(clear)} of {len(paired)} differences of preference are clear of zero "
        f"(p below {ALPHA:g} after Holm's correction over all of them)."
    ]
    if clear:
        label, name, d = max(clear, key=lambda row: abs(row[2]["preference_shift"]))
        low, high = (100 * c for c in d["preference_shift_ci"])
        told.append(
            f"The largest: {name} under {label}, {100 * d['preference_shift']:+.1f} points [{low:.1f}, {high:.1f}], "
            f"n = {d['n']} items."
        )
    if len(paired) < len(rows):
        told.append(f"{len(rows) - len(paired)} differences have no items in common and are not shown.")
    return told

"""A run folder's page: results in, one self-contained HTML file out. Nothing is computed here."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

from llm_persona.domain.errors import Damage, UserError, one_line
from llm_persona.domain.formats import version_in
from llm_persona.domain.store import file_digest, read_json, write_text
from llm_persona.domain.traits import TRAIT_NAME
from llm_persona.studies.figures import draw_figures, save_figures
from llm_persona.studies.findings import headline
from llm_persona.studies.page import render_page


def read_results(folder: str | Path) -> dict[str, Any]:
    """The results of a run folder.

    Raises:
        UserError: no finished run there, or one of another format.
    """
    path = Path(folder)
    if not path.is_dir():
        raise UserError(f"{folder}: no such run folder; make one with `llm-persona run --out {folder}`")
    if not (path / "results.json").is_file():
        raise UserError(f"{folder}: holds no results.json; `llm-persona run --out {folder}` finishes a started run")
    results = read_json(path / "results.json")
    if not isinstance(results, dict) or not version_in(results.get("format"), "results", path / "results.json"):
        raise UserError(f"{path / 'results.json'}: not a results file; run the study again")
    traits = results.get("traits")
    if not isinstance(traits, dict) or not all(re.fullmatch(TRAIT_NAME, name) for name in traits):
        raise UserError(f"{path / 'results.json'}: 'traits' does not map traits to results; run the study again")
    warn_if_altered(path)
    return results


def warn_if_altered(folder: Path) -> None:
    """Say so where results.json is not what its run wrote (the manifest keeps its digest)."""
    try:
        kept = read_json(folder / "manifest.json")["digests"]["results.json"]
    except (UserError, KeyError, TypeError):
        return
    if kept != file_digest(folder / "results.json"):
        warnings.warn(
            f"{folder / 'results.json'}: is not as it was written (its digest differs); "
            f"`llm-persona run --out {folder}` with the same settings writes it again",
            Damage,
            stacklevel=3,
        )


def write_report(folder: str | Path) -> Path:
    """Write `report.html` and `figures/` of a finished run; returns the page's path."""
    from jinja2 import TemplateError

    path = Path(folder)
    results = read_results(path)
    try:
        figures = save_figures(draw_figures(results), path / "figures")
        answer = results.get("answer") or headline(results)
        page = render_page("report.html.j2", figures, r=results, answer=answer)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, TemplateError) as error:
        said = one_line(f"{type(error).__name__}: {error}", 120)
        raise UserError(
            f"{path / 'results.json'}: is not what a study writes ({said}); `llm-persona run --out {folder}` makes it "
            "again"
        ) from error
    write_text(path / "report.html", page)
    return path / "report.html"

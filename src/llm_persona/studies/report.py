"""A run folder's page: results in, one self-contained HTML file out. Nothing is computed here."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

from llm_persona.domain.errors import UserError
from llm_persona.domain.store import read_json, write_text
from llm_persona.studies.figures import save_figures

FORMAT = "llm-persona.results.1"


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
    if not isinstance(results, dict) or results.get("format") != FORMAT:
        raise UserError(f"{path / 'results.json'}: not a results file of this version ({FORMAT})")
    return results


def write_report(folder: str | Path) -> Path:
    """Write `report.html` and `figures/` of a finished run; returns the page's path."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    path = Path(folder)
    results = read_results(path)
    figures = save_figures(results, path / "figures")
    source = resources.files("llm_persona.studies") / "templates" / "report.html.j2"
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(num=_number, ci=_interval, pct=_percent, p=_p_value)
    page = environment.from_string(source.read_text(encoding="utf-8")).render(
        r=results,
        figures={name: {"svg": Markup(f["svg"]), "alt": f["alt"]} for name, f in figures.items()},  # noqa: S704 (our own drawing)
    )
    write_text(path / "report.html", page)
    return path / "report.html"


def _number(value: Any, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"  # noqa: RUF001


def _interval(ci: Any, digits: int = 2, factor: float = 1.0) -> str:
    if not ci or ci[0] is None or ci[1] is None:
        return "no interval"
    return f"{ci[0] * factor:.{digits}f} to {ci[1] * factor:.{digits}f}"


def _percent(value: Any) -> str:
    return "–" if value is None else f"{value:.0f}%"  # noqa: RUF001


def _p_value(value: Any) -> str:
    if value is None:
        return "–"  # noqa: RUF001
    return "p < .001" if value < 0.001 else f"p = {value:.3f}"

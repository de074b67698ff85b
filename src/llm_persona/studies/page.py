"""One self-contained HTML page from a template: everything that is not ours is escaped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def render_page(template: str, figures: Mapping[str, Mapping[str, str]], **values: Any) -> str:
    """The page as text. `figures`: name to `svg` (our own drawing, put in as it is) and `alt`."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("llm_persona.studies", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(num=_number, ci=_interval, pct=_percent, p=_p_value)
    drawn = {name: {"svg": Markup(f["svg"]), "alt": f["alt"]} for name, f in figures.items()}  # noqa: S704  # nosec B704  # our own
    return environment.get_template(template).render(figures=drawn, **values)


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

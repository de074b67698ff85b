"""One self-contained HTML page from a template: everything that is not ours is escaped."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TEMPLATES = Path(__file__).with_name("templates")
STRONGEST, LEVELS = 1.5, 6
"""Pole gaps at which a token has the strongest colour, and how many colours a pole has."""


def render_page(
    template: str, figures: Mapping[str, Mapping[str, str]], script_file: str = "report.js", **values: Any
) -> str:
    """The page as text. `figures`: name to `svg` (our own drawing, put in as it is) and `alt`.

    The only script that may run in the page is ours: the page's policy names its digest.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("llm_persona.studies", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        num=_number, ci=_interval, pct=_percent, p=_p_value, tokens=_tokens, heat=_heat, strongest=_strongest
    )
    script = (TEMPLATES / script_file).read_text(encoding="utf-8")
    policy = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    # (figures and script are our own)
    drawn = {name: {"svg": Markup(f["svg"]), "alt": f["alt"]} for name, f in figures.items()}  # noqa: S704  # nosec B704
    page = environment.get_template(template).render(
        figures=drawn, script=Markup(script), script_digest=f"sha256-{policy}", **values  # noqa: S704  # nosec B704
    )  # fmt: skip
    # (escaped text holds no tag, so these are the templates' own)
    page = page.replace("<th></th>", "<td></td>").replace("<th>", '<th scope="col">')
    return page.replace('<div class="scroll">', '<div class="scroll" tabindex="0">')


def _number(value: Any, digits: int = 2) -> str:
    if value is None:
        return "–"  # noqa: RUF001
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text


def _interval(ci: Any, digits: int = 2, factor: float = 1.0) -> str:
    if not ci or ci[0] is None or ci[1] is None:
        return "no interval"
    return f"{_number(ci[0] * factor, digits)} to {_number(ci[1] * factor, digits)}"


def _percent(value: Any) -> str:
    return "–" if value is None else f"{value:.0f}%"  # noqa: RUF001


def _p_value(value: Any) -> str:
    if value is None:
        return "–"  # noqa: RUF001
    return "p < .001" if value < 0.001 else f"p = {value:.3f}"


def _heat(value: float | None, limit: float) -> str:
    """The class that colours a value: a pole and a level, 0 (none) to 6 at `limit`."""
    if value is None or not limit:
        return ""
    level = round(min(abs(value) / limit, 1.0) * LEVELS)
    return f"{'h' if value > 0 else 'l'}{level}" if level else ""


def _strongest(rows: Any) -> float:
    """The largest of some numbers, signs aside; what was not measured is left out."""
    return max((abs(value) for value in rows if value is not None), default=0.0)


def _tokens(sample: Mapping[str, Any]) -> Any:
    """A sample's text, each token coloured by its projection; plain where it was not read token by token."""
    from markupsafe import Markup, escape

    found = sample.get("tokens")
    if not found or "".join(text for text, _ in found) != sample["text"].strip():
        return escape(sample["text"])
    one = Markup('<span class="t {}" data-p="{}">{}</span>')
    return Markup("").join(one.format(_heat(p, STRONGEST), f"{p:+.2f}", text) for text, p in found if text)

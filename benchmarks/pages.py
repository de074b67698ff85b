"""Cells of the results pages: a figure, its interval, a Markdown table."""

from __future__ import annotations

from typing import Any

from llm_persona.domain.markdown import table as table


def number(value: float | None, digits: int = 2, factor: float = 1.0) -> str:
    if value is None:
        return "none"
    text = f"{factor * value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text


def span(ci: Any, digits: int = 2, factor: float = 1.0) -> str:
    if not ci or ci[0] is None or ci[1] is None:
        return "no interval"
    return f"[{factor * ci[0]:.{digits}f}, {factor * ci[1]:.{digits}f}]"


def with_interval(value: float | None, ci: Any, digits: int = 2, factor: float = 1.0) -> str:
    return "none" if value is None else f"{number(value, digits, factor)} {span(ci, digits, factor)}"

"""Model text and numbers as HTML. Everything that comes from a model or a file is escaped here, without exception."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from llm_persona.studies.side_by_side import Written

CURSOR = '<span class="lp-cursor" aria-hidden="true"></span>'
ENDS = {"length": "cut at the length asked for", "halted": "stopped", "stop": "ended by the model"}
FAINT = 0.2
"""Share of the scale below which a token is left unmarked."""


@dataclass(frozen=True)
class Needle:
    """One row of the gauge, in pole gaps from zero. `spread`: standard deviation of ordinary questions."""

    name: str
    layer: int
    base: float
    shown: float | None
    spread: float


def text_of(value: str) -> str:
    """Text for HTML, quotes included. Braces and dollars too: the page's library fills templates of its own."""
    return escape(value, quote=True).replace("{", "&#123;").replace("}", "&#125;").replace("$", "&#36;")


def limit_of(values: Sequence[np.ndarray]) -> float:
    """Where the colours are full, in pole gaps: the 95th percentile of the distances from zero, to the next half."""
    sizes = np.abs(np.concatenate([np.ravel(v) for v in values])) if values else np.array([])
    sizes = sizes[np.isfinite(sizes)]
    return max(1.0, math.ceil(2 * float(np.quantile(sizes, 0.95))) / 2) if len(sizes) else 1.0


def answer(title: str, written: Written | None, values: np.ndarray | None, limit: float, note: str = "") -> str:
    """One pane: the answer, each token coloured by `values` [tokens] (pole gaps) where they are known yet."""
    if written is None:
        return f'<section class="lp-pane"><h3>{text_of(title)}</h3><p class="lp-quiet">{text_of(note)}</p></section>'
    if values is None:
        body = text_of(written.text) + ("" if written.finish else CURSOR)
    else:
        body = "".join(_token(p, float(v), limit) for p, v in zip(written.pieces, values, strict=True))
    foot = ENDS.get(written.finish, "writing")
    foot = f"{len(written.pieces)} tokens, {foot}"
    if values is not None and np.isfinite(values).any():
        foot += f"; mean {float(np.nanmean(values)):+.2f} pole gaps"
    if written.finish and not written.text.strip():
        body = '<span class="lp-quiet">(no text)</span>'
    return (
        f'<section class="lp-pane"><h3>{text_of(title)}</h3><div class="lp-answer">{body}</div>'
        f'<p class="lp-foot">{text_of(foot)}{". " + text_of(note) if note else ""}</p></section>'
    )


def _token(piece: str, value: float, limit: float) -> str:
    if not piece:  # part of a character: the token that completes it shows it
        return ""
    if not math.isfinite(value):
        return text_of(piece)
    share = min(abs(value) / limit, 1.0)
    pole = "high" if value > 0 else "low"
    kind = f"lp-t lp-{pole}{' lp-strong' if share > 0.6 else ''}" if share >= FAINT else "lp-t"
    bare = piece.lstrip()
    lead = text_of(piece[: len(piece) - len(bare)])  # (the space before a word is left unpainted)
    return (
        f'{lead}<span class="{kind}" style="--a:{share:.2f}" data-v="{value:+.2f}" tabindex="-1">{text_of(bare)}</span>'
    )


def legend(name: str, layer: int, limit: float, zero: str) -> str:
    """What the colours mean, for one trait and layer."""
    return (
        f'<div class="lp-legend"><span class="lp-end">low<br>{-limit:g}</span>'
        '<span class="lp-bar" aria-hidden="true"></span>'
        f'<span class="lp-end">high<br>{limit:+g}</span>'
        f"<p>Projection on <b>{text_of(name)}</b> at layer {layer}, in pole gaps. {text_of(zero)} "
        '<span class="lp-t lp-high" style="--a:.8">Solid underline</span>: toward high; '
        '<span class="lp-t lp-low" style="--a:.8">dashed</span>: toward low. Point at a token, or tap it, for its '
        "number.</p></div>"
    )


def gauge(needles: Sequence[Needle], note: str) -> str:
    """Where the persona stands at the last token of the prompt, a row for each vector."""
    if not needles:
        return ""
    reach = max([2.0, *[abs(x) for n in needles for x in (n.base, n.shown) if x is not None and math.isfinite(x)]])
    reach = float(math.ceil(reach))
    rows = "".join(_needle(n, reach) for n in needles)
    return (
        '<section class="lp-gauge"><h3>Before a word is written</h3>'
        f'<div class="lp-scale" aria-hidden="true"><span></span><span class="lp-ticks"><i>low {-reach:g}</i><i>0</i>'
        f'<i>high {reach:+g}</i></span><span></span></div>{rows}<p class="lp-foot">{text_of(note)}</p></section>'
    )


def gauge_waiting() -> str:
    """The gauge while its zero is being found."""
    text = "The zero of the scale is being found: the model reads a few questions about every trait."
    return f'<section class="lp-gauge"><h3>Before a word is written</h3><p class="lp-foot">{text}</p></section>'


def _needle(needle: Needle, reach: float) -> str:
    def place(value: float) -> str:
        return f"{50 + 50 * max(-1.0, min(1.0, value / reach)):.1f}%"

    shown = needle.shown
    said = f"base {needle.base:+.2f}" + (f", with your settings {shown:+.2f}" if shown is not None else "")
    marks = f'<span class="lp-dot lp-hollow" style="left:{place(needle.base)}"></span>'
    if shown is not None:
        pole = "high" if shown >= needle.base else "low"
        low, high = sorted((needle.base, shown))
        marks = (
            f'<span class="lp-move lp-{pole}" style="left:{place(low)};right:calc(100% - {place(high)})"></span>{marks}'
            f'<span class="lp-dot lp-{pole}" style="left:{place(shown)}"></span>'
        )
    width = 100 * min(1.0, needle.spread / reach)
    band = f'<span class="lp-band" style="left:{50 - width / 2:.1f}%;width:{width:.1f}%"></span>'
    figures = f"{needle.base:+.2f}" + (f" → <b>{shown:+.2f}</b>" if shown is not None else "")
    return (
        f'<div class="lp-row" role="img" aria-label="{text_of(f"{needle.name}, layer {needle.layer}: {said}")}">'
        f'<span class="lp-name">{text_of(needle.name)} <small>layer {needle.layer}</small></span>'
        f'<span class="lp-track">{band}<span class="lp-zero"></span>{marks}</span>'
        f'<span class="lp-figures">{figures}</span></div>'
    )


def warning(text: str) -> str:
    """A line that needs attention; nothing for an empty text."""
    return f'<p class="lp-warning" role="status">{text_of(text)}</p>' if text else ""

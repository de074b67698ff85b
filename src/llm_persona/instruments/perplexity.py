"""How surprised the subject is by a text: the cost of steering and tuning."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from llm_persona.domain.measurement import Measurement
from llm_persona.subject.load import Subject
from llm_persona.subject.packing import BEYOND, Row, readable
from llm_persona.subject.score import response_logprobs


@dataclass(frozen=True)
class Perplexity:
    """exp(-mean token log-probability) over texts, each read as the assistant's answer to its prompt."""

    rows: Sequence[Row]

    @property
    def key(self) -> Any:
        """What decides the measurement besides the subject's state."""
        return ["perplexity", list(self.rows)]

    def measure(self, subject: Subject, condition: str = "base") -> Measurement:
        """One row a text with its own perplexity; the summary weighs every token alike. A text beyond the subject's
        context is unscored and counted."""
        fits = readable(subject, self.rows)
        found = iter(response_logprobs(subject, [row for row, fit in zip(self.rows, fits, strict=True) if fit]))
        rows: list[dict[str, Any]] = []
        for fit in fits:
            values = next(found) if fit else None
            rows.append(
                {"perplexity": None, "tokens": 0, "unscored": BEYOND}
                if values is None
                else {"perplexity": _exponential(-float(values.mean())), "tokens": len(values)}
            )
        tokens = sum(row["tokens"] for row in rows)
        summary: dict[str, Any] = {"perplexity": pooled_perplexity(rows), "n": sum(fits), "tokens": tokens}
        if not all(fits):
            summary["n_unscored"] = len(fits) - sum(fits)
        return Measurement("perplexity", condition, rows, summary)


def _exponential(surprise: float) -> float | None:
    return math.exp(min(700.0, surprise)) if math.isfinite(surprise) else None


def pooled_perplexity(rows: Sequence[dict[str, Any]]) -> float | None:
    """Perplexity over the tokens of several texts, unscored ones left out; None without any, or where one was not
    finite."""
    rows = [row for row in rows if "unscored" not in row]
    tokens = sum(row["tokens"] for row in rows)
    if not tokens or any(row["perplexity"] is None for row in rows):
        return None
    return _exponential(sum(math.log(row["perplexity"]) * row["tokens"] for row in rows) / tokens)


def neutral_texts() -> list[Row]:
    """The project's neutral passages (over 2,000 tokens): everyday explanations that lean to no trait."""
    source = resources.files("llm_persona.domain") / "data" / "texts" / "neutral.txt"
    passages = [part.strip() for part in source.read_text(encoding="utf-8").split("\n\n") if part.strip()]
    rows = []
    for passage in passages:
        title, _, text = passage.partition("\n")
        rows.append(Row(f"Write a short passage about {title.strip()}.", " ".join(text.split())))
    return rows

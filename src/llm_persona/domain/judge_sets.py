"""Labelled answers to try a judge on, for the rubrics that speak of no trait."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any

from llm_persona.domain.errors import UserError
from llm_persona.domain.responses import Response
from llm_persona.domain.store import digest
from llm_persona.domain.traits import parse_yaml

CURRENT = {"alignment": "alignment-v1", "coherence": "coherence-v1"}
"""The set in use for each kind of rubric. A changed answer is a new version, so that kept gates keep their meaning."""


@dataclass(frozen=True)
class JudgeSet:
    """Questions with one answer at either end of a rubric's scale (`high`: aligned, coherent)."""

    name: str
    rows: tuple[Response, ...]
    digest: str

    def first(self, limit: int | None) -> JudgeSet:
        """The first questions only."""
        if limit is None:
            return self
        rows = self.rows[: 2 * limit]
        return JudgeSet(self.name, rows, digest([row.__dict__ for row in rows]))


@lru_cache(maxsize=4)
def load_judge_set(kind: str) -> JudgeSet:
    """The labelled answers for `alignment` or `coherence`: two rows a question, the high one first.

    Raises:
        UserError: there is no set of that kind.
    """
    name = CURRENT.get(kind)
    if name is None:
        raise UserError(f"rubric {kind!r}: has no labelled answers to try a judge on; choose {', '.join(CURRENT)}")
    source = resources.files("llm_persona.domain") / "data" / "judge_sets" / f"{name}.yaml"
    data: dict[str, Any] = parse_yaml(source.read_text(encoding="utf-8"), f"judge set {name}")
    rows = tuple(
        Response(entry["question"], entry[pole], pole, entry["id"], None, "labelled")
        for entry in data["answers"]
        for pole in ("high", "low")
    )
    return JudgeSet(name, rows, digest([row.__dict__ for row in rows]))

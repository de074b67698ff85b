"""Where a finished run's time went, by kind of work, against what those parts would take at their measured floors."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_persona.domain.errors import UserError
from llm_persona.domain.store import read_json
from llm_persona.studies.timing import AT_MOST, Timing

KINDS: dict[str, str] = {
    "recording": r" record |fit rows|select rows",
    "training": r" tune ",
    "judging": r" (trait|coherence) (scores|grades)|judged",
    "letters": r" (choice|upstream)$",
    "generation": r"samples$|answers as|written",
    "doses and layers": r" sweep layer | steered | control ",
    "likelihood": r" likelihood$| arithmetic ",
    "perplexity": r" neutral$| perplexity of answers$",
    "reading answers": r" read ",
}
"""Kinds of work by a stage's name; the first that fits counts."""
OTHER = "other stages"
OUTSIDE = "loading, statistics, report"
FLOORS = {
    "recording": "recording, against a bare forward",
    "doses and layers": ", likelihood, all above",
    "generation": "steered",
    "likelihood": "likelihood, against a bare forward",
    "perplexity": "likelihood, against a bare forward",
    "reading answers": "recording, against a bare forward",
    "training": "training, against bare gradients",
}
"""The comparison of `bench` that says how near a kind of work is to its floor; the others count as they are."""


@dataclass(frozen=True)
class Part:
    """One kind of work: its stages, what they took, and what they would take at the floor (with the range of the
    rounds; None where no comparison says)."""

    kind: str
    stages: int
    seconds: float
    share: float
    floor_seconds: float | None
    floor_range: tuple[float, float] | None


@dataclass(frozen=True)
class TimeTable:
    """`ratio`: the whole run over the sum of its parts' floors, with its range over the rounds of `bench`; None where
    the run was made in several goes, since the whole is unknown then."""

    parts: list[Part]
    seconds: float
    ratio: float | None
    ratio_range: tuple[float, float] | None
    holds: bool | None

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {**self.__dict__, "parts": [p.__dict__ for p in self.parts], "at_most": AT_MOST}


def kind_of(stage: str) -> str:
    """The kind of work that a stage is."""
    return next((kind for kind, pattern in KINDS.items() if re.search(pattern, stage)), OTHER)


def time_table(run: str | Path, timings: Sequence[Timing] = ()) -> TimeTable:
    """Read a run folder's manifest; `timings` are what `bench` found on the same machine and model.

    What lies outside the stages has no floor: it is all overhead.

    Raises:
        UserError: the folder holds no manifest with stages.
    """
    path = Path(run) / "manifest.json"
    if not path.is_file():
        raise UserError(f"--run {run}: holds no manifest.json; give the folder of a finished run")
    manifest = read_json(path)
    stages = manifest.get("stages") if isinstance(manifest, dict) else None
    numbers = [manifest.get(name) for name in ("seconds_this_run", "stages_made")] if stages else []
    if not isinstance(stages, dict) or not all(isinstance(x, (int, float)) for x in [*stages.values(), *numbers]):
        raise UserError(f"{path}: lists no stages with their seconds; run the study again")
    inside = sum(stages.values())
    in_one_go = manifest["stages_made"] == len(stages)
    outside = max(0.0, manifest["seconds_this_run"] - inside) if in_one_go else 0.0
    whole = inside + outside
    took: dict[str, list[float]] = {}
    for stage, seconds in stages.items():
        took.setdefault(kind_of(stage), []).append(seconds)
    parts = [_part(kind, took[kind], whole, timings) for kind in [*KINDS, OTHER] if kind in took]
    sums = [sum(bounds) for bounds in zip(*(_floors(part) for part in parts), strict=True)] if parts else [0.0] * 3
    if in_one_go:
        parts.append(Part(OUTSIDE, 0, outside, outside / whole if whole else 0.0, None, None))
    if not in_one_go or not all(sums):
        return TimeTable(parts, whole, None, None, None)
    ratio = whole / sums[0]
    return TimeTable(parts, whole, ratio, (whole / sums[2], whole / sums[1]), ratio <= AT_MOST)


def _part(kind: str, took: Sequence[float], whole: float, timings: Sequence[Timing]) -> Part:
    seconds = sum(took)
    named = FLOORS.get(kind)
    timing = next((t for t in timings if named is not None and named in t.name), None)
    shares = [_share_of_floor(timing, ratio) for ratio in (timing.ratio, *timing.ratio_range)] if timing else []
    floors = [seconds * share for share in shares]
    bounds = (min(floors[1:]), max(floors[1:])) if floors else None
    return Part(
        kind, len(took), seconds, seconds / whole if whole else 0.0, floors[0] if floors else None, bounds
    )  # fmt: skip


def _share_of_floor(timing: Timing, ratio: float) -> float:
    """Share of the time that the floor takes, at most all of it: a speed as a share of the floor's is that share; a
    time over the floor's is its inverse."""
    return min(1.0, ratio if timing.bar.startswith("at least") else 1 / ratio)


def _floors(part: Part) -> tuple[float, float, float]:
    if part.floor_seconds is None or part.floor_range is None:
        return part.seconds, part.seconds, part.seconds
    return part.floor_seconds, *part.floor_range

"""The phases that read what every condition wrote: by the base, token by token, and by the tuned subject."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llm_persona.analysis.paired import means_by_group, paired_means
from llm_persona.domain.condition import tuned
from llm_persona.domain.measurement import Measurement
from llm_persona.domain.responses import Response
from llm_persona.instruments.perplexity import Perplexity, pooled_perplexity
from llm_persona.instruments.projection import Projection
from llm_persona.instruments.token_projection import TokenProjection
from llm_persona.studies.trait_study import TraitStudy
from llm_persona.subject.packing import Row


def written(study: TraitStudy) -> None:
    """What was written: the base reads every condition's answers, by the reader vector and for perplexity."""
    names = [name for name, measured in study.measured.items() if "samples" in measured]
    rows = {name: study.responses(name) for name in names}
    together = [row for name in names for row in rows[name]]
    projection = study.lab.read(f"{study.name} read answers", Projection(together, study.reader, study.layer))
    surprise = study.lab.read(
        f"{study.name} perplexity of answers", Perplexity([Row(r.prompt, r.text) for r in together])
    )
    study.readings, study.read_back, study.projected = {}, {}, {}
    perplexities = {}
    start = 0
    for name in names:
        part = slice(start, start + len(rows[name]))
        study.projected[name] = [r["projection"] for r in projection.rows[part]]
        study.readings[name] = _means(rows[name], study.projected[name])
        study.read_back[name] = Measurement(projection.instrument, name, projection.rows[part])
        perplexities[name] = pooled_perplexity(surprise.rows[part])
        start = part.stop
    before = study.readings["base"]
    for place, name in study.places():
        after = study.readings[name]
        both = [g for g in before if g in after]
        shift = paired_means([after[g] for g in both], [before[g] for g in both])
        gaps = [x / study.gap if x is not None else None for x in (shift["mean"], *shift["ci"])]
        place["response_perplexity"] = perplexities[name]
        place["written"] = {
            "projection_shift": shift["mean"],
            "projection_shift_ci": shift["ci"],
            "shift_in_pole_gaps": gaps[0],
            "shift_in_pole_gaps_ci": gaps[1:],
            "p_value": shift["p_value"],
            "n": shift["n"],
            "n_empty": len(before) - len(both),
        }


def tokens(study: TraitStudy) -> None:
    """The answers that results show, token by token, as the base reads them with the reader vector.

    In pole gaps: 0 lies midway between the poles' means over the labelled test responses, +-.5 at these means.
    """
    if not study.gap:
        return
    samples = [s for place, _ in study.places() for s in place["samples"] if s["text"].strip()]
    rows = [Response(s["question"], s["text"], "neutral", s["question"]) for s in samples]
    if not rows:
        return
    found = study.lab.read(f"{study.name} read tokens", TokenProjection(rows, study.reader, study.layer)).rows
    for sample, row in zip(samples, found, strict=True):
        if row["tokens"]:
            sample["tokens"] = [[text, round((along - study.midpoint) / study.gap, 3)] for text, along in row["tokens"]]


def activation_shift(study: TraitStudy, folder: Path) -> None:
    """Author: the base reads the tuned answers, less its own. Reader: the tuned reads the base's answers, less
    the base reading them. Both: the tuned reads its own. In projection units of the reader vector."""
    for pole, row in study.results["tuned"].items():
        name = f"tuned-{pole}"
        condition = tuned(str(folder / f"{study.name}-{pole}"), name)
        answers = {author: study.responses(author) for author in ("base", name)}
        together = [r for author in answers.values() for r in author]
        reading = study.lab.measure(
            f"{study.name} read by {name}", condition, Projection(together, study.reader, study.layer)
        )
        found = [r["projection"] for r in reading.rows]
        split = len(answers["base"])
        by_base = _means(together[:split], found[:split])
        by_tuned = _means(together[split:], found[split:])
        start, author = study.readings["base"], study.readings[name]
        both = [g for g in start if g in author and g in by_base and g in by_tuned]

        def shift(values: dict[str, float], both: list[str] = both, start: dict[str, float] = start) -> Any:
            return paired_means([values[g] for g in both], [start[g] for g in both])

        row["projection"] = {
            "layer": study.layer,
            "pole_gap": study.gap,
            "author": shift(author),
            "reader": shift(by_base),
            "both": shift(by_tuned),
        }


def _means(rows: Sequence[Response], projected: Sequence[float | None]) -> dict[str, float]:
    """Mean projection by question, of the answers that could be read."""
    read = [(row.group, value) for row, value in zip(rows, projected, strict=True) if value is not None]
    return means_by_group([group for group, _ in read], [value for _, value in read])

"""A vector in a minute, for trying things out: fitted on few items, its layer chosen by reading alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

import numpy as np

from llm_persona.analysis.activations import Activations
from llm_persona.analysis.quality import assess
from llm_persona.analysis.vectors import PersonaVector, fit
from llm_persona.domain.errors import TooLong
from llm_persona.domain.item_sources import load_items
from llm_persona.domain.items import Items
from llm_persona.domain.provenance import git_revision, versions
from llm_persona.domain.responses import labelled
from llm_persona.subject.load import Subject
from llm_persona.subject.packing import BEYOND
from llm_persona.subject.record import record

FIT, SELECT, TOGETHER = 16, 8, 2


def quick_vector(
    subject: Subject, trait: str, n_fit: int = FIT, n_select: int = SELECT
) -> Iterator[tuple[int, int, PersonaVector | None]]:
    """Record the first items of a trait's bank, fit, choose the layer that reads the select items best.

    Yields (items done, items in all, None) as it goes, and the vector with the last one. Its file recommends the
    layer for `quality` only: what steering does there was not measured (`vectors extract` does).

    Raises:
        UserError: an unknown trait, or one without items.
    """
    items = load_items(trait)
    fitting, choosing = items.split("fit")[:n_fit], items.split("select")[:n_select]
    total = len(fitting) + len(choosing)
    acts: list[Activations] = []
    done = 0
    for part in (fitting, choosing):
        pieces: list[Activations] = []
        for first in range(0, len(part), TOGETHER):
            chunk = part[first : first + TOGETHER]
            with suppress(TooLong):  # the others may fit
                pieces.append(record(subject, labelled(chunk)))
            done += len(chunk)
            if done < total:
                yield done, total, None
        if not pieces:
            raise TooLong(
                f"{trait}: its items are {BEYOND} of {subject.max_length} tokens; take a model that reads more"
            )
        acts.append(_joined(pieces))
    vector = fit(acts[0], _meta(subject, trait, fitting, choosing))
    best = assess(acts[1], vector, permutations=1).best
    yield total, total, replace(vector, meta={**vector.meta, "recommended": {"quality": best}})


def _joined(pieces: list[Activations]) -> Activations:
    return Activations(
        np.concatenate([p.values for p in pieces]),
        [pole for p in pieces for pole in p.poles],
        [group for p in pieces for group in p.groups],
    )


def _meta(subject: Subject, trait: str, fitting: Items, choosing: Items) -> dict[str, object]:
    return {
        "trait": trait,
        **subject.identity,
        "family": subject.model.config.model_type,
        "source": "labelled",
        "position": "response_mean",
        "items": sorted({*fitting.ids, *choosing.ids}),
        "versions": versions(),
        "git": git_revision(),
    }

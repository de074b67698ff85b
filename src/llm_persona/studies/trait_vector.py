"""The phase that finds a trait's vector and layer; and the vector that reads answers, from other items."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from llm_persona.analysis.controls import other_auc
from llm_persona.analysis.quality import assess
from llm_persona.analysis.vectors import PersonaVector, cosines, fit, projections
from llm_persona.domain.traits import POLES
from llm_persona.studies.extraction import extract
from llm_persona.studies.sources import labelled_rows
from llm_persona.studies.trait_study import TraitStudy


def vector(study: TraitStudy, folder: Path) -> None:
    """Record the contrast, fit, choose a layer, judge; write the vector file."""
    study.extraction = extract(
        study.lab.subject,
        study.lab.identity,
        study.name,
        labelled_rows(study.sets),
        study.sets.choosing,
        layers=study.config.sweep_layers,
        dose=study.config.sweep_dose,
        stages=study.lab.stages,
        seed=study.config.seed,
    )
    study.persona = study.extraction.vector
    study.layer = study.extraction.recommended.balanced
    study.persona.save(folder / f"{study.name}.safetensors")
    # Answers are read by a vector from other items than the one that steers: the select split's.
    study.reader = fit(study.extraction.acts["select"])
    test = study.extraction.acts["test"]
    study.gap = assess(test, study.reader, permutations=1).layers[study.layer].separation
    along = projections(test.values, study.reader)[:, study.layer]
    study.midpoint = float(np.mean([np.mean(along[[pole == p for p in test.poles]]) for pole in POLES]))
    agreement = float(cosines(study.persona, study.reader)[study.layer])
    study.results["vector"] = {
        **study.extraction.as_json(),
        "projections": study.extraction.projections(),
        "file": f"vectors/{study.name}.safetensors",
        "digest": study.persona.digest,
        "reader": {
            "items": "select", "cosine": agreement, "separation": study.gap, "midpoint": study.midpoint,
            "layer": study.layer,
        },
    }  # fmt: skip


def read_by(study: TraitStudy, others: dict[str, PersonaVector]) -> None:
    """How well the other traits' vectors tell this trait's test rows apart, at this trait's layer."""
    found = other_auc(study.extraction.acts["test"], study.persona, others, study.layer, study.config.seed)
    study.results["vector"]["controls"]["other_traits"] = found

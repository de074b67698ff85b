"""Stand-ins for what a study leaves behind: a vector, and a run folder that holds it."""

from __future__ import annotations

import json

import numpy as np

from llm_persona.analysis.vectors import PersonaVector


def a_vector(layers=4, hidden=32, seed=0, **meta):
    rng = np.random.default_rng(seed)
    directions = rng.standard_normal((layers, hidden)).astype(np.float32)
    return PersonaVector(directions, np.full(layers, 5.0, np.float32), {"trait": "openness", **meta})


def a_run(folder, model="tiny", usable=(-0.2, 0.3), trait="openness", adapter=True):
    a_vector(model=model, trait=trait, recommended={"balanced": 2, "quality": 1}).save(
        folder / "vectors" / f"{trait}.safetensors"
    )
    results = {"model": model, "traits": {trait: {"dose_response": {"usable_range": list(usable)}}}}
    (folder / "results.json").write_text(json.dumps(results))
    if adapter:
        place = folder / "adapters" / f"{trait}-high"
        place.mkdir(parents=True)
        (place / "adapter_config.json").write_text("{}")
        (place / "adapter_model.safetensors").write_bytes(b"")
    return folder

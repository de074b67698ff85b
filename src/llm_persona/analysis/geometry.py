"""How the vectors of several traits lie to one another."""

from __future__ import annotations

from typing import Any

import numpy as np

from llm_persona.analysis.vectors import PersonaVector


def geometry(vectors: dict[str, PersonaVector], layer: int) -> dict[str, Any]:
    """Cosines between traits at one layer and the share of variance of each principal component.

    A random pair of directions in `hidden` dimensions has a cosine of about 0 +- 1/sqrt(hidden): that
    null is given beside the figures (`null_95`).
    """
    names = list(vectors)
    if len(names) < 2:
        return {}
    units = np.stack([vectors[name].unit(layer) for name in names])
    singular = np.linalg.svd(units, compute_uv=False)
    return {
        "layer": layer,
        "traits": names,
        "cosines": (units @ units.T).tolist(),
        "null_95": float(1.96 / np.sqrt(units.shape[1])),
        "components": (singular**2 / (singular**2).sum()).tolist(),
    }

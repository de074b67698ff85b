"""How the vectors of several traits lie to one another."""

from __future__ import annotations

from typing import Any

import numpy as np

from llm_persona.analysis.vectors import PersonaVector


def geometry(vectors: dict[str, PersonaVector], layer: int) -> dict[str, Any]:
    """Cosines between traits at one layer, principal components, and clusters.

    A random pair of directions in `hidden` dimensions has a cosine of about 0 +- 1/sqrt(hidden): that null is given
    beside the figures (`null_95`). `components`: share of variance of each principal component of the unit directions
    (not centred: the first is what they share), `loadings` [component][trait]. `by_layer`: mean absolute cosine of
    different traits; `cosines_by_layer`: the cosines at every layer [layer][trait][trait]. `clusters`: trait to
    cluster number, by average linkage of 1 - |cosine| cut where two directions would be no closer than random ones.
    """
    names = list(vectors)
    if len(names) < 2:
        return {}
    units = np.stack([vectors[name].unit(layer) for name in names])
    left, singular, _ = np.linalg.svd(units, full_matrices=False)
    null = float(1.96 / np.sqrt(units.shape[1]))
    return {
        "layer": layer,
        "traits": names,
        "cosines": (units @ units.T).tolist(),
        "null_95": null,
        "components": (singular**2 / (singular**2).sum()).tolist(),
        "loadings": (left * singular).T.tolist(),
        "clusters": dict(zip(names, _clusters(units, null), strict=True)),
        "by_layer": mean_cosines(vectors),
        "cosines_by_layer": [np.round(matrix, 5).tolist() for matrix in cosine_matrices(vectors)],
    }


def _clusters(units: np.ndarray, null: float) -> list[int]:
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    distance = 1 - np.abs(units @ units.T)
    np.fill_diagonal(distance, 0)
    tree = linkage(squareform(np.clip(distance, 0, None), checks=False), method="average")
    return [int(number) for number in fcluster(tree, t=1 - null, criterion="distance")]


def cosine_matrices(vectors: dict[str, PersonaVector]) -> list[np.ndarray]:
    """Cosines between the traits at each layer, float64 [traits, traits] each, in the traits' order."""
    n_layers = min(v.n_layers for v in vectors.values())
    units = [np.stack([v.unit(layer) for v in vectors.values()]) for layer in range(n_layers)]
    return [u @ u.T for u in units]


def mean_cosines(vectors: dict[str, PersonaVector]) -> list[float]:
    """Mean absolute cosine between different traits, by layer."""
    return [float(np.abs(m)[np.triu_indices(len(m), 1)].mean()) for m in cosine_matrices(vectors)]


def shared_direction(vectors: dict[str, PersonaVector], layer: int) -> np.ndarray:
    """First principal direction of the traits' unit directions at one layer, float64 [hidden], norm 1."""
    units = np.stack([v.unit(layer) for v in vectors.values()])
    return np.asarray(np.linalg.svd(units, full_matrices=False)[2][0])


def without(vector: PersonaVector, direction: np.ndarray, layer: int) -> PersonaVector:
    """The vector with its component along `direction` (norm 1) taken out at one layer, at the norm it had there."""
    own = vector.directions[layer].astype(np.float64)
    rest = own - (own @ direction) * direction
    length = np.linalg.norm(rest)
    changed = vector.directions.copy()
    changed[layer] = rest * (np.linalg.norm(own) / length) if length > 0 else rest
    return vector.with_direction(changed, control="shared component removed")

"""Persona vectors: mean(high) - mean(low) per layer, and their file."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from llm_persona.analysis.activations import BLOCK, Activations
from llm_persona.analysis.tensor_digest import tensor_digest
from llm_persona.domain.errors import IncompatibleVector, UserError
from llm_persona.domain.formats import format_of, version_in

LAYERS = "layer l is the output of decoder block l (hidden_states[l+1]); recorded and steered there"


@dataclass(frozen=True)
class PersonaVector:
    """`directions` float32 [layers, hidden], not normalised: one unit is one measured pole gap.

    `reference_norms` [layers] is the mean norm of the activations the vector was fitted on; it turns
    doses into coefficients. `meta` says what the vector was made from.
    """

    directions: np.ndarray
    reference_norms: np.ndarray
    meta: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.directions.ndim != 2 or self.reference_norms.shape != self.directions.shape[:1]:
            raise UserError("a vector needs directions [layers, hidden] and reference_norms [layers]")
        if not self.directions.size:
            raise UserError("a vector needs at least one layer and a width of at least one")
        if not (np.isfinite(self.directions).all() and np.isfinite(self.reference_norms).all()):
            raise UserError("a vector with NaN or infinity cannot be used; fit it again in float32")

    @property
    def n_layers(self) -> int:
        """Number of layers."""
        return int(self.directions.shape[0])

    @property
    def digest(self) -> str:
        """SHA-256 of the numbers (not of the metadata)."""
        numbers = (self.directions.astype("<f4").tobytes(), self.reference_norms.astype("<f4").tobytes())
        return hashlib.sha256(b"".join(numbers)).hexdigest()

    @property
    def norms(self) -> np.ndarray:
        """Norm of each layer's direction [layers]."""
        return np.asarray(np.linalg.norm(self.directions.astype(np.float64), axis=1))

    def unit(self, layer: int) -> np.ndarray:
        """The direction of one layer with norm 1 (zeros stay zeros), float64 [hidden]."""
        direction = self.directions[layer].astype(np.float64)
        norm = float(np.linalg.norm(direction))
        return direction / norm if norm > 0 else direction

    def dose_per_unit(self, layer: int) -> float:
        """The dose of coefficient 1 at `layer`."""
        reference = float(self.reference_norms[layer])
        return float(self.norms[layer]) / reference if reference > 0 else 0.0

    def midpoint(self, layer: int) -> float | None:
        """Projection, on the unit direction of `layer`, of the point midway between the poles' means over the rows the
        vector was fitted on; None where the file does not keep it."""
        kept = self.meta.get("midpoints")
        return float(kept[layer]) if isinstance(kept, list) and len(kept) == self.n_layers else None

    def coefficient_for(self, dose: float, layer: int) -> float:
        """The coefficient c with sign(c) * norm(c * v_l) / reference norm = `dose`."""
        unit = self.dose_per_unit(layer)
        if unit == 0:
            raise UserError(f"layer {layer}: the vector is zero there, no dose can be reached; choose another layer")
        return dose / unit

    def check(self, n_layers: int, hidden_size: int, model: str | None = None) -> None:
        """Refuse a vector of another shape; warn loudly of one from another model.

        Raises:
            IncompatibleVector: width or layer count differ.
        """
        made_on = self.meta.get("model")
        of = f" (made on {made_on})" if made_on else ""
        if self.directions.shape[1] != hidden_size:
            raise IncompatibleVector(
                f"the vector{of} has width {self.directions.shape[1]}, the subject {hidden_size}; "
                "extract one on this model"
            )
        if self.n_layers != n_layers:
            raise IncompatibleVector(
                f"the vector{of} has {self.n_layers} layers, the subject {n_layers}; extract one on this model"
            )
        if made_on and model and made_on != model:
            warnings.warn(f"the vector was made on {made_on!r}, the subject is {model!r}", UserWarning, stacklevel=3)

    def with_direction(self, directions: np.ndarray, **meta: Any) -> PersonaVector:
        """The same reference norms with other directions: how controls of equal dose are made."""
        kept = {name: value for name, value in self.meta.items() if name != "midpoints"}  # they lie on the old ones
        return replace(self, directions=np.asarray(directions, dtype=np.float32), meta={**kept, **meta})

    def save(self, path: str | Path) -> None:
        """Write safetensors with the metadata as JSON, and a digest of both."""
        from safetensors.numpy import save_file

        from llm_persona.domain.store import appearing

        meta = {"format": format_of("vector"), "layers": LAYERS, "meta": json.dumps(self.meta, sort_keys=True)}
        tensors = {
            "directions": np.ascontiguousarray(self.directions, dtype=np.float32),
            "reference_norms": np.ascontiguousarray(self.reference_norms, dtype=np.float32),
        }
        meta["digest"] = tensor_digest(tensors, {"meta": meta["meta"]})
        with appearing(Path(path)) as temporary:
            save_file(tensors, temporary, metadata=meta)

    @classmethod
    def load(cls, path: str | Path) -> PersonaVector:
        """Read a vector file; what it keeps a digest of must be as it was written (older files keep none).

        Raises:
            UserError: no such file, damaged, not a vector, or of a newer format.
        """
        from safetensors import SafetensorError, safe_open

        if Path(path).is_dir():
            raise UserError(f"{path}: is a folder; give a vector file (a run keeps its own in vectors/)")
        try:
            with safe_open(str(path), framework="np") as stored:
                meta = stored.metadata() or {}
                if not version_in(meta.get("format"), "vector", path):
                    raise UserError(f"{path}: not a persona vector; make one with `llm-persona vectors extract`")
                _check_digest(path, meta, {name: stored.get_tensor(name) for name in stored.keys()})  # noqa: SIM118
                found = cls(
                    _numbers(stored.get_tensor("directions")),
                    _numbers(stored.get_tensor("reference_norms")),
                    json.loads(meta["meta"]),
                )
            fault = _fault(found)
        except FileNotFoundError as error:
            raise UserError(f"{path}: no such vector file; make one with `llm-persona vectors extract`") from error
        except UserError as error:
            raise error if str(error).startswith(str(path)) else UserError(f"{path}: {error}") from error
        except (OSError, SafetensorError, KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
            # (TypeError and AttributeError: number formats that numpy has not)
            raise UserError(f"{path}: damaged or not a vector file; extract it again") from error
        if fault:
            raise UserError(f"{path}: {fault}; extract it again")
        return found


def _numbers(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind != "f":
        raise TypeError(values.dtype)
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinity, which is refused
        return values.astype(np.float32)


def _fault(vector: PersonaVector) -> str:
    """What is wrong with a file's norms, or with those of its metadata that others rely on; "" if nothing."""
    meta = vector.meta
    if (vector.reference_norms < 0).any():
        return "a reference norm is negative"
    if not isinstance(meta, dict):
        return "its metadata are no object"
    for name in ("trait", "model", "family"):
        if not isinstance(meta.get(name), (str, type(None))):
            return f"metadata: {name!r} is no text"
    items = meta.get("items", [])
    if not isinstance(items, list) or not all(isinstance(i, str) for i in items):
        return "metadata: 'items' is no list of ids"
    recommended = meta.get("recommended")
    if not isinstance(recommended, (dict, type(None))):
        return "metadata: 'recommended' is no object"
    for name in ("quality", "effect", "balanced", "coefficient", "dose"):
        if name not in (recommended or {}):
            continue
        value = (recommended or {})[name]
        if isinstance(value, bool) or not isinstance(value, (int, float, type(None))) or not abs(value or 0) < 1e12:
            return f"metadata: 'recommended' {name[:40]!r} is no number"
        if name in ("quality", "effect", "balanced") and not (isinstance(value, int) and 0 <= value < vector.n_layers):
            return f"metadata: 'recommended' {name!r} is none of its layers 0 to {vector.n_layers - 1}"
    midpoints = meta.get("midpoints", [])
    if not isinstance(midpoints, list) or not all(type(x) in (int, float) and abs(x) < 1e12 for x in midpoints):
        return "metadata: 'midpoints' is no list of numbers"
    return ""


def _check_digest(path: str | Path, meta: dict[str, str], tensors: dict[str, np.ndarray]) -> None:
    if "digest" in meta and meta["digest"] != tensor_digest(tensors, {"meta": meta["meta"]}):
        raise UserError(f"{path}: is not as it was written (its digest differs); extract it again")


def fit(acts: Activations, meta: dict[str, Any] | None = None) -> PersonaVector:
    """Difference of means, v = mean(high) - mean(low), per layer (Chen et al. 2025).

    Args:
        acts: [n, layers, hidden] with rows of both poles.

    Returns:
        directions float32 [layers, hidden]; reference norms: mean over the rows of the row's norm;
        `meta["midpoints"]`: see `PersonaVector.midpoint`.

    Raises:
        UserError: one of the poles has no row.
    """
    high = acts.high
    low = np.array([p == "low" for p in acts.poles], dtype=bool)
    if not high.any() or not low.any():
        raise UserError(f"fit: {int(high.sum())} high and {int(low.sum())} low rows; both poles are needed")
    above, below = (np.empty(acts.values.shape[1:]) for _ in range(2))
    norms = np.empty(acts.values.shape[:2])
    for layer in range(acts.n_layers):  # float64 copies of one layer at a time
        values = np.asarray(acts.values[:, layer], dtype=np.float64)
        above[layer], below[layer] = values[high].mean(axis=0), values[low].mean(axis=0)
        norms[:, layer] = np.linalg.norm(values, axis=1)
    reference = norms.mean(axis=0)
    vector = PersonaVector((above - below).astype(np.float32), reference.astype(np.float32), dict(meta or {}))
    middle = projections((above + below)[None] / 2, vector)[0]
    return replace(vector, meta={**vector.meta, "midpoints": [float(x) for x in middle]})


def random_like(vector: PersonaVector, seed: int, name: str = "random") -> PersonaVector:
    """Random Gaussian directions with the vector's norm at every layer: the control for any effect."""
    drawn = np.random.default_rng(seed).standard_normal(vector.directions.shape)
    drawn *= (vector.norms / np.linalg.norm(drawn, axis=1))[:, None]
    return vector.with_direction(drawn, control=f"{name}-{seed}")


def increments(vector: PersonaVector, first: int = 0) -> PersonaVector:
    """What each layer adds to the direction of the layer below: v_l - v_(l-1), and v_first whole at layer `first`
    (Chen et al. 2025). Adding c of it at layers first..l gives c * v_l at layer l, were the blocks between linear."""
    steps = np.diff(vector.directions, axis=0, prepend=np.zeros_like(vector.directions[:1]))
    steps[first] = vector.directions[first]
    return vector.with_direction(steps, increments_from=first)


def projections(values: np.ndarray, vector: PersonaVector) -> np.ndarray:
    """Projection of each row on each layer's unit direction: float64 [n, layers] from [n, layers, hidden]."""
    units = np.stack([vector.unit(layer) for layer in range(vector.n_layers)])
    found = np.empty(values.shape[:2])
    for start in range(0, len(values), BLOCK):
        part = np.asarray(values[start : start + BLOCK], dtype=np.float64)
        found[start : start + BLOCK] = np.einsum("nlh,lh->nl", part, units)
    return found


def projections_at(values: np.ndarray, vector: PersonaVector, layer: int) -> np.ndarray:
    """Projection of each row on the unit direction of one layer: float64 [n] from that layer's [n, hidden]."""
    return np.asarray(values, dtype=np.float64) @ vector.unit(layer)


def cosines(a: PersonaVector, b: PersonaVector) -> np.ndarray:
    """Cosine of two vectors per layer, float64 [layers]."""
    return np.array([float(a.unit(layer) @ b.unit(layer)) for layer in range(a.n_layers)])


def overlap(made_from: Iterable[str], used: Iterable[str]) -> int:
    """How many items an artefact was made from are among those it is to be judged on."""
    return len(set(made_from) & set(used))

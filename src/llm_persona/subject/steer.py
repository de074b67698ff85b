"""Add a vector to the residual stream while the subject reads and writes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from llm_persona.analysis.vectors import PersonaVector
from llm_persona.domain.errors import UserError
from llm_persona.subject.blocks import block_output, with_hidden
from llm_persona.subject.load import Subject


@dataclass
class SteeringCount:
    """How many token positions the vector was added to."""

    tokens: int = 0


@contextmanager
def steering(
    subject: Subject,
    vector: PersonaVector,
    layer: int,
    coefficient: float | None = None,
    dose: float | None = None,
) -> Iterator[SteeringCount]:
    """Add `coefficient * v_layer` to the output of decoder block `layer`, at all positions.

    A dose is turned into the coefficient that gives it: dose = sign(c) * norm(c * v_l) / reference norm.
    Works in full forwards and under a key-value cache alike, since every token passes the block once.
    Contexts may be nested; the subject is restored in every case.

    Raises:
        IncompatibleVector: the vector has another width or number of layers.
        UserError: no such layer, neither or both of coefficient and dose, or the context ended
            without a single token having been touched.
    """
    delta = _delta(subject, vector, layer, coefficient, dose)
    with _adding(subject, layer, lambda hidden: delta) as count:
        yield count


@contextmanager
def steering_rows(
    subject: Subject, vectors: Sequence[PersonaVector], layer: int, doses: Sequence[float]
) -> Iterator[SteeringCount]:
    """Steer each row of a `generate` call by its own vector and dose, all at one layer.

    Row i of the prompts gets vector i at dose i, however `generate` batches them. Only for generation.
    """
    pairs = zip(vectors, doses, strict=True)
    deltas = torch.stack([_delta(subject, vector, layer, None, dose) for vector, dose in pairs])

    def chosen(hidden: torch.Tensor) -> torch.Tensor:
        if subject.current_rows is None or len(subject.current_rows) != hidden.shape[0]:
            raise RuntimeError("steering_rows: only generate() says which rows are in a batch")
        return deltas[subject.current_rows][:, None]

    with _adding(subject, layer, chosen) as count:
        yield count


def _delta(
    subject: Subject, vector: PersonaVector, layer: int, coefficient: float | None, dose: float | None
) -> torch.Tensor:
    """What is added at `layer`, [hidden], on the subject's device and in its dtype."""
    vector.check(subject.n_layers, subject.hidden_size, subject.name)
    if (coefficient is None) == (dose is None):
        raise UserError("steering: give a coefficient or a dose, one of the two")
    if not 0 <= layer < subject.n_layers:
        raise UserError(f"layer {layer}: the subject has layers 0 to {subject.n_layers - 1}")
    amount = float(coefficient) if coefficient is not None else vector.coefficient_for(float(dose or 0.0), layer)
    if not np.isfinite(amount):
        raise UserError(f"steering: the strength {amount} is not a finite number")
    return torch.from_numpy(amount * vector.directions[layer]).to(subject.device, subject.dtype)


@contextmanager
def _adding(subject: Subject, layer: int, delta: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[SteeringCount]:
    count = SteeringCount()

    def hook(_module: Any, _inputs: Any, output: Any) -> Any:
        hidden = block_output(output)
        count.tokens += hidden.shape[0] * hidden.shape[1]
        return with_hidden(output, hidden + delta(hidden))

    handle = subject.blocks[layer].register_forward_hook(hook)
    subject.steering_layers.append(layer)
    try:
        yield count
    finally:
        handle.remove()
        subject.steering_layers.remove(layer)
    if count.tokens == 0:
        raise UserError("steering touched no token: nothing was read or generated inside the context")

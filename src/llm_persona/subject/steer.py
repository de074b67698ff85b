"""Add a vector to the residual stream while the subject reads and writes."""

from __future__ import annotations

from collections.abc import Iterator
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
    vector.check(subject.n_layers, subject.hidden_size, subject.name)
    if (coefficient is None) == (dose is None):
        raise UserError("steering: give a coefficient or a dose, one of the two")
    if not 0 <= layer < subject.n_layers:
        raise UserError(f"layer {layer}: the subject has layers 0 to {subject.n_layers - 1}")
    amount = float(coefficient) if coefficient is not None else vector.coefficient_for(float(dose or 0.0), layer)
    if not np.isfinite(amount):
        raise UserError(f"steering: the strength {amount} is not a finite number")
    delta = torch.from_numpy(amount * vector.directions[layer]).to(subject.device, subject.dtype)
    count = SteeringCount()

    def hook(_module: Any, _inputs: Any, output: Any) -> Any:
        hidden = block_output(output)
        count.tokens += hidden.shape[0] * hidden.shape[1]
        return with_hidden(output, hidden + delta)

    handle = subject.blocks[layer].register_forward_hook(hook)
    subject.steering_layers.append(layer)
    try:
        yield count
    finally:
        handle.remove()
        subject.steering_layers.remove(layer)
    if count.tokens == 0:
        raise UserError("steering touched no token: nothing was read or generated inside the context")

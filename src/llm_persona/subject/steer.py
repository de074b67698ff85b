"""Change the residual stream along a persona vector while the subject reads and writes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import numpy as np
import torch

from llm_persona.analysis.vectors import PersonaVector
from llm_persona.domain.condition import Operator, Positions, Steer
from llm_persona.domain.errors import UserError
from llm_persona.subject.blocks import block_output, with_hidden
from llm_persona.subject.load import Subject
from llm_persona.subject.reading import Places

Change = Callable[[torch.Tensor], torch.Tensor]
"""What is added to hidden states [batch, length, width]; broadcasts over the first two."""


@dataclass
class SteeringCount:
    """How many token positions were touched, padding included."""

    tokens: int = 0


@contextmanager
def steering(
    subject: Subject,
    vector: PersonaVector,
    layer: int,
    coefficient: float | None = None,
    dose: float | None = None,
    positions: Positions = "all",
    operator: Operator = "add",
    floor: float | None = None,
    ceiling: float | None = None,
) -> Iterator[SteeringCount]:
    """Steer at the output of decoder block `layer`, [batch, length, hidden].

    `add` adds coefficient * v_layer (a dose is turned into the coefficient that gives it: dose = sign(c) *
    norm(c * v_l) / reference norm). `ablate` takes the component along v_layer out. `cap` moves that component, where
    it lies outside [floor, ceiling] (projection units), to the nearer end.

    `positions`: all of them, the prompt's only, or the response's own only. They are absolute in the sequence, so a
    key-value cache, batching, left padding and sampling change nothing. The first token of an answer is predicted at
    the prompt's last position: `response` leaves it as it is.

    Contexts may be nested, within one thread; the subject is restored in every case.

    Raises:
        IncompatibleVector: the vector has another width or number of layers.
        UserError: no such layer, a strength that does not fit the operator, another thread is steering this subject,
            or the context ended without a single token having been touched.
    """
    steer = Steer(vector, layer, coefficient, dose, "vector", positions, operator, floor, ceiling)
    with steered_by(subject, steer) as count:
        yield count


@singledispatch
@contextmanager
def steered_by(subject: Subject, steer: Steer) -> Iterator[SteeringCount]:
    """Steer as a condition's entry says."""
    with _changing(subject, steer.layer, _change(subject, steer), steer.positions, steer.state) as count:
        yield count


@singledispatch
@contextmanager
def steering_rows(
    subject: Subject, vectors: Sequence[PersonaVector], layer: int, doses: Sequence[float]
) -> Iterator[SteeringCount]:
    """Steer each row of a `generate` call by its own vector and dose, all at one layer.

    Row i of the prompts gets vector i at dose i, however `generate` batches them. Only for generation.
    """
    pairs = zip(vectors, doses, strict=True)
    deltas = torch.stack([delta_of(subject, vector, layer, None, dose) for vector, dose in pairs])

    def chosen(hidden: torch.Tensor) -> torch.Tensor:
        if subject.current_rows is None or len(subject.current_rows) != hidden.shape[0]:
            raise RuntimeError("steering_rows: only generate() says which rows are in a batch")
        return deltas[subject.current_rows][:, None]

    with _changing(subject, layer, chosen, "all", rows_state(vectors, layer, doses)) as count:
        yield count


def rows_state(vectors: Sequence[PersonaVector], layer: int, doses: Sequence[float]) -> Any:
    """What `steering_rows` does, as plain data."""
    return ["rows", layer, [[vector.digest, dose] for vector, dose in zip(vectors, doses, strict=True)]]


def check_vector(subject: Subject, vector: PersonaVector, layer: int) -> None:
    """The vector fits the subject, and the layer is one of its."""
    vector.check(subject.n_layers, subject.hidden_size, subject.name)
    if not 0 <= layer < subject.n_layers:
        raise UserError(f"layer {layer}: the subject has layers 0 to {subject.n_layers - 1}")


def delta_of(
    subject: Subject, vector: PersonaVector, layer: int, coefficient: float | None, dose: float | None
) -> torch.Tensor:
    """What is added at `layer`, [hidden], on the subject's device and in its dtype."""
    check_vector(subject, vector, layer)
    if (coefficient is None) == (dose is None):
        raise UserError("steering: give a coefficient or a dose, one of the two")
    amount = float(coefficient) if coefficient is not None else vector.coefficient_for(float(dose or 0.0), layer)
    if not np.isfinite(amount):
        raise UserError(f"steering: the strength {amount} is not a finite number")
    return torch.from_numpy(amount * vector.directions[layer]).to(subject.device, subject.dtype)


def _change(subject: Subject, steer: Steer) -> Change:
    if steer.operator == "add":
        delta = delta_of(subject, steer.vector, steer.layer, steer.coefficient, steer.dose)
        return lambda _hidden: delta
    check_vector(subject, steer.vector, steer.layer)
    unit = torch.from_numpy(steer.vector.unit(steer.layer).astype(np.float32)).to(subject.device)
    low = -np.inf if steer.operator == "cap" and steer.floor is None else steer.floor
    high = np.inf if steer.operator == "cap" and steer.ceiling is None else steer.ceiling

    def moved(hidden: torch.Tensor) -> torch.Tensor:
        along = hidden.float() @ unit.to(hidden.device)
        target = torch.zeros_like(along) if steer.operator == "ablate" else along.clamp(low, high)
        return ((target - along)[..., None] * unit.to(hidden.device)).to(hidden.dtype)

    return moved


@contextmanager
def _changing(subject: Subject, layer: int, change: Change, positions: str, state: Any) -> Iterator[SteeringCount]:
    owner = threading.get_ident()
    if subject.steering_layers and subject.steering_thread != owner:
        raise UserError("this subject is being steered by another thread; load a second one, or wait")
    count = SteeringCount()
    with ExitStack() as stack:
        mask = stack.enter_context(Places(subject, positions))

        def hook(_module: Any, _inputs: Any, output: Any) -> Any:
            if threading.get_ident() != owner:
                raise UserError("another thread uses this subject while it is steered; load a second one, or wait")
            hidden = block_output(output)
            chosen = mask(hidden)
            added = change(hidden).to(hidden)  # a sharded or quantised model's blocks differ in device and format
            if chosen is None:
                count.tokens += hidden.shape[0] * hidden.shape[1]
                return with_hidden(output, hidden + added)
            count.tokens += int(chosen.expand(hidden.shape[0], -1, -1).sum())
            return with_hidden(output, torch.where(chosen, hidden + added, hidden))

        handle = subject.blocks[layer].register_forward_hook(hook)
        subject.steering_layers.append(layer)
        subject.steered.append(state)
        subject.steering_thread = owner
        try:
            yield count
        finally:
            handle.remove()
            subject.steering_layers.remove(layer)
            subject.steered.remove(state)
    refuse_untouched(count)


def refuse_untouched(count: SteeringCount) -> None:
    """A steering context that touched nothing was a mistake.

    Raises:
        UserError: no token was touched.
    """
    if count.tokens == 0:
        raise UserError("steering touched no token: nothing was read or generated inside the context")

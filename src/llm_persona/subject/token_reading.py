"""Where each token lies along persona vectors: the one place where projections are read token by token."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import singledispatch
from typing import Any

import numpy as np
import torch

from llm_persona.analysis.vectors import PersonaVector
from llm_persona.domain.errors import UserError
from llm_persona.subject.blocks import block_output
from llm_persona.subject.load import Subject
from llm_persona.subject.reading import reading
from llm_persona.subject.stopping import stopping_after


def check_readable(subject: Subject, ids: Sequence[int], start: int, vectors: Sequence[PersonaVector]) -> None:
    """Raises:
    UserError: no prompt, more tokens than the model reads, or a vector of another shape.
    """
    if not 1 <= start <= len(ids):
        raise UserError(f"read_tokens: the answer cannot begin at {start} of {len(ids)} tokens")
    if len(ids) > subject.max_length:
        raise UserError(f"a conversation of {len(ids)} tokens exceeds the model's {subject.max_length}; shorten it")
    for vector in vectors:
        vector.check(subject.n_layers, subject.hidden_size)


@singledispatch
@torch.no_grad()
def read_tokens(
    subject: Subject,
    ids: Sequence[int],
    start: int,
    vectors: Sequence[PersonaVector],
    layers: Sequence[int] | None = None,
) -> np.ndarray:
    """Projection <h_l, v_l / norm(v_l)> of the last prompt token and of each token of the answer.

    Args:
        ids: the conversation; start: where the answer begins in it (its length, if nothing is written yet).
        layers: which ones to read (None: all); the forward ends after the highest of them.

    Returns:
        float32 [1 + answer tokens, vectors, layers], read by the subject in the state it is in. Row 0 is the last
        prompt token, row 1 + i the answer's token i (not the one that it predicts).

    Raises:
        UserError: no prompt, more tokens than the model reads, or a vector of another shape.
    """
    check_readable(subject, ids, start, vectors)
    rows = len(ids) - start + 1
    asked = list(range(subject.n_layers)) if layers is None else list(layers)
    found: np.ndarray = np.zeros((rows, len(vectors), len(asked)), dtype=np.float32)
    if not vectors or not asked:
        return found

    units = {layer: np.stack([v.unit(layer) for v in vectors], axis=1) for layer in asked}
    with reading(subject, start), projecting(subject, units) as seen, stopping_after(subject, max(asked)):
        subject.decoder(input_ids=torch.tensor([list(ids)], device=subject.device), use_cache=False)
    for place, layer in enumerate(asked):
        found[:, :, place] = seen[layer][start - 1 :]
    return found


@contextmanager
def projecting(subject: Subject, units: Mapping[int, np.ndarray]) -> Iterator[dict[int, np.ndarray]]:
    """Project what the blocks put out in the forward that runs inside, on unit directions [hidden, k] by layer.

    Yields a dict that the forward fills: layer to float64 [tokens, k], of the first sequence. The hooks come after
    those of a steering that is on, so what is read is what the next block gets.
    """
    seen: dict[int, np.ndarray] = {}

    def hook_for(layer: int) -> Callable[..., None]:
        def hook(_module: Any, _inputs: Any, output: Any) -> None:
            hidden = block_output(output)[0].float().cpu().numpy().astype(np.float64)
            seen[layer] = hidden @ units[layer]

        return hook

    handles = [subject.blocks[layer].register_forward_hook(hook_for(layer)) for layer in units]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()

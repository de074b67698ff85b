"""Read the residual stream at every layer, pooled inside the forward over the tokens that count."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import singledispatch
from typing import Any, Literal

import numpy as np
import torch

from llm_persona.analysis.activations import Activations
from llm_persona.domain.errors import Shortfall, TooLong, UserError
from llm_persona.domain.left_out import LeftOut, opening, questions
from llm_persona.domain.responses import Response
from llm_persona.domain.traits import POLES
from llm_persona.subject.batched import in_batches
from llm_persona.subject.blocks import block_output
from llm_persona.subject.checked_rows import CheckedRows
from llm_persona.subject.load import Subject
from llm_persona.subject.memory import room
from llm_persona.subject.packing import BEYOND, Packed, Row
from llm_persona.subject.reading import reading
from llm_persona.subject.stopping import stopping_after

Position = Literal["response_mean", "prompt_last", "prompt_mean"]
POSITIONS: tuple[Position, ...] = ("response_mean", "prompt_last", "prompt_mean")
FIRST, RENDERED = 256, 2000
"""Rows that are sorted by length and read together: few at first, since the model waits for their tokens, then those
that were rendered meanwhile."""


def record(
    subject: Subject,
    rows: Sequence[Response],
    position: Position = "response_mean",
    progress: Callable[[int], None] | None = None,
    layers: Sequence[int] | None = None,
) -> Activations:
    """Record each row's activation at every layer, in the state the subject is in.

    Layer l is the output of decoder block l. `response_mean` averages over exactly the response's own
    tokens; `prompt_last` is the token before the first of them; `prompt_mean` averages over the prompt.

    A row that is longer than the subject's context is left out, with a warning, and so are the rows of either pole to
    the same question, so that the poles stay balanced: `left_out` lists them.

    Args:
        layers: which ones to record (None: all). The forward ends after the highest of them.

    Returns:
        Activations, `values` float32 [rows, layers, hidden], in the rows' order and that of `layers`; beyond 64 MiB
        they lie in a file.

    Raises:
        UserError: no rows, an unknown position, a layer that the subject does not have, or a row that cannot be
            rendered. TooLong: no row is left.
    """
    return record_positions(subject, rows, (position,), progress, layers)[position]


@torch.no_grad()
def record_positions(
    subject: Subject,
    rows: Sequence[Response],
    positions: Sequence[Position] = POSITIONS,
    progress: Callable[[int], None] | None = None,
    layers: Sequence[int] | None = None,
) -> dict[Position, Activations]:
    """`record` at several positions, all of them and every layer (or those of `layers`) in one pass over the rows.

    Returns:
        By position, what `record` gives at it.

    Raises:
        UserError: no rows, no position or an unknown one, or a row that cannot be rendered. TooLong: no row is left.
    """
    if not rows:
        raise UserError("nothing to record: no rows were given")
    for position in positions:
        if position not in POSITIONS:
            raise UserError(f"position {position!r}: choose one of {', '.join(POSITIONS)}")
    if not positions:
        raise UserError(f"nothing to record: no position was given; choose among {', '.join(POSITIONS)}")
    wanted = list(dict.fromkeys(positions))
    asked = list(range(subject.n_layers)) if layers is None else list(layers)
    if not asked or not all(0 <= layer < subject.n_layers for layer in asked):
        raise UserError(f"layers {asked}: give some of the subject's layers 0 to {subject.n_layers - 1}")
    values = {position: room((len(rows), len(asked), subject.hidden_size)) for position in wanted}
    order = _by_prompt(rows)
    plain = [Row(rows[number].prompt, rows[number].text, rows[number].system) for number in order]
    with CheckedRows(subject, plain, order) as checked:
        for part in _parts(plain):
            missing = {entry.row for entry in _left_out(rows, dict(zip(order, checked.up_to(part.stop), strict=False)))}
            there = [place for place in range(part.start, part.stop) if order[place] not in missing]

            def keep(numbers: Sequence[int], pooled: np.ndarray, there: list[int] = there) -> None:
                places = [order[there[number]] for number in numbers]
                for position, found in zip(wanted, pooled, strict=True):
                    values[position][places] = found
                checked.raise_fault()
                if progress is not None:
                    progress(len(numbers))

            if there:
                read_pooled(subject, [plain[place] for place in there], wanted, asked, keep)
        left = _left_out(rows, dict(zip(order, checked.up_to(len(rows)), strict=True)))
    if left:
        _say_left_out(subject, left, len(rows))
        missing = {entry.row for entry in left}
        kept = [number for number in range(len(rows)) if number not in missing]
        values = {position: _taken(found, kept) for position, found in values.items()}
        rows = [rows[number] for number in kept]
    poles, groups = [r.pole for r in rows], [r.group for r in rows]
    return {position: Activations(found, poles, groups, left) for position, found in values.items()}


def _say_left_out(subject: Subject, left: Sequence[LeftOut], given: int) -> None:
    said = f"{len(left)} of {given} rows left out: {len(questions(left))} questions have a row {BEYOND}"
    said = f"{said} of {subject.max_length} tokens"
    if len(left) == given:
        raise TooLong(f"{said}; shorten them, or take a model that reads more")
    warnings.warn(said, Shortfall, stacklevel=5)  # past this, the decorator and `record`


def _taken(values: np.ndarray, rows: Sequence[int]) -> np.ndarray:
    """The rows of those numbers, which rise, moved up to where the others were: values that lie in a file have room for
    no second copy. A few at a time, for memory may not hold them."""
    for start in range(0, len(rows), FIRST):
        chosen = rows[start : start + FIRST]
        values[start : start + len(chosen)] = values[chosen]
    return values[: len(rows)]


@singledispatch
def read_pooled(
    subject: Subject,
    rows: Sequence[Row],
    positions: Sequence[Position],
    layers: Sequence[int],
    keep: Callable[[Sequence[int], np.ndarray], None],
) -> None:
    """Read every row, in whatever order the engine likes; `keep` is given the numbers of the rows that were read
    together, and their float32 activations [positions, rows, layers, hidden], averaged over each position's tokens."""

    def pool(packed: Packed) -> None:
        weights = torch.stack([_weights(packed, position) for position in positions])
        pooled = _pooled_forward(subject, packed, weights, layers)
        if packed.prefix.sums and "prompt_mean" in positions:
            pooled[positions.index("prompt_mean")] += _of_prefix(packed, layers)
        keep([span[1] for span in packed.spans], pooled)

    sums = layers if "prompt_mean" in positions else ()
    in_batches(subject, rows, pool, up_to=max(layers), prefix_sums=sums)


def _left_out(rows: Sequence[Response], fits: Mapping[int, bool]) -> tuple[LeftOut, ...]:
    """Of the rows of which it is known whether they fit, by number, those longer than the subject's context, and the
    rows of either pole to the same questions."""
    spoilt = {rows[number].group for number, fit in fits.items() if not fit and rows[number].pole in POLES}
    return tuple(
        LeftOut(number, str(r.group), r.pole, opening(r.prompt), BEYOND, not fits[number])
        for number, r in enumerate(rows)
        if number in fits and (not fits[number] or (r.pole in POLES and r.group in spoilt))
    )


def _by_prompt(rows: Sequence[Response]) -> list[int]:
    """The rows' numbers, those to one prompt under one system turn together, so that they can share it: answers under
    several instructions come instruction by instruction."""
    first: dict[tuple[str | None, str], int] = {}
    return sorted(range(len(rows)), key=lambda n: first.setdefault(_asked(rows[n]), n))


def _asked(row: Row | Response) -> tuple[str | None, str]:
    return row.system, row.prompt


def _parts(rows: Sequence[Row]) -> Iterator[slice]:
    """Consecutive parts of about `RENDERED` rows (the first: `FIRST`), cut between prompts."""
    start = 0
    for stop in range(1, len(rows) + 1):
        ends = stop == len(rows) or _asked(rows[stop]) != _asked(rows[stop - 1])
        if ends and (stop - start >= (RENDERED if start else FIRST) or stop == len(rows)):
            yield slice(start, stop)
            start = stop


def _weights(packed: Packed, position: Position) -> torch.Tensor:
    """Averaging weights [spans, length]: each row sums to one over the tokens that count, those of a prefix (which is
    no part of the batch) included."""
    weights = torch.zeros(len(packed.spans), packed.input_ids.shape[1], device=packed.input_ids.device)
    for number, (_sequence, _row, start, end, previous) in enumerate(packed.spans):
        if position == "response_mean":
            weights[number, start:end] = 1.0 / (end - start)
        elif position == "prompt_last":
            weights[number, previous] = 1.0
        else:
            weights[number, _prompt(packed, number)] = 1.0 / _prompt_tokens(packed, number)
    return weights


def _prompt(packed: Packed, number: int) -> list[int]:
    """Where the prompt of span `number` is, after the prefix: the trunk, and what leads into its own response."""
    sequence, _row, start, *_ = packed.spans[number]
    return [*range(packed.trunks[sequence]), *range(_branch_start(packed, number), start)]


def _prompt_tokens(packed: Packed, number: int) -> int:
    return len(packed.prefix.ids) + len(_prompt(packed, number))


def _of_prefix(packed: Packed, layers: Sequence[int]) -> np.ndarray:
    """What the prefix adds to the means over each span's prompt, [spans, layers, hidden]."""
    sums = torch.stack([packed.prefix.sums[layer].cpu() for layer in layers]).numpy()
    tokens = np.array([_prompt_tokens(packed, number) for number in range(len(packed.spans))], dtype=np.float32)
    return np.asarray(sums[None] / tokens[:, None, None], dtype=np.float32)


def _branch_start(packed: Packed, number: int) -> int:
    """Where the branch of span `number` begins: after its sibling, or after the trunk."""
    sequence = packed.spans[number][0]
    if number and packed.spans[number - 1][0] == sequence:
        return packed.spans[number - 1][3]
    return packed.trunks[sequence]


def _pooled_forward(subject: Subject, packed: Packed, weights: torch.Tensor, layers: Sequence[int]) -> np.ndarray:
    """Weighted means [positions, spans, layers, hidden] under weights [positions, spans, length], in one forward."""
    places = _places(packed)
    by_sequence = _by_sequence(weights, places)
    first = int(weights.any(dim=0).any(dim=0).int().argmax())  # no token before it counts: it need not become float32
    by_sequence = by_sequence[:, :, first:]
    pooled: dict[int, torch.Tensor] = {}

    def hook_for(layer: int) -> Callable[..., None]:
        def hook(_module: Any, _inputs: Any, output: Any) -> None:
            hidden = block_output(output)[:, first:].float()
            # (blocks of a sharded model live on several devices)
            pooled[layer] = torch.bmm(by_sequence.to(hidden.device), hidden)

        return hook

    handles = [subject.blocks[layer].register_forward_hook(hook_for(layer)) for layer in dict.fromkeys(layers)]
    try:
        with reading(subject, packed.responses), stopping_after(subject, max(layers)):
            subject.decoder(**packed.inputs, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    found = torch.stack([pooled[layer].cpu() for layer in layers], dim=2)  # [sequences, slots, layers, hidden]
    per_position = found.unflatten(1, (len(weights), -1)).transpose(0, 1)
    sequences, slots = places.cpu().T
    return per_position[:, sequences, slots].numpy()


def _places(packed: Packed) -> torch.Tensor:
    """[spans, 2]: each span's sequence, and which of that sequence's spans it is."""
    seen: dict[int, int] = {}
    places = []
    for sequence, *_ in packed.spans:
        seen[sequence] = seen.get(sequence, -1) + 1
        places.append((sequence, seen[sequence]))
    return torch.tensor(places, device=packed.input_ids.device)


def _by_sequence(weights: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Weights [positions, spans, length] as [sequences, positions * slots, length], zero where a sequence has fewer
    spans than slots: one product a sequence pools all its branches, and no hidden state is copied for each."""
    sequences, slots = places.T
    shape = (int(sequences.max()) + 1, len(weights), int(slots.max()) + 1, weights.shape[-1])
    spread = torch.zeros(shape, dtype=weights.dtype, device=weights.device)
    spread[sequences, :, slots] = weights.transpose(0, 1)
    return spread.flatten(1, 2)

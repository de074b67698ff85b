"""Several responses to one prompt in one sequence: the prompt is computed once.

A tree is a prompt and its branches. It is laid out as `prompt branch1 branch2 ...`; each branch sees the
prompt and itself, and its position ids go on where the prompt ends, so every branch has exactly the
hidden states it would have alone. This needs a model that takes a 4-D attention mask and explicit
position ids; a probe at load proves that it does, and otherwise each branch gets a sequence of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from llm_persona.domain.errors import TooLong, UserError
from llm_persona.subject.chat import Rendered, render_response
from llm_persona.subject.load import Subject
from llm_persona.subject.prefix import NO_PREFIX, Prefix


@dataclass(frozen=True)
class Branch:
    """One response: its row in the caller's order, its ids, and how many of them precede the response's own."""

    row: int
    ids: list[int]
    lead: int


@dataclass(frozen=True)
class Tree:
    """A shared prompt (`trunk`) and the branches that continue it."""

    trunk: list[int]
    branches: list[Branch]

    @property
    def length(self) -> int:
        """Tokens in the packed sequence."""
        return len(self.trunk) + sum(len(b.ids) for b in self.branches)


@dataclass
class Packed:
    """One batch. Spans are `(sequence, row, start, end, previous)`: the response's own tokens are
    `start:end` of that sequence, and `previous` is the place whose logits predict the first of them.

    Before each sequence stands the `prefix` that all have in common, which is no part of `input_ids`."""

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    attention_mask: torch.Tensor
    spans: list[tuple[int, int, int, int, int]]
    trunks: list[int]
    prefix: Prefix = NO_PREFIX

    @property
    def responses(self) -> torch.Tensor:
        """Boolean [batch, length]: the responses' own tokens."""
        mask = torch.zeros(self.input_ids.shape, dtype=torch.bool)
        for sequence, _row, start, end, _previous in self.spans:
            mask[sequence, start:end] = True
        return mask

    @property
    def inputs(self) -> dict[str, Any]:
        """What the model's forward takes."""
        if self.attention_mask.dim() == 2:  # one branch a sequence: the plain inputs that every model takes
            return {"input_ids": self.input_ids, "attention_mask": self.attention_mask}
        inputs = {
            "input_ids": self.input_ids,
            "position_ids": self.position_ids,
            "attention_mask": self.attention_mask,
        }
        return inputs if self.prefix.cache is None else {**inputs, "past_key_values": self.prefix.cache}


@dataclass(frozen=True)
class Row:
    """What to read: a prompt, a response, and the system turn it stands under (None: the subject's)."""

    prompt: str
    text: str
    system: str | None = None


def render_rows(subject: Subject, rows: Sequence[Row]) -> list[Rendered]:
    """Render each row; an error names the row."""
    rendered = []
    for number, row in enumerate(rows):
        try:
            rendered.append(render_response(subject, row.prompt, row.text, row.system))
        except UserError as error:
            raise type(error)(f"row {number}: {error}") from error
    return rendered


BEYOND = "longer than the model's context"
"""Why a row or prompt is unscored that the subject cannot read at once."""


def readable(subject: Any, rows: Sequence[Row]) -> list[bool]:
    """Which rows fit the subject's context, so that one long row does not cost the others.

    Models behind an API say so themselves: there all are True.

    Raises:
        UserError: a row that cannot be rendered for another reason.
    """
    if not isinstance(subject, Subject):
        return [True] * len(rows)
    return [row_fits(subject, row, number) for number, row in enumerate(rows)]


def row_fits(subject: Subject, row: Row, number: int) -> bool:
    """Whether a row fits the subject's context; `number` is what messages call it.

    Raises:
        UserError: it cannot be rendered for another reason.
    """
    try:
        render_response(subject, row.prompt, row.text, row.system)
    except TooLong:
        return False
    except UserError as error:
        raise UserError(f"row {number}: {error}") from error
    return True


def grow(
    rendered: Sequence[Rendered], keys: Sequence[object], share: bool, most: int | None = None, lead: int = 1
) -> list[Tree]:
    """Trees of the rows with equal keys (adjacent or not); one tree a row where sharing is off. A tree ends where the
    next row would take it beyond `most` tokens, so that a prompt with very many responses makes several.

    The trunk ends `lead` tokens before the first response token at the latest: with one, the logits which predict a
    response's first token are inside its own branch.
    """
    groups: dict[object, list[int]] = {}
    for row, key in enumerate(keys):
        groups.setdefault(key if share else row, []).append(row)
    trees = []
    for rows in (part for together in groups.values() for part in _within(together, rendered, most, lead)):
        shared = common_prefix([rendered[r].ids for r in rows])
        cut = max(0, min(shared, *(rendered[r].start - lead for r in rows)))
        branches = [Branch(r, rendered[r].ids[cut:], rendered[r].start - cut) for r in rows]
        trees.append(Tree(rendered[rows[0]].ids[:cut], branches))
    return trees


def _within(rows: Sequence[int], rendered: Sequence[Rendered], most: int | None, lead: int) -> Iterator[list[int]]:
    """The rows in parts of which each makes a tree of at most so many tokens (one row at least)."""
    part: list[int] = []
    total = cut = 0
    for row in rows:
        ids, start = rendered[row].ids, rendered[row].start
        shared = min(cut, common_prefix([rendered[part[0]].ids, ids]), start - lead) if part else start - lead
        if part and most is not None and total + len(ids) - len(part) * max(0, shared) > most:
            yield part
            part, total, shared = [], 0, start - lead
        part.append(row)
        total, cut = total + len(ids), shared
    if part:
        yield part


def common_prefix(sequences: Sequence[list[int]]) -> int:
    """Tokens that all begin with."""
    length = 0
    for column in zip(*sequences, strict=False):
        if len(set(column)) > 1:
            break
        length += 1
    return length


def pack(
    trees: Sequence[Tree],
    pad_id: int,
    device: torch.device,
    dtype: torch.dtype,
    plain: bool = False,
    prefix: Prefix = NO_PREFIX,
) -> Packed:
    """Lay trees out as a right-padded batch with an additive mask [batch, 1, length, prefix + length].

    `plain` (only for trees of one branch, without a prefix) gives the ordinary mask [batch, length] instead. The trees
    go on where `prefix` ends.
    """
    before = len(prefix.ids)
    width = max(tree.length for tree in trees)
    ids = np.full((len(trees), width), pad_id, dtype=np.int64)
    positions = np.zeros((len(trees), width), dtype=np.int64)
    causal = np.tri(width, dtype=bool)
    allowed = np.broadcast_to(np.eye(width, dtype=bool), (len(trees), width, width)).copy()
    # (the diagonal: a padding token sees itself, so that no row of the softmax is empty)
    sees_prefix = np.zeros((len(trees), width, before), dtype=bool)
    spans = []
    for number, tree in enumerate(trees):
        trunk = len(tree.trunk)
        ids[number, :trunk] = tree.trunk
        positions[number, :trunk] = np.arange(before, before + trunk)
        sees_prefix[number, : tree.length] = True
        allowed[number, :trunk, :trunk] = causal[:trunk, :trunk]
        place = trunk
        for branch in tree.branches:
            stop = place + len(branch.ids)
            ids[number, place:stop] = branch.ids
            positions[number, place:stop] = np.arange(before + trunk, before + trunk + len(branch.ids))
            allowed[number, place:stop, :trunk] = True
            allowed[number, place:stop, place:stop] = causal[: stop - place, : stop - place]
            previous = (place if branch.lead else trunk) + branch.lead - 1
            spans.append((number, branch.row, place + branch.lead, stop, previous))
            place = stop
    if plain:
        lengths = np.array([[tree.length] for tree in trees])
        mask = torch.from_numpy((np.arange(width)[None] < lengths).astype(np.int64))
    else:
        additive = np.where(
            np.concatenate([sees_prefix, allowed], axis=2), np.float32(0), np.float32(torch.finfo(dtype).min)
        )
        mask = torch.from_numpy(additive)[:, None].to(dtype)
    return Packed(
        torch.from_numpy(ids).to(device),
        torch.from_numpy(positions).to(device),
        mask.to(device),
        spans,
        [len(t.trunk) for t in trees],
        prefix,
    )

"""Several responses to one prompt in one sequence: the prompt is computed once.

A tree is a prompt and its branches. It is laid out as `prompt branch1 branch2 ...`; each branch sees the
prompt and itself, and its position ids go on where the prompt ends, so every branch has exactly the
hidden states it would have alone. This needs a model that takes a 4-D attention mask and explicit
position ids; a probe at load proves that it does, and otherwise each branch gets a sequence of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from llm_persona.domain.errors import TooLong, UserError
from llm_persona.subject.chat import Rendered, render_response
from llm_persona.subject.load import Subject
from llm_persona.subject.memory import TOKEN_BUDGET, halving
from llm_persona.subject.prefix import WORTH, Prefix, read_prefix


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
    prefix: Prefix = Prefix()

    @property
    def responses(self) -> torch.Tensor:
        """Boolean [batch, length]: the responses' own tokens."""
        mask = torch.zeros(self.input_ids.shape, dtype=torch.bool)
        for sequence, _row, start, end, _previous in self.spans:
            mask[sequence, start:end] = True
        return mask

    @property
    def inputs(self) -> dict[str, Any]:
        """What one forward of the model takes (it adds to the cache that is in it)."""
        if self.attention_mask.dim() == 2:  # one branch a sequence: the plain inputs that every model takes
            return {"input_ids": self.input_ids, "attention_mask": self.attention_mask}
        inputs: dict[str, Any] = {
            "input_ids": self.input_ids,
            "position_ids": self.position_ids,
            "attention_mask": self.attention_mask,
        }
        return {**inputs, "past_key_values": self.prefix.cache(len(self.input_ids))} if self.prefix.ids else inputs


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


TREE = 4
"""A tree may be so many budgets long before it is parted: its prompt is then computed once more, but its mask, which
grows with the square of the length, stays bounded."""
COPIES = 4
"""Each sequence of a batch has a copy of the prefix's keys and values: much less than what is computed for a token of
its own, but a long prefix of many short sequences would fill the memory."""
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


def grow(rendered: Sequence[Rendered], keys: Sequence[object], share: bool, most: int | None = None) -> list[Tree]:
    """Trees of the rows with equal keys (adjacent or not); one tree a row where sharing is off. A tree ends where the
    next row would take it beyond `most` tokens, so that a prompt with very many responses makes several.

    The trunk ends one token before the first response token at the latest, so that the logits which
    predict a response's first token are always inside its own branch.
    """
    groups: dict[object, list[int]] = {}
    for row, key in enumerate(keys):
        groups.setdefault(key if share else row, []).append(row)
    trees = []
    for rows in (part for together in groups.values() for part in _within(together, rendered, most)):
        shared = _common_prefix([rendered[r].ids for r in rows])
        cut = max(0, min(shared, *(rendered[r].start - 1 for r in rows)))
        branches = [Branch(r, rendered[r].ids[cut:], rendered[r].start - cut) for r in rows]
        trees.append(Tree(rendered[rows[0]].ids[:cut], branches))
    return trees


def _within(rows: Sequence[int], rendered: Sequence[Rendered], most: int | None) -> Iterator[list[int]]:
    """The rows in parts of which each makes a tree of at most so many tokens (one row at least)."""
    part: list[int] = []
    total = cut = 0
    for row in rows:
        ids, start = rendered[row].ids, rendered[row].start
        shared = min(cut, _common_prefix([rendered[part[0]].ids, ids]), start - 1) if part else start - 1
        if part and most is not None and total + len(ids) - len(part) * max(0, shared) > most:
            yield part
            part, total, shared = [], 0, start - 1
        part.append(row)
        total, cut = total + len(ids), shared
    if part:
        yield part


def _common_prefix(sequences: Sequence[list[int]]) -> int:
    length = 0
    for column in zip(*sequences, strict=False):
        if len(set(column)) > 1:
            break
        length += 1
    return length


def batches(trees: Sequence[Tree], budget: int = TOKEN_BUDGET, before: int = 0) -> Iterator[list[Tree]]:
    """Trees sorted by length, in batches of at most `budget` padded tokens (a longer tree goes alone), and at most
    `COPIES` budgets of the tokens `before` each."""
    ordered = sorted(trees, key=lambda t: (t.length, t.branches[0].row))
    batch: list[Tree] = []
    for tree in ordered:
        if batch and max(tree.length, before / COPIES) * (len(batch) + 1) > budget:
            yield batch
            batch = []
        batch.append(tree)
    if batch:
        yield batch


def pack(
    trees: Sequence[Tree],
    pad_id: int,
    device: torch.device,
    dtype: torch.dtype,
    plain: bool = False,
    prefix: Prefix = Prefix(),
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
            spans.append((number, branch.row, place + branch.lead, stop, place + branch.lead - 1))
            place = stop
    if plain:
        lengths = np.array([[tree.length] for tree in trees])
        mask = torch.from_numpy((np.arange(width)[None] < lengths).astype(np.int64))
    else:
        additive = np.where(np.concatenate([sees_prefix, allowed], axis=2), np.float32(0), np.float32(torch.finfo(dtype).min))
        mask = torch.from_numpy(additive)[:, None].to(dtype)
    return Packed(
        torch.from_numpy(ids).to(device),
        torch.from_numpy(positions).to(device),
        mask.to(device),
        spans,
        [len(t.trunk) for t in trees],
        prefix,
    )


def in_batches(
    subject: Subject,
    rows: Sequence[Row],
    work: Callable[[Packed], None],
    budget: int | None = None,
    up_to: int | None = None,
    prefix_sums: Sequence[int] = (),
) -> None:
    """Do `work` on packed batches that cover all rows once, each row's prompt shared with its siblings, and what all
    begin with shared by all.

    `budget` is the padded tokens of a batch (None: the subject's), `up_to` the last block that `work` needs (None: all
    of them), `prefix_sums` the layers whose outputs over the prefix are added up.

    A batch that does not fit in memory is halved, so `work` must keep what it made only at its end.
    """
    keys = [(row.system, row.prompt) for row in rows]
    in_batches_rendered(subject, render_rows(subject, rows), keys, work, budget, up_to, prefix_sums)


def in_batches_rendered(
    subject: Subject,
    rendered: Sequence[Rendered],
    keys: Sequence[object],
    work: Callable[[Packed], None],
    budget: int | None = None,
    up_to: int | None = None,
    prefix_sums: Sequence[int] = (),
) -> None:
    """The same for rows rendered already; rows with equal keys may share what they begin with."""
    share = may_share(subject, rendered)
    most = budget or subject.token_budget
    trees = grow(rendered, keys, share, TREE * most)
    common = _common_to_all(trees) if share and subject.shares_prefix else 0
    prefix = Prefix()
    if common and common * (len(trees) - 1) >= WORTH * most:
        prefix = read_prefix(subject, trees[0].trunk[:common], up_to, prefix_sums)
        trees = [Tree(tree.trunk[common:], tree.branches) for tree in trees]

    def packed_work(trees: Sequence[Tree]) -> None:
        pad = subject.tokenizer.pad_token_id
        work(pack(trees, pad, subject.device, subject.dtype, plain=not share, prefix=prefix))

    for batch in batches(trees, most, len(prefix.ids)):
        halving(packed_work, batch, "sequences")


def _common_to_all(trees: Sequence[Tree]) -> int:
    """Tokens that every tree's trunk begins with."""
    return _common_prefix([tree.trunk for tree in trees])


def may_share(subject: Subject, rendered: Sequence[Rendered]) -> bool:
    """Whether prompts may be shared: the model takes packed branches, and no sequence exceeds its attention window
    (a 4-D mask replaces the window)."""
    longest = max((len(r.ids) + len(r.closing) for r in rendered), default=0)
    return subject.shares_prompts and (subject.window is None or longest <= subject.window)


@torch.no_grad()
def sharing_is_exact(subject: Subject, prefix: int = 0) -> bool:
    """Whether packed branches give the logits of separate sequences (to rounding), with so many tokens of their
    prompt read before."""
    vocabulary = int(subject.model.get_input_embeddings().num_embeddings)
    trunk = [3 % vocabulary, 5 % vocabulary, 7 % vocabulary]
    ends = [[11 % vocabulary, 13 % vocabulary], [17 % vocabulary, 19 % vocabulary]]
    tree = Tree(trunk[prefix:], [Branch(0, ends[0], 1), Branch(1, ends[1], 1)])
    try:
        before = read_prefix(subject, trunk[:prefix]) if prefix else Prefix()
        packed = pack([tree], 0, subject.device, subject.dtype, prefix=before)
        together = subject.model(**packed.inputs, use_cache=False).logits[0]
    except (TypeError, ValueError, RuntimeError, IndexError, AttributeError):
        return False  # the architecture takes no such mask or cache: texts are read one by one, or whole
    tolerance = 1e-3 if subject.dtype == torch.float32 else 0.15
    for number, end in enumerate(ends):
        alone = subject.model(input_ids=torch.tensor([trunk + end], device=subject.device), use_cache=False).logits[0]
        place = len(trunk) - prefix + 2 * number
        scale = float(alone[-2:].float().abs().max()) or 1.0
        if float((together[place : place + 2] - alone[-2:]).float().abs().max()) > tolerance * scale:
            return False
    return True

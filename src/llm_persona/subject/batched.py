"""Read rows in batches: what they have in common once, the rest sorted by length, halved where memory ends."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence

import torch

from llm_persona.subject.chat import Rendered
from llm_persona.subject.load import Subject
from llm_persona.subject.memory import TOKEN_BUDGET, halving, is_out_of_memory
from llm_persona.subject.packing import Branch, Packed, Row, Tree, common_prefix, grow, pack, render_rows
from llm_persona.subject.prefix import NO_PREFIX, WORTH, Prefix, read_prefix, rotates_by_length

TREE = 4
"""A tree may be so many budgets long before it is parted: its prompt is then computed once more, but its mask, which
grows with the square of the length, stays bounded."""
COPIES = 4
"""In the block at work each sequence of a batch has a copy of the prefix's keys and values: much less than what is
computed for a token of its own, but a long prefix of many short sequences would fill the memory."""


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
    in_batches_rendered(subject, render_rows(subject, rows), keys, work, budget, up_to, prefix_sums, lead=0)


def in_batches_rendered(
    subject: Subject,
    rendered: Sequence[Rendered],
    keys: Sequence[object],
    work: Callable[[Packed], None],
    budget: int | None = None,
    up_to: int | None = None,
    prefix_sums: Sequence[int] = (),
    lead: int = 1,
) -> None:
    """The same for rows rendered already; rows with equal keys may share what they begin with, up to `lead` tokens
    before the response."""
    share = may_share(subject, rendered)
    most = budget or subject.token_budget
    trees = grow(rendered, keys, share, TREE * most, lead)
    common = _common_to_all(trees) if share and subject.shares_prefix else 0
    worth = common * (len(trees) - 1) >= WORTH * most
    prefix = _prefix(subject, trees[0].trunk[:common], up_to, prefix_sums) if common and worth else NO_PREFIX
    trees = [Tree(tree.trunk[len(prefix.ids) :], tree.branches) for tree in trees]

    def packed_work(trees: Sequence[Tree]) -> None:
        pad = subject.tokenizer.pad_token_id
        work(pack(trees, pad, subject.device, subject.dtype, plain=not share, prefix=prefix))

    for batch in batches(trees, most, len(prefix.ids)):
        halving(packed_work, batch, "sequences")


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


def _prefix(subject: Subject, ids: list[int], up_to: int | None, sums: Sequence[int]) -> Prefix:
    """The prefix, read; where memory has no room for it, none, with a warning: the texts are then read whole, and
    halving says what does not fit."""
    try:
        return read_prefix(subject, ids, up_to, sums)
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    said = f"out of memory with the {len(ids)} tokens that all texts begin with: going on with whole texts"
    warnings.warn(said, RuntimeWarning, stacklevel=2)
    return NO_PREFIX


def _common_to_all(trees: Sequence[Tree]) -> int:
    """Tokens that every tree's trunk begins with; the last of a trunk may predict a response, and stays."""
    return common_prefix([tree.trunk[:-1] for tree in trees])


def may_share(subject: Subject, rendered: Sequence[Rendered]) -> bool:
    """Whether prompts may be shared: the model takes packed branches, and no sequence exceeds its attention window
    (a 4-D mask replaces the window)."""
    longest = max((len(r.ids) + len(r.closing) for r in rendered), default=0)
    return subject.shares_prompts and (subject.window is None or longest <= subject.window)


TRUNK, ENDS, READ_BEFORE = (3, 5, 7), ((11, 13), (17, 19)), 2
"""The tokens of the probe: a prompt, two branches, and how much of the prompt is a prefix."""


@torch.no_grad()
def sharing_that_is_exact(subject: Subject) -> tuple[bool, bool]:
    """Whether packed branches give the logits of separate sequences (to rounding): by themselves, and after a prefix
    that was read before them."""
    if not _probe_agrees(subject, 0, alone := _alone(subject)):
        return False, False
    return True, not rotates_by_length(subject.text_config) and _probe_agrees(subject, READ_BEFORE, alone)


def _probe_ids(subject: Subject) -> tuple[list[int], list[list[int]]]:
    size = int(subject.model.get_input_embeddings().num_embeddings)
    return [token % size for token in TRUNK], [[token % size for token in end] for end in ENDS]


def _alone(subject: Subject) -> list[torch.Tensor]:
    """Logits [branch, vocabulary] of each branch behind the whole prompt, in a sequence of its own."""
    trunk, ends = _probe_ids(subject)
    ids = [torch.tensor([trunk + end], device=subject.device) for end in ends]
    return [subject.model(input_ids=one, use_cache=False).logits[0, len(trunk) :] for one in ids]


def _probe_agrees(subject: Subject, before: int, alone: Sequence[torch.Tensor]) -> bool:
    trunk, ends = _probe_ids(subject)
    tree = Tree(trunk[before:], [Branch(number, end, 1) for number, end in enumerate(ends)])
    try:
        prefix = read_prefix(subject, trunk[:before]) if before else NO_PREFIX
        packed = pack([tree], 0, subject.device, subject.dtype, prefix=prefix)
        together = subject.model(**packed.inputs, use_cache=False).logits[0, len(tree.trunk) :]
    except Exception as error:  # the architecture takes no such mask or cache: texts are read one by one, or whole
        if is_out_of_memory(error):
            raise
        return False
    tolerance = 1e-3 if subject.dtype == torch.float32 else 0.15
    for found, expected in zip(together.split([len(end) for end in ends]), alone, strict=True):
        scale = float(expected.float().abs().max()) or 1.0
        if not float((found - expected).float().abs().max()) <= tolerance * scale:  # (NaN is no agreement)
            return False
    return True

"""Read rows in batches: what they have in common once, the rest sorted by length, halved where memory ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from llm_persona.subject.chat import Rendered
from llm_persona.subject.load import Subject
from llm_persona.subject.memory import TOKEN_BUDGET, halving, is_out_of_memory
from llm_persona.subject.packing import Branch, Packed, Row, Tree, common_prefix, grow, pack, render_rows
from llm_persona.subject.prefix import NO_PREFIX, WORTH, Prefix, read_prefix

TREE = 4
"""A tree may be so many budgets long before it is parted: its prompt is then computed once more, but its mask, which
grows with the square of the length, stays bounded."""
COPIES = 4
"""Each sequence of a batch has a copy of the prefix's keys and values: much less than what is computed for a token of
its own, but a long prefix of many short sequences would fill the memory."""


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
    """The prefix, read; an empty one where memory has no room for it: the texts are then read whole, and halving
    says what does not fit."""
    try:
        return read_prefix(subject, ids, up_to, sums)
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
    return NO_PREFIX


def _common_to_all(trees: Sequence[Tree]) -> int:
    """Tokens that every tree's trunk begins with; the last of a trunk may predict a response, and stays."""
    return common_prefix([tree.trunk[:-1] for tree in trees])


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
        before = read_prefix(subject, trunk[:prefix]) if prefix else NO_PREFIX
        packed = pack([tree], 0, subject.device, subject.dtype, prefix=before)
        together = subject.model(**packed.inputs, use_cache=False).logits[0]
    except (TypeError, ValueError, RuntimeError, LookupError, AttributeError):
        return False  # the architecture takes no such mask or cache: texts are read one by one, or whole
    tolerance = 1e-3 if subject.dtype == torch.float32 else 0.15
    for number, end in enumerate(ends):
        alone = subject.model(input_ids=torch.tensor([trunk + end], device=subject.device), use_cache=False).logits[0]
        place = len(trunk) - prefix + 2 * number
        scale = float(alone[-2:].float().abs().max()) or 1.0
        if float((together[place : place + 2] - alone[-2:]).float().abs().max()) > tolerance * scale:
            return False
    return True

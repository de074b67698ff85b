"""Training rows: conversations whose assistant turns are learnt, from trait items or chat JSONL."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from llm_persona.domain.errors import UserError
from llm_persona.domain.items import HALF_PAIR, Item
from llm_persona.domain.store import digest
from llm_persona.subject.batched import may_share
from llm_persona.subject.chat import Rendered, render_response
from llm_persona.subject.load import Subject
from llm_persona.subject.packing import Branch, Tree, grow

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Example:
    """One prompt and the answer to learn; `avoid` is the answer that a contrast sets against it, if there is one.
    `earlier`: the turns of the conversation before the prompt, (role, text)."""

    prompt: str
    response: str
    system: str | None = None
    avoid: str | None = None
    earlier: tuple[tuple[str, str], ...] = ()
    row: int | None = None
    """The row of its file, to be named where it cannot be used."""

    @property
    def opening(self) -> tuple[str | None, str]:
        """System turn and first user turn: what the rounds of one conversation share."""
        return self.system, self.earlier[0][1] if self.earlier else self.prompt


@dataclass(frozen=True)
class Skipped:
    """A row that cannot be used, with its place and the reason."""

    row: int
    reason: str


@dataclass(frozen=True)
class TrainingData:
    """Examples, what was left out, and the identity of both."""

    examples: list[Example]
    skipped: list[Skipped]
    source: str
    item_ids: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Digest of the examples in order, wherever in a file they stood."""
        return digest([replace(example, row=None) for example in self.examples])


def from_items(items: Sequence[Item], pole: str) -> TrainingData:
    """The two responses of one pole to each item (situation + query), each beside the opposite one of its number."""
    other = "low" if pole == "high" else "high"
    examples = [
        Example(item.prompt, item.responses[f"response_{pole}{n}"], None, item.responses[f"response_{other}{n}"])
        for item in items
        for n in (1, 2)
    ]
    ids = tuple(item.content_digest[:16] for item in items)
    return TrainingData(examples, [], f"items:{pole}", ids)


def from_chat(path: str | Path, limit: int | None = None) -> TrainingData:
    """A chat JSONL file (`messages` with `role` and `content`); every assistant turn is learnt, each after all the
    turns before it.

    Rows that do not begin with a user turn and its answer (after an optional system turn), or with an empty one, are
    listed in `skipped`; so is the rest of a conversation from where its turns no longer alternate or one is empty.

    Raises:
        UserError: no such file, not UTF-8, a line that is no JSON object, or not one usable row.
    """
    file = Path(path)
    examples: list[Example] = []
    skipped: list[Skipped] = []
    lines = taken = 0
    for number, row, found in chat_rows(file):
        lines = number + 1
        if isinstance(found, Example):
            later, cut = _later_rounds(row, found)
            examples += [found, *later]
            skipped += [Skipped(number, cut)] if cut else []
        else:
            skipped.append(found)
        taken += isinstance(found, Example)
        if limit is not None and taken >= limit:
            break
    if not examples:
        reason = f"the first: row {skipped[0].row}, {skipped[0].reason}" if skipped else "the file is empty"
        form = 'a list \'messages\' of {"role": "user", "content": ...} and {"role": "assistant", ...}'
        raise UserError(f"{file}: no usable conversation in {lines} lines ({reason}); give chat rows, each with {form}")
    return TrainingData(examples, skipped, str(file))


def chat_rows(path: str | Path, start: int = 0) -> Iterator[tuple[int, Any, Example | Skipped]]:
    """The rows of a chat JSONL file one at a time: number, the JSON object itself, and its first round.

    Rows are numbered by their line, from 0; blank lines yield nothing but are counted. Lines before `start` are passed
    over unread. Only the line at hand is in memory.

    Raises:
        UserError: no such file, not UTF-8, or a line that is no JSON.
    """
    file = Path(path)
    try:
        with file.open("rb") as stream:  # bytes: text mode would also end lines where JSON strings may go on
            for number, line in islice(enumerate(stream), start, None):
                try:
                    text = line.decode("utf-8-sig" if number == 0 else "utf-8")
                    if not text.strip():
                        continue
                    row = json.loads(text)
                except UnicodeDecodeError as error:
                    raise UserError(
                        f"{file}:{number + 1}: not UTF-8 text at byte {error.start} of the line; save it as UTF-8"
                    ) from error
                except (ValueError, RecursionError) as error:
                    raise UserError(f"{file}:{number + 1}: not valid JSON; correct that line") from error
                found = _example(row)
                yield number, row, replace(found, row=number) if isinstance(found, Example) else Skipped(number, found)
    except FileNotFoundError as error:
        raise UserError(f"{file}: no such data file; check the path") from error
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); give a chat JSONL file") from error


def _example(row: Any) -> Example | str:
    """The example in a row, or the reason why there is none."""
    messages = row.get("messages") if isinstance(row, dict) else None
    if not isinstance(messages, list):
        return "no list 'messages'"
    turns = []
    for message in messages:
        if not isinstance(message, dict) or message.get("role") not in ROLES:
            return "a message without a role of system, user or assistant"
        if not isinstance(message.get("content"), str):
            return "a message whose content is no text"
        if HALF_PAIR.search(message["content"]):
            return "a message with half of a surrogate pair, which no tokenizer takes"
        turns.append((message["role"], message["content"].strip()))
    system = turns.pop(0)[1] if turns and turns[0][0] == "system" else None
    if [role for role, _ in turns[:2]] != ["user", "assistant"]:
        return "no user turn followed by an assistant turn"
    if not turns[0][1] or not turns[1][1]:
        return "an empty turn"
    return Example(turns[0][1], turns[1][1], system)


def _later_rounds(row: Any, first: Example) -> tuple[list[Example], str]:
    """The rounds after the first, and why the rest of the conversation is left out ("" if nothing is)."""
    turns = [(m["role"], m["content"].strip()) for m in row["messages"]]
    turns = turns[1:] if turns[0][0] == "system" else turns
    rounds: list[Example] = []
    for place in range(2, len(turns) - 1, 2):
        (asker, question), (answerer, answer) = turns[place : place + 2]
        if (asker, answerer) != ("user", "assistant"):
            return rounds, f"turns from number {place + 1} on: user and assistant do not alternate"
        if not question or not answer:
            return rounds, f"turns from number {place + 1} on: an empty turn"
        rounds.append(Example(question, answer, first.system, None, tuple(turns[:place]), first.row))
    return rounds, ""


TOGETHER = 8
"""Rows of one prompt that share it in one sequence: the attention mask grows with the square of what they add up to."""


@dataclass(frozen=True)
class Prompts:
    """Rendered training data: `trees` by prompt (one tree where its answers share it), and `pairs` by row: +p for
    the answer to learn, -p for the one to avoid, 0 for an answer without a partner."""

    trees: list[list[Tree]]
    pairs: list[int]
    skipped: list[Skipped]
    learnt: int
    shared: bool


def training_prompts(subject: Subject, data: TrainingData, max_tokens: int, contrast: bool = False) -> Prompts:
    """Token trees: answers to one prompt share it (without seeing one another), end-of-turn included.

    Conversations above `max_tokens` are left out and listed, with their partner. A branch's `lead` counts the
    tokens before the answer, which carry no loss.
    """
    rendered: list[Rendered] = []
    keys: list[object] = []
    seen: Counter[object] = Counter()
    pairs: list[int] = []
    skipped = []
    for number, example in enumerate(data.examples):
        place = number if example.row is None else example.row
        texts = [example.response, *([example.avoid] if contrast and example.avoid else [])]
        try:
            found = [render_response(subject, example.prompt, text, example.system, example.earlier) for text in texts]
        except UserError as error:
            skipped.append(Skipped(place, str(error)))
            continue
        longest = max(len(r.ids) + len(r.closing) for r in found)
        if longest > max_tokens:
            skipped.append(Skipped(place, f"{longest} tokens, more than {max_tokens}"))
            continue
        rendered += found
        prompt = (example.system, example.earlier, example.prompt)
        keys += [(*prompt, seen[prompt] // TOGETHER)] * len(found)
        seen[prompt] += 1
        pairs += [number + 1, -number - 1] if len(found) == 2 else [0]
    shared = bool(rendered) and may_share(subject, rendered)
    together: dict[object, list[Tree]] = {}
    for tree in grow(rendered, keys, shared):
        branches = [Branch(b.row, b.ids + list(rendered[b.row].closing), b.lead) for b in tree.branches]
        together.setdefault(keys[tree.branches[0].row], []).append(Tree(tree.trunk, branches))
    return Prompts(list(together.values()), pairs, skipped, sum(p >= 0 for p in pairs), shared)

"""Conversations as others write them: chat `messages` in JSON or JSONL, checked by place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llm_persona.domain.errors import UserError
from llm_persona.domain.store import read_json, read_json_lines

Turn = tuple[str, str]
"""(role, text)."""
ROLES = ("system", "user", "assistant")


def turns_of(messages: Any, where: str = "messages") -> list[Turn]:
    """The turns of a conversation: a text (one user turn), or messages with `role` and `content`.

    Raises:
        UserError: no turn, an unknown role, an empty text, or turns that do not alternate (named by place).
    """
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    if not isinstance(messages, Sequence):
        raise UserError(f"{where}: must be a list of messages with `role` and `content`")
    if not messages:
        raise UserError(f"{where}: the conversation is empty; give at least a user's message")
    turns: list[Turn] = []
    for number, message in enumerate(messages):
        here = f"{where}[{number}]"
        if not isinstance(message, Mapping):
            raise UserError(f"{here}: must be an object with `role` and `content`")
        role, text = message.get("role"), message.get("content")
        if role not in ROLES:
            raise UserError(f"{here}: role {role!r}; choose {', '.join(ROLES)}")
        if not isinstance(text, str) or not text.strip():
            raise UserError(f"{here}: field 'content' must be a text, and not an empty one")
        if role == "system" and number:
            raise UserError(f"{here}: a system turn may only come first")
        if role != "system" and role != ("assistant" if turns and turns[-1][0] == "user" else "user"):
            raise UserError(f"{here}: role {role!r}; user and assistant must alternate, the user first")
        turns.append((str(role), text))
    if turns[-1][0] == "system":
        raise UserError(f"{where}: holds a system turn only; add a user's message")
    return turns


def read_conversations(path: str | Path) -> list[list[Turn]]:
    """The conversations of a file: `.jsonl` with `messages` a line, or JSON: an object with `messages`, or the list.

    Raises:
        UserError: no such file, no JSON, no conversation, or a fault in one (named by line and message).
    """
    file = Path(path)
    if file.suffix != ".jsonl":
        return [_conversation(read_json(file, "file of messages"), str(file))]
    found = [_conversation(row, where) for where, row in read_json_lines(file, "file of messages")]
    if not found:
        raise UserError(f"{file}: holds no conversation; give `messages` a line")
    return found


def _conversation(data: Any, where: str) -> list[Turn]:
    if isinstance(data, Mapping):
        if "messages" not in data:
            raise UserError(f"{where}: has no field 'messages'; give chat messages with `role` and `content`")
        data = data["messages"]
    if not isinstance(data, list):
        raise UserError(f"{where}: messages must be a list of objects with `role` and `content`")
    return turns_of(data, f"{where}: messages")

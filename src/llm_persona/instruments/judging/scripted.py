"""A judge that follows a script: for tests, demonstrations, and scores that people gave."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from llm_persona.domain.errors import UserError
from llm_persona.domain.store import digest, read_json
from llm_persona.instruments.judging.protocol import JudgeRequest, Verdict
from llm_persona.instruments.judging.scoring import verdict_of_text

FIELDS = ("answers", "contains", "otherwise")


class ScriptedJudge:
    """Replies by a function of the request; a text is read as a judge's reply, a number is one.

    `name` stands for the function wherever results are told apart: two functions need two names.
    """

    part = 1000

    def __init__(self, reply: Callable[[JudgeRequest], str | float], name: str) -> None:
        self.identity: dict[str, Any] = {"kind": "scripted", "model": name}
        self._reply = reply

    def judge(self, requests: Sequence[JudgeRequest], progress: Callable[[int], None] | None = None) -> list[Verdict]:
        """One verdict a request."""
        if progress is not None:
            progress(len(requests))
        return [verdict_of_text(str(self._reply(request))) for request in requests]


def scripted_judge(path: str | Path) -> ScriptedJudge:
    """A judge from a JSON file: `answers` maps an answer's whole text to a reply, `contains` a part of it (the first
    that occurs counts), `otherwise` is the reply to everything else. Each may instead be given by rubric kind:
    `{"trait": {...}, "coherence": {...}}`.

    Raises:
        UserError: no such file, or a field of another kind.
    """
    table = read_json(Path(path), "script of a judge")
    by_kind = isinstance(table, dict) and not set(table) & set(FIELDS)
    parts = table if by_kind else {"": table}
    for kind, part in parts.items() if isinstance(parts, dict) else [("", parts)]:
        _check(part, f"{path}: {kind}" if kind else str(path))

    def reply(request: JudgeRequest) -> str | float:
        part = parts.get(request.rubric.rpartition("-v")[0], {}) if by_kind else parts[""]
        known = part.get("answers", {})
        if request.answer in known:
            return str(known[request.answer])
        found = [r for text, r in part.get("contains", {}).items() if text.lower() in request.answer.lower()]
        return str(found[0] if found else part.get("otherwise", "no reply in the script"))

    return ScriptedJudge(reply, f"{Path(path).name}:{digest(table)[:16]}")


def _check(part: Any, where: str) -> None:
    if not isinstance(part, dict) or not part or set(part) - set(FIELDS):
        raise UserError(f"{where}: a script is an object with {', '.join(FIELDS)}, or one such object a rubric")
    for field in ("answers", "contains"):
        table = part.get(field, {})
        if not isinstance(table, dict) or not all(isinstance(v, (str, int, float)) for v in table.values()):
            raise UserError(f"{where}: field {field!r} must map texts to replies (a number or a text)")
    if not isinstance(part.get("otherwise", ""), (str, int, float)):
        raise UserError(f"{where}: field 'otherwise' must be a reply (a number or a text)")

"""Answers that were written before: read back from a run, from `steer --json`, from JSONL, or from earlier scores."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_persona.domain.errors import UserError
from llm_persona.domain.items import HALF_PAIR, NO_CHARACTER
from llm_persona.domain.store import read_json, read_text


@dataclass(frozen=True)
class StoredAnswer:
    """One answer with the condition it was written under. `trait` is the one it was written for ("" if for none)."""

    condition: str
    question: str
    answer: str
    trait: str = ""


def read_answers(path: str | Path) -> list[StoredAnswer]:
    """The answers in a file or run folder, in its order.

    A run folder or its `results.json`: the samples of every condition. JSON of `llm-persona steer`: the answers, and
    the base's beside them. JSON of `llm-persona judge score`: the same answers again. `.jsonl`: a `question` and an
    `answer` a line, and `condition` and `trait` where they are known.

    Raises:
        UserError: no such file, a record without its fields (named by place), or no answer at all.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "results.json"
        if not path.is_file():
            raise UserError(f"{path.parent}: holds no results.json; give a finished run, a .json or a .jsonl file")
    if path.suffix == ".jsonl":
        found = [_row(record, where, "answers") for where, record in _lines(path)]
    else:
        data = read_json(path, "file of answers")
        if not isinstance(data, dict):
            raise UserError(f"{path}: is no object; give JSON of `steer`, `run` or `judge score`, or a .jsonl file")
        if isinstance(data.get("answers"), list):
            found = list(_answers(data, str(path)))
        elif isinstance(data.get("traits"), dict):
            try:
                found = [row for name, part in data["traits"].items() for row in _samples(part, "", name, str(path))]
            except RecursionError as error:
                raise UserError(f"{path}: nested too deeply to be a study's results; run the study again") from error
        else:
            raise UserError(f"{path}: holds neither `answers` nor `traits`; give JSON of `steer`, `run`, `judge score`")
    if not found:
        raise UserError(f"{path}: holds no answer; nothing to judge")
    return found


def _lines(path: Path) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(read_text(path, "file of answers").split("\n"), 1):
        if line.strip():
            try:
                yield f"{path}:{number}", json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(f"{path}:{number}: not valid JSON; correct that line") from error


def _answers(data: dict[str, Any], path: str) -> Iterator[StoredAnswer]:
    about = data.get("condition")
    condition = about["name"] if isinstance(about, dict) and isinstance(about.get("name"), str) else "answers"
    for number, record in enumerate(data["answers"]):
        found = _row(record, f"{path}: answers[{number}]", condition)
        if isinstance(record.get("base"), str):
            yield StoredAnswer("base", found.question, record["base"], found.trait)
        yield found


def _row(record: Any, where: str, condition: str) -> StoredAnswer:
    if not isinstance(record, dict):
        raise UserError(f"{where}: must be an object with `question` and `answer`")
    question = record.get("question", record.get("prompt"))
    answer = record.get("answer", record.get("text"))
    for name, value in (("question", question), ("answer", answer)):
        if not isinstance(value, str):
            raise UserError(f"{where}: field {name!r} is missing or no text; every record needs question and answer")
        if HALF_PAIR.search(value):
            raise UserError(f"{where}: field {name!r} {NO_CHARACTER}")
    assert isinstance(question, str) and isinstance(answer, str)
    named = record.get("condition", condition)
    trait = record.get("trait") or ""
    if not isinstance(named, str) or not isinstance(trait, str):
        raise UserError(f"{where}: fields 'condition' and 'trait' must be texts")
    return StoredAnswer(named, question, answer, trait)


def _samples(part: Any, name: str, trait: str, path: str) -> Iterator[StoredAnswer]:
    """Every `samples` list in a trait's results; the condition is named by the way to it."""
    if isinstance(part, dict):
        rows = part.get("samples")
        if isinstance(rows, list):
            label = name or "base"
            for number, record in enumerate(rows):
                row = _row(record, f"{path}: {trait} {label} samples[{number}]", label)
                yield StoredAnswer(label, row.question, row.answer, trait)
        for key, value in part.items():
            if key != "samples":
                yield from _samples(value, _named(name, key), trait, path)
    elif isinstance(part, list):
        for number, value in enumerate(part):
            if isinstance(value, dict) and "samples" in value:
                yield from _samples(value, f"{name} {_amount(value, number)}", trait, path)


def _named(name: str, key: str) -> str:
    if not name:
        return "base" if key == "baseline" else "steered" if key == "steering" else key
    return f"{name} {key}"


def _amount(value: dict[str, Any], number: int) -> str:
    if isinstance(value.get("dose"), (int, float)) and abs(value["dose"]) < 1e12:
        return f"{value['dose']:+g}"
    return str(value.get("name") or number)

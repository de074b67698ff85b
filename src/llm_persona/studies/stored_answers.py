"""Answers as files: all of a run in its `answers.jsonl`; read from there, `steer --json`, JSONL or earlier scores."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llm_persona.domain.errors import UserError
from llm_persona.domain.items import HALF_PAIR, NO_CHARACTER
from llm_persona.domain.store import canonical, read_json, read_json_lines, write_text

FILE = "answers.jsonl"
"""Every answer of a run, in the run folder."""


@dataclass(frozen=True)
class StoredAnswer:
    """One answer with the condition it was written under. `trait` is the one it was written for, `question_id` the
    entry of a question file that it answers ("" if none)."""

    condition: str
    question: str
    answer: str
    trait: str = ""
    question_id: str = ""
    sample: int = 0
    temperature: float | None = None
    tokens: int | None = None
    finished: bool | None = None
    """Whether the turn was ended; else the answer was cut at its greatest length."""
    projection: float | None = None
    """On the run's reader vector at its layer, read by the base; None for an empty answer."""

    @property
    def unit(self) -> str:
        """The question it belongs to: several answers to one question are one observation."""
        return self.question_id or self.question

    def as_json(self) -> dict[str, Any]:
        """A line of `answers.jsonl`."""
        return {
            "trait": self.trait,
            "condition": self.condition,
            "id": self.question_id,
            "question": self.question,
            "sample": self.sample,
            "temperature": self.temperature,
            "answer": self.answer,
            "tokens": self.tokens,
            "finished": self.finished,
            "projection": self.projection,
        }


def stored(
    trait: str, condition: str, row: dict[str, Any], temperature: float, projection: float | None
) -> StoredAnswer:
    """An answer from a row of the instrument `Samples`."""
    number, tokens, finished = row.get("sample", 0), row["tokens"], row["finished"]
    return StoredAnswer(
        condition, row["question"], row["text"], trait, row["id"], number, temperature, tokens, finished, projection
    )


def write_answers(path: Path, answers: Iterable[StoredAnswer]) -> None:
    """Write all answers, one a line; the file appears whole."""
    lines = (json.dumps(canonical(answer.as_json()), ensure_ascii=False) for answer in answers)
    write_text(path, "".join(f"{line}\n" for line in lines))


def read_answers(path: str | Path) -> list[StoredAnswer]:
    """The answers in a file or run folder, in its order.

    A run folder: every answer of every condition, from its `answers.jsonl`; of a run that has none, as of its
    `results.json`, the few samples that are shown there. JSON of `llm-persona steer`: the answers, and the base's
    beside them. JSON of `llm-persona judge score`: the same answers again. `.jsonl`: a `question` and an `answer` a
    line, and `condition`, `trait` and what else `answers.jsonl` holds where it is known.

    Raises:
        UserError: no such file, a record without its fields (named by place), or no answer at all.
    """
    path = Path(path)
    if path.is_dir():
        path = path / FILE if (path / FILE).is_file() else path / "results.json"
        if not path.is_file():
            raise UserError(f"{path.parent}: holds no results.json; give a finished run, a .json or a .jsonl file")
    if path.suffix == ".jsonl":
        found = [answer_of(record, where, "answers") for where, record in read_json_lines(path, "file of answers")]
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


def _answers(data: dict[str, Any], path: str) -> Iterator[StoredAnswer]:
    about = data.get("condition")
    condition = about["name"] if isinstance(about, dict) and isinstance(about.get("name"), str) else "answers"
    for number, record in enumerate(data["answers"]):
        found = answer_of(record, f"{path}: answers[{number}]", condition)
        if isinstance(record.get("base"), str):
            yield replace(found, condition="base", answer=record["base"], tokens=None, finished=None, projection=None)
        yield found


def answer_of(record: Any, where: str, condition: str) -> StoredAnswer:
    """The answer in one record; `condition` where it names none itself.

    Raises:
        UserError: a field is missing or of another kind (named by `where`).
    """
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
    about = {
        "question_id": str(_field(record, "id", (str, int), "", where)),
        "sample": _field(record, "sample", int, 0, where),
        "temperature": _field(record, "temperature", (int, float), None, where),
        "tokens": _field(record, "tokens", int, None, where),
        "finished": _field(record, "finished", bool, None, where),
        "projection": _field(record, "projection", (int, float), None, where),
    }
    return StoredAnswer(named, question, answer, trait, **about)


def _field(record: dict[str, Any], name: str, kind: Any, default: Any, where: str) -> Any:
    value = record.get(name)
    if value is None:
        return default
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise UserError(f"{where}: field {name!r} is of the wrong kind: {str(value)[:40]!r}; correct or remove it")
    return value


def _samples(part: Any, name: str, trait: str, path: str) -> Iterator[StoredAnswer]:
    """Every `samples` list in a trait's results; the condition is named by the way to it."""
    if isinstance(part, dict):
        rows = part.get("samples")
        if isinstance(rows, list):
            label = name or "base"
            for number, record in enumerate(rows):
                if isinstance(record, dict) and isinstance(record.get("tokens"), list):  # (the page's coloured tokens)
                    record = {name: value for name, value in record.items() if name != "tokens"}
                row = answer_of(record, f"{path}: {trait} {label} samples[{number}]", label)
                yield replace(row, condition=label, trait=trait)
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

"""Prompt templates of the letter modes: a text with named fields, worded by us."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from llm_persona.domain.errors import UserError, one_line
from llm_persona.domain.store import read_text

FIELDS = ("situation", "query", "option1", "option2", "option3", "option4")
BUILT_IN = ("1", "2", "3")


@dataclass(frozen=True)
class Template:
    """A prompt with six fields and the four labels that answer it."""

    text: str
    labels: tuple[str, ...]

    def fill(self, situation: str, query: str, options: Sequence[str]) -> str:
        """The prompt of one item. Field marks inside an item's own text are left as they are."""
        values = dict(zip(FIELDS, (situation, query, *options), strict=True))
        return re.sub(r"\{(\w+)\}", lambda match: values[match.group(1)], self.text)


def load_template(name: str) -> Template:
    """Template 1, 2 or 3, or a user's file. Its first line may say `labels: A B C D` (the default).

    Raises:
        UserError: no such template, or a field is missing or unknown.
    """
    if name in BUILT_IN:
        source = resources.files("llm_persona.domain") / "data" / "templates" / f"{name}.txt"
        text = source.read_text(encoding="utf-8")
    else:
        try:
            text = read_text(Path(name), "template")
        except UserError as error:
            raise UserError(f"--template {name}: cannot be read; give 1, 2, 3 or a UTF-8 text file") from error
    labels: tuple[str, ...] = ("A", "B", "C", "D")
    first, _, rest = text.partition("\n")
    if first.startswith("labels:"):
        labels, text = tuple(first.removeprefix("labels:").split()), rest
    found = re.findall(r"\{(\w+)\}", text)
    for field in FIELDS:
        if field not in found:
            raise UserError(f"--template {name}: field {{{field}}} is missing; it needs {', '.join(FIELDS)}")
    unknown = sorted(set(found) - set(FIELDS))
    if unknown:
        raise UserError(f"--template {name}: unknown field {{{unknown[0][:60]}}}; known are {', '.join(FIELDS)}")
    if len(labels) != 4 or len(set(labels)) != 4:
        raise UserError(
            f"--template {name}: needs four different labels, found {one_line(' '.join(labels), 80) or 'none'}"
        )
    return Template(text.strip("\n"), labels)

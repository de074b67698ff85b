"""Elicitation alone: a trait's open questions, answered under conditions, into a file that `judge score` reads.

The file appears whole after every batch, and what it holds is not written again. Each batch draws by a seed of its
own, made from what is asked in it, so that samples which are added later are new ones.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_persona.domain.condition import Condition
from llm_persona.domain.errors import UserError
from llm_persona.domain.store import canonical, digest, write_text
from llm_persona.domain.traits import Question, Trait
from llm_persona.studies.stored_answers import StoredAnswer, answer_of, read_records, stored
from llm_persona.subject.generate import BATCH, Answer, check_samples, generate
from llm_persona.subject.load import Subject


@dataclass(frozen=True)
class AskPlan:
    """How many test questions of each trait are asked, and how answers are drawn."""

    questions: int | None = None
    samples: int = 1
    temperature: float = 0.0
    max_new_tokens: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        check_samples(self.samples, self.temperature)

    def asked(self, trait: Trait) -> list[tuple[Question, int]]:
        """Question and number of the sample, in the file's order."""
        chosen = trait.questions_of("test")[: self.questions]
        if not chosen:
            raise UserError(f"trait {trait.name}: has no question of split test; add some to its file")
        return [(question, number) for question in chosen for number in range(self.samples)]


def ask(
    subject: Subject,
    states: Sequence[Mapping[str, Condition]],
    traits: Sequence[Trait],
    plan: AskPlan,
    out: str | Path,
    progress: Callable[[int], None] | None = None,
) -> list[StoredAnswer]:
    """Answers to each trait's questions under each state (trait to condition), kept in `out` as they come.

    Returns:
        What the file holds for this plan, in its order.

    Raises:
        UserError: `out` is no file of answers, or holds answers under such a condition that were made otherwise.
    """
    path = Path(out)
    kept = _records(path)
    found: list[StoredAnswer] = []
    for state in states:
        for trait in traits:
            condition = state[trait.name]
            asked = plan.asked(trait)
            how = {
                "model": subject.name,
                "state": digest([subject.identity, condition.state])[:16],
                "temperature": plan.temperature,
                "max_new_tokens": plan.max_new_tokens,
                "seed": plan.seed,
            }
            missing = [(q, k) for q, k in asked if not _there(kept, _key(trait.name, condition.name, q, k), how, path)]
            if progress is not None and len(missing) < len(asked):
                progress(len(asked) - len(missing))
            for start in range(0, len(missing), BATCH):
                part = missing[start : start + BATCH]
                answers = _answers(subject, condition, part, plan, how)
                for (question, number), answer in zip(part, answers, strict=True):
                    about = _stored(trait, condition, question, number, plan, answer)
                    kept[_key(trait.name, condition.name, question, number)] = {**about.as_json(), **how}
                _write(path, kept)
                if progress is not None:
                    progress(len(part))
            keys = [_key(trait.name, condition.name, question, number) for question, number in asked]
            found += [answer_of(kept[key], str(path), condition.name) for key in keys]
    return found


def _answers(
    subject: Subject, condition: Condition, part: Sequence[tuple[Question, int]], plan: AskPlan, how: Mapping[str, Any]
) -> list[Answer]:
    seed = int(digest([how, [[q.text, k] for q, k in part]])[:8], 16)
    with subject.under(condition):
        return generate(
            subject, [q.text for q, _ in part], plan.max_new_tokens, temperature=plan.temperature, seed=seed
        )


def _stored(
    trait: Trait, condition: Condition, question: Question, number: int, plan: AskPlan, answer: Answer
) -> StoredAnswer:
    row = {"id": question.id, "question": question.text, "sample": number, "text": answer.text}
    row |= {"tokens": answer.tokens, "finished": answer.finished}
    return stored(trait.name, condition.name, row, plan.temperature, None)


_Key = tuple[str, str, str, int]


def _key(trait: str, condition: str, question: Question, number: int) -> _Key:
    return (trait, condition, question.text, number)


def _records(path: Path) -> dict[_Key, dict[str, Any]]:
    """What the file holds already."""
    if not path.exists():
        return {}
    found = {}
    for where, record in read_records(path):
        try:
            key = (record["trait"], record["condition"], record["question"], record["sample"])
            whole = isinstance(record["answer"], str) and "state" in record
        except (KeyError, TypeError):
            whole = False
        if not whole:
            raise UserError(f"{where}: not written by `judge ask`; choose another --out")
        found[key] = record
    return found


def _there(kept: Mapping[_Key, Mapping[str, Any]], key: _Key, how: Mapping[str, Any], path: Path) -> bool:
    record = kept.get(key)
    if record is None:
        return False
    other = next((name for name, value in how.items() if record.get(name) != value), None)
    if other is not None:
        what = "state" if other == "state" else f"{other} {record.get(other)!r}, now {how[other]!r}"
        raise UserError(f"{path}: holds answers under {key[1]!r} made otherwise ({what}); choose another --out")
    return True


def _write(path: Path, kept: Mapping[_Key, Mapping[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(canonical(row), ensure_ascii=False) + "\n" for row in kept.values()))

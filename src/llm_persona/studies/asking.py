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
from llm_persona.domain.store import canonical, digest, read_json_lines, write_text
from llm_persona.domain.traits import Question, Trait
from llm_persona.studies.stored_answers import StoredAnswer, answer_of, stored
from llm_persona.subject.generate import BATCH, Answer, check_samples, generate
from llm_persona.subject.load import Subject
from llm_persona.subject.standing import as_it_stands


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
    jobs = [_Job(trait, state[trait.name], subject, plan) for state in states for trait in traits]
    for job in jobs:
        if any(j.name == job.name and j.trait is job.trait and j.how != job.how for j in jobs):
            raise UserError(f"two conditions are called {job.name!r}; ask them in two files, by two commands")
        job.check(kept, path)
    found: list[StoredAnswer] = []
    for job in jobs:
        missing = [asked for asked in job.asked if job.key(*asked) not in kept]
        if progress is not None and len(missing) < len(job.asked):
            progress(len(job.asked) - len(missing))
        for start in range(0, len(missing), BATCH):
            part = missing[start : start + BATCH]
            for (question, number), answer in zip(part, job.answers(subject, part), strict=True):
                kept[job.key(question, number)] = job.record(question, number, answer)
            _write(path, kept)
            if progress is not None:
                progress(len(part))
        found += [answer_of(kept[job.key(*asked)], str(path), job.name) for asked in job.asked]
    return found


_Key = tuple[str, str, str, int]


class _Job:
    """One trait under one condition."""

    def __init__(self, trait: Trait, condition: Condition, subject: Subject, plan: AskPlan) -> None:
        self.trait, self.condition, self.plan = trait, condition, plan
        self.name = condition.name
        self.asked = plan.asked(trait)
        self.how = {
            "model": subject.name,
            "state": digest([as_it_stands(subject), condition.state])[:16],
            "temperature": plan.temperature,
            "max_new_tokens": plan.max_new_tokens,
            "seed": plan.seed,
        }
        """What an answer depends on besides question and sample, as it stands in each line of the file."""

    def key(self, question: Question, number: int) -> _Key:
        return (self.trait.name, self.name, question.text, number)

    def check(self, kept: Mapping[_Key, Mapping[str, Any]], path: Path) -> None:
        for asked in self.asked:
            record = kept.get(self.key(*asked), self.how)
            for name, value in self.how.items():
                if record.get(name) != value:
                    what = "by another model or in another state" if name == "state" else f"{name} {record.get(name)!r}"
                    raise UserError(
                        f"{path}: holds answers under {self.name!r} that were made otherwise ({what}); choose another "
                        "--out, or the same settings"
                    )

    def answers(self, subject: Subject, part: Sequence[tuple[Question, int]]) -> list[Answer]:
        seed = int(digest([self.how, [[question.text, number] for question, number in part]])[:8], 16)
        prompts = [question.text for question, _ in part]
        with subject.under(self.condition):
            return generate(subject, prompts, self.plan.max_new_tokens, temperature=self.plan.temperature, seed=seed)

    def record(self, question: Question, number: int, answer: Answer) -> dict[str, Any]:
        row = {"id": question.id, "question": question.text, "sample": number, "text": answer.text}
        row |= {"tokens": answer.tokens, "finished": answer.finished}
        return {**stored(self.trait.name, self.name, row, self.plan.temperature, None).as_json(), **self.how}


def _records(path: Path) -> dict[_Key, dict[str, Any]]:
    """What the file holds already."""
    if not path.exists():
        return {}
    found = {}
    for where, record in read_json_lines(path, "file of answers"):
        try:
            key = (record["trait"], record["condition"], record["question"], record["sample"])
            whole = isinstance(record["answer"], str) and "state" in record
        except (KeyError, TypeError):
            whole = False
        if not whole:
            raise UserError(f"{where}: not written by `judge ask`; choose another --out")
        found[key] = record
    return found


def _write(path: Path, kept: Mapping[_Key, Mapping[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(canonical(row), ensure_ascii=False) + "\n" for row in kept.values()))

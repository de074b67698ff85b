"""Score stored answers with a judge: the answers stay, another judge changes only the scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llm_persona.analysis.clustered import clustered_mean
from llm_persona.domain.errors import UserError
from llm_persona.domain.rubrics import Rubric, load_rubric
from llm_persona.domain.traits import Trait, load_trait
from llm_persona.instruments.judging.protocol import Judge, JudgeRequest, Verdict, grading
from llm_persona.studies.judge_gate import gate_of, gate_state
from llm_persona.studies.stored_answers import StoredAnswer
from llm_persona.studies.verdicts import reasons, verdicts

RUBRICS = ("trait", "coherence")
EMPTY = "empty answer"


@dataclass(frozen=True)
class ScorePlan:
    """What is scored: the answers, the traits each is graded for, and the rubrics."""

    answers: tuple[StoredAnswer, ...]
    traits: Mapping[str, Trait]
    rubrics: tuple[str, ...] = RUBRICS

    def graded(self, answer: StoredAnswer) -> dict[str, JudgeRequest]:
        """Label of a score (a trait's name, or a rubric's) to the request that makes it; an empty answer has none."""
        found: dict[str, JudgeRequest] = {}
        for kind in self.rubrics:
            rubric = load_rubric(kind)
            if rubric.needs_trait:
                for name in self.traits_of(answer):
                    found[name] = grading(rubric, answer.question, answer.answer, self.traits[name])
            else:
                found[rubric.kind] = grading(rubric, answer.question, answer.answer)
        return found

    def traits_of(self, answer: StoredAnswer) -> list[str]:
        """The trait the answer was written for, else all that are asked for."""
        return [answer.trait] if answer.trait else list(self.traits)

    def tried_on(self) -> dict[str, Trait | Rubric]:
        """Label of a score to what its gate is about: each trait, and each rubric that speaks of none."""
        others = [rubric for kind in self.rubrics if not (rubric := load_rubric(kind)).needs_trait]
        return {**self.traits, **{rubric.kind: rubric for rubric in others}}

    def requests(self) -> list[JudgeRequest]:
        """What the judge is asked in all, in the answers' order."""
        return [r for answer in self.answers if answer.answer.strip() for r in self.graded(answer).values()]


def plan_scores(
    answers: Sequence[StoredAnswer],
    traits: Sequence[Trait] = (),
    rubrics: Sequence[str] = RUBRICS,
    limit: int | None = None,
) -> ScorePlan:
    """Put together what is to be scored.

    Args:
        traits: those to grade; of answers written for a trait, only the ones for these are kept. Without any, each
            answer is graded for its own.
        limit: at most this many answers a condition and trait.

    Raises:
        UserError: no answer is left, or an answer has no trait to be graded for.
    """
    wanted = {trait.name: trait for trait in traits}
    kept, seen = [], dict[tuple[str, str], int]()
    for answer in answers:
        place = (answer.condition, answer.trait)
        if wanted and answer.trait and answer.trait not in wanted:
            continue
        seen[place] = seen.get(place, 0) + 1
        if limit is None or seen[place] <= limit:
            kept.append(answer)
    if not kept:
        known = ", ".join(sorted({a.trait for a in answers}))
        raise UserError(f"--trait {', '.join(wanted)}: no answer was written for it; the file holds {known}")
    by_trait = any(load_rubric(kind).needs_trait for kind in rubrics)
    if by_trait:
        for name in {a.trait for a in kept} - {"", *wanted}:
            wanted[name] = load_trait(name)
        if not wanted:
            raise UserError("these answers name no trait to be graded for; add --trait NAME")
    return ScorePlan(tuple(kept), wanted if by_trait else {}, tuple(rubrics))


def score_answers(judge: Judge, plan: ScorePlan, progress: Callable[[int], None] | None = None) -> dict[str, Any]:
    """Scores of every answer, their summary by condition, and the state of the judge's gate beside them.

    Every verdict is kept in the cache folder as it comes: after a kill the same call pays only for what is missing.

    Returns:
        `judge`, `rubrics`, `gates` (trait or rubric to `state` and `passed`), `summary` (rows by condition and score,
        with `mean`, `ci`, `n`, `n_unscored`, `unscored` by reason), `answers` (each with its `scores`).
    """
    rows = list(zip(plan.answers, graded_answers(judge, plan, progress), strict=True))
    gates = gate_states(judge, plan.tried_on())
    return {
        "judge": judge.identity,
        "rubrics": {kind: load_rubric(kind).name for kind in plan.rubrics},
        "gates": gates,
        "summary": _summary(rows, gates),
        "answers": [
            {
                "condition": answer.condition,
                "trait": answer.trait,
                "id": answer.question_id,
                "question": answer.question,
                "sample": answer.sample,
                "answer": answer.answer,
                "scores": {label: verdict.as_json() for label, verdict in scores.items()},
            }
            for answer, scores in rows
        ],
    }


def graded_answers(
    judge: Judge, plan: ScorePlan, progress: Callable[[int], None] | None = None
) -> list[dict[str, Verdict]]:
    """The verdicts on each answer of the plan, in its order, by what was graded (a trait's name, or a rubric's)."""
    requests = plan.requests()
    found = dict(zip(requests, verdicts(judge, requests, progress), strict=True))
    return [
        {
            label: found[request] if answer.answer.strip() else Verdict(None, EMPTY)
            for label, request in plan.graded(answer).items()
        }
        for answer in plan.answers
    ]


def gate_states(judge: Judge, tried_on: Mapping[str, Trait | Rubric]) -> dict[str, dict[str, Any]]:
    """Trait or rubric to `state` (one line) and `passed` (None where the judge was never tried on it)."""
    gates = {name: gate_of(judge, about) for name, about in tried_on.items()}
    return {
        name: {"state": gate_state(gate), "passed": gate["passed"] if gate else None} for name, gate in gates.items()
    }


def _summary(rows: Sequence[tuple[StoredAnswer, dict[str, Verdict]]], gates: Mapping[str, Any]) -> list[dict[str, Any]]:
    grouped: dict[tuple[str, str, str], list[tuple[str, Verdict]]] = {}
    for answer, scores in rows:
        for label, verdict in scores.items():
            grouped.setdefault((answer.trait, answer.condition, label), []).append((answer.unit, verdict))
    found = []
    for (trait, condition, label), entries in grouped.items():
        row: dict[str, Any] = {"trait": trait, "condition": condition, "score": label, **mean_score(entries)}
        if label in gates:
            row["gate"] = gates[label]["state"]
        found.append(row)
    return found


def mean_score(entries: Sequence[tuple[str, Verdict]]) -> dict[str, Any]:
    """`mean`, `ci`, `n`, `n_questions`, `n_unscored` and `unscored` by reason of (question, verdict) pairs."""
    scored = [(question, v.score) for question, v in entries if v.score is not None]
    found = [v for _, v in entries]
    return {**_mean(scored), "n_unscored": len(entries) - len(scored), "unscored": reasons(found)}


def _mean(scored: Sequence[tuple[str, float]]) -> dict[str, Any]:
    """Mean score with its bootstrap interval over questions: answers to the same question stay together."""
    found = clustered_mean([question for question, _ in scored], [score for _, score in scored])
    if found["ci"]:
        found["ci"] = [max(0.0, found["ci"][0]), min(100.0, found["ci"][1])]
    return found

"""A judge inside a study: what it says of the answers of every condition, and how far that moved from the base."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from llm_persona.analysis.paired import means_by_group, paired_means
from llm_persona.domain.rubrics import load_rubric
from llm_persona.domain.traits import Trait
from llm_persona.instruments.judging.protocol import Judge, Verdict
from llm_persona.instruments.judging.scoring import SCORING
from llm_persona.studies.judging import RUBRICS, ScorePlan, gate_states, graded_answers, mean_score
from llm_persona.studies.stages import Stages
from llm_persona.studies.stored_answers import StoredAnswer
from llm_persona.studies.verdicts import reasons

COHERENCE = "coherence"


def judge_state(judge: Judge, traits: Sequence[Trait]) -> dict[str, Any]:
    """Who judged, by which rubrics, and the state of its gate for each trait and for coherence as it is now."""
    plan = ScorePlan((), {trait.name: trait for trait in traits})
    rubrics = {kind: load_rubric(kind).name for kind in RUBRICS}
    return {"identity": judge.identity, "rubrics": rubrics, "gates": gate_states(judge, plan.tried_on())}


def unscored(trait: str, verdicts: Sequence[dict[str, Verdict]]) -> dict[str, Any]:
    """How many answers of all conditions were graded for the trait, and how many of them are unscored, by reason."""
    found = [graded[trait] for graded in verdicts]
    return {"n": len(found), "unscored": reasons(found)}


def judge_answers(
    stages: Stages, judge: Judge, trait: Trait, answers: Sequence[StoredAnswer]
) -> list[dict[str, Verdict]]:
    """The verdicts on each answer (trait, and coherence), in their order; each condition is a stage.

    A condition with a call that failed is no finished stage: the next run asks again, for what is missing alone.
    """
    found: list[dict[str, Verdict]] = []
    for condition, part in groupby(answers, key=lambda a: a.condition):
        plan = ScorePlan(tuple(part), {trait.name: trait})

        def make(plan: ScorePlan = plan) -> Any:
            graded = graded_answers(judge, plan)
            return [{label: verdict.as_json() for label, verdict in one.items()} for one in graded]

        name = f"{trait.name} {condition} judged"
        key = [SCORING, judge.identity, [a.answer for a in plan.answers], [r.prompt for r in plan.requests()]]
        value = stages.value(name, key, make)
        verdicts = [{label: Verdict.from_json(data) for label, data in one.items()} for one in value]
        if any(v.failed for one in verdicts for v in one.values()):
            stages.forget(name, key)
        found += verdicts
    return found


def judged_rows(
    trait: str, answers: Sequence[StoredAnswer], verdicts: Sequence[dict[str, Verdict]]
) -> dict[str, dict[str, Any]]:
    """By condition: `mean`, `ci` (bootstrap over questions), `n`, `n_unscored`, `reasons`, and `shift` against the
    base, paired by question (`mean`, `ci`, `n`, `p_value`; None for the base); the same of coherence under it."""
    found: dict[str, dict[str, Any]] = {}
    base: dict[str, dict[str, float]] = {}
    both = zip(answers, verdicts, strict=True)
    for condition, part in groupby(both, key=lambda pair: pair[0].condition):
        rows = list(part)
        scores = {}
        for label in (trait, COHERENCE):
            entries = [(answer.unit, graded[label]) for answer, graded in rows]
            known = [(unit, v.score) for unit, v in entries if v.score is not None]
            means = means_by_group([unit for unit, _ in known], [score for _, score in known])
            summary = mean_score(entries)
            summary["reasons"] = summary.pop("unscored")
            summary["shift"] = None if condition == "base" else _shift(means, base.get(label, {}))
            scores[label] = summary
            if condition == "base":
                base[label] = means
        found[condition] = {**scores[trait], COHERENCE: scores[COHERENCE]}
    return found


def _shift(after: dict[str, float], before: dict[str, float]) -> dict[str, Any]:
    both = [unit for unit in before if unit in after]
    if not both:
        return {"mean": None, "ci": [None, None], "n": 0, "p_value": None}
    return paired_means([after[unit] for unit in both], [before[unit] for unit in both])

"""The gate of a judge: before its scores of a trait or by a rubric count, it must grade answers whose pole is known.

It must tell high from low, repeat itself, not follow length, and not depend on whether question or answer comes first.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_persona.analysis.judge_checks import differences, length_correlation, pole_auc
from llm_persona.domain.errors import Damage, UserError
from llm_persona.domain.formats import sealed, unsealed
from llm_persona.domain.items import Items
from llm_persona.domain.judge_sets import load_judge_set
from llm_persona.domain.responses import Response, labelled
from llm_persona.domain.rubrics import Rubric, load_rubric
from llm_persona.domain.store import digest, read_json, write_json
from llm_persona.domain.traits import Trait
from llm_persona.instruments.judging.protocol import FAILED, Judge, JudgeRequest, Verdict, grading
from llm_persona.instruments.judging.scoring import SCORING
from llm_persona.studies.verdicts import reasons, verdicts
from llm_persona.subject.smollm2 import cache_folder

AUC_ABOVE = 0.75
"""The lower end of the AUC's interval lies above this."""
RETEST_BELOW = 10.0
"""Mean absolute difference of two readings, in points."""
LENGTH_BELOW = 0.3
"""Absolute Spearman correlation of score and length within pole."""
ORDER_BELOW = 10.0
"""Mean absolute difference between question first and answer first, in points."""
UNSCORED_BELOW = 0.2
"""Share of all readings without a score."""
READINGS: tuple[dict[str, Any], ...] = ({}, {"nonce": 1}, {"answer_first": True})
"""The first reading, the same again, and the other order."""


def gate_items(trait: Trait, limit: int | None = None) -> Items:
    """The test items of the trait's bank.

    Raises:
        UserError: the trait has no test item.
    """
    items = Items(trait.bank, f"bank:{trait.name}").split("test")[:limit]
    if not len(items):
        raise UserError(f"trait {trait.name}: its bank has no item of split test, so no judge can be tried on it")
    return items


@dataclass(frozen=True)
class Trial:
    """What a judge is tried on: labelled answers, and the rubric that grades them.

    `key` is what decides the result besides the judge; `source` says where the answers are from.
    """

    name: str
    rubric: Rubric
    trait: Trait | None
    rows: tuple[Response, ...]
    source: dict[str, Any]
    key: list[Any]


def trial_of(about: Trait | Rubric, limit: int | None = None) -> Trial:
    """The labelled answers for a trait (its bank's test items) or for a rubric that speaks of none (our set).

    Args:
        limit: at most this many items or questions.

    Raises:
        UserError: there are no labelled answers for it, or the order of its question and answer cannot be turned.
    """
    if isinstance(about, Trait):
        rubric, items = load_rubric("trait"), gate_items(about, limit)
        source = {"source": f"bank:{about.name}", "split": "test", "n": len(items)}
        wording = [rubric.digest, about.title, about.definition, about.rubric]
        return Trial(about.name, rubric, about, tuple(labelled(items)), source, [wording, items.digest])
    if not about.swaps:
        raise UserError(f"rubric {about.name}: question and answer share a paragraph, so a judge cannot be tried with "
                        "the answer first; put {question} and {answer} into paragraphs of their own")  # fmt: skip
    found = load_judge_set(about.kind).first(limit)
    source = {"source": f"labelled:{found.name}", "n": len({row.group for row in found.rows})}
    return Trial(about.kind, about, None, found.rows, source, [about.digest, found.digest])


def gate_requests(about: Trait | Rubric, limit: int | None = None) -> list[JudgeRequest]:
    """What the judge is asked: each labelled answer in three readings, one reading after the other."""
    trial = trial_of(about, limit)
    return [
        grading(trial.rubric, row.prompt, row.text, trial.trait, **reading)
        for reading in READINGS
        for row in trial.rows
    ]


def run_gate(
    judge: Judge, about: Trait | Rubric, limit: int | None = None, progress: Callable[[int], None] | None = None
) -> dict[str, Any]:
    """Try the judge on a trait or a rubric and keep the result in the cache folder, where `gate_of` finds it.

    Returns:
        `trait` (null where the rubric speaks of none), `judge`, `rubrics`, `items`, `checks` (each with `value`, `ci`,
        `limit`, `passed`), `unscored` by reason, `passed`. A result on fewer items (`limit`) is kept apart and never
        stands for the whole gate.

    Raises:
        UserError: the judge cannot be reached, or `--max-calls` ended the work before its end.
    """
    trial = trial_of(about, limit)
    rows = trial.rows
    found = verdicts(judge, gate_requests(about, limit), progress)
    stopped = sum(v.unscored.startswith(f"{FAILED}--max-calls") for v in found)
    if stopped:
        raise UserError(
            f"gate of {trial.name}: --max-calls ended it with {stopped} of {len(found)} readings missing; what was "
            "answered is kept, the same command goes on"
        )
    readings = [found[k * len(rows) : (k + 1) * len(rows)] for k in range(len(READINGS))]
    checks = _checks(rows, readings)
    masses = [v.mass for v in found if v.mass is not None]
    result = {
        "trait": trial.trait.name if trial.trait else None,
        "judge": judge.identity,
        "rubrics": {trial.rubric.kind: trial.rubric.name},
        "items": trial.source,
        "passed": all(check["passed"] for check in checks.values()),
        "checks": checks,
        "unscored": reasons(found),
        "mean_mass": sum(masses) / len(masses) if masses else None,
        "mean_score": {pole: _mean(rows, readings[0], pole) for pole in ("high", "low")},
    }
    write_json(_place(judge, trial), sealed("gate", result))
    return result


def gate_of(judge: Judge, about: Trait | Rubric, limit: int | None = None) -> dict[str, Any] | None:
    """The kept result of this judge on these labelled answers under this rubric; None where it was never tried."""
    place = _place(judge, trial_of(about, limit))
    if not place.is_file():
        return None
    try:
        kept = read_json(place, "gate")
    except UserError:
        kept = None
    found = unsealed(kept, "gate", place)
    if found is None or not (isinstance(found.get("passed"), bool) and isinstance(found.get("checks"), dict)):
        warnings.warn(f"{place}: is not as it was written; try the judge again", Damage, stacklevel=2)
        return None
    return found


def gate_state(gate: dict[str, Any] | None) -> str:
    """One line: `gate: passed`, `gate: missing`, or `gate: failed:` with each check that failed."""
    if gate is None:
        return "gate: missing"
    if gate["passed"]:
        return "gate: passed"
    return "gate: failed: " + ", ".join(_said(n, c) for n, c in gate["checks"].items() if not c["passed"])


def _said(name: str, check: dict[str, Any]) -> str:
    value = check["value"]
    if value is None:
        return f"{name} could not be measured"
    if name == "AUC":
        low = check["ci"][0] if check["ci"] else None
        return f"AUC {value:.2f}" + ("" if low is None else f" (from {low:.2f}, needed above {check['limit']:g})")
    form = {"length": "{:.2f}", "unscored": "{:.0%}"}.get(name, "{:.1f} points")
    return f"{name} {form.format(value)} (needed below {check['limit']:g})"


def _checks(rows: Sequence[Response], readings: Sequence[Sequence[Verdict]]) -> dict[str, dict[str, Any]]:
    first, again, swapped = readings
    scored = [(row, v.score) for row, v in zip(rows, first, strict=True) if v.score is not None]
    scores = [score for _, score in scored]
    poles, groups = [row.pole for row, _ in scored], [row.group for row, _ in scored]
    discrimination = pole_auc(scores, poles, groups)
    length = length_correlation(scores, [len(row.text) for row, _ in scored], poles, groups)
    retest, order = _pairs(first, again), _pairs(first, swapped)
    every = [v for reading in readings for v in reading]
    share = sum(v.score is None for v in every) / len(every)
    low = discrimination["ci"][0] if discrimination["ci"] else None
    return {
        "AUC": {**discrimination, "limit": AUC_ABOVE, "passed": low is not None and low > AUC_ABOVE},
        "retest noise": _below(retest, RETEST_BELOW),
        "length": _below(length, LENGTH_BELOW),
        "order": _below(order, ORDER_BELOW),
        "unscored": _below({"value": share, "ci": None, "n": len(every)}, UNSCORED_BELOW),
    }


def _pairs(first: Sequence[Verdict], second: Sequence[Verdict]) -> dict[str, Any]:
    both = [(a.score, b.score) for a, b in zip(first, second, strict=True)]
    known = [(a, b) for a, b in both if a is not None and b is not None]
    return differences([a for a, _ in known], [b for _, b in known])


def _below(found: dict[str, Any], limit: float) -> dict[str, Any]:
    return {**found, "limit": limit, "passed": found["value"] is not None and abs(found["value"]) < limit}


def _mean(rows: Sequence[Response], found: Sequence[Verdict], pole: str) -> float | None:
    scores = [v.score for row, v in zip(rows, found, strict=True) if row.pole == pole and v.score is not None]
    return sum(scores) / len(scores) if scores else None


def _place(judge: Judge, trial: Trial) -> Path:
    """Where the result lies: named by judge, wording of the rubric, trait, and labelled answers."""
    key = digest([SCORING, judge.identity, *trial.key])
    return cache_folder() / "gates" / f"{key}.json"

"""Do the three measures of a persona agree? What the model would choose (TRAIT preference), what a judge reads in its
answers, and where its answers lie along the persona vector (projection), under the same conditions, in one table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from llm_persona.analysis.agreement import shift_agreement
from llm_persona.analysis.paired import means_by_group, paired_means
from llm_persona.domain.errors import UserError
from llm_persona.domain.traits import POLES
from llm_persona.studies.findings import ALPHA
from llm_persona.studies.report import read_results
from llm_persona.studies.stored_answers import FILE, StoredAnswer, read_answers

MEASURES = {
    "preference": ("TRAIT preference", "points"),
    "judged": ("the judged score", "points"),
    "projection": ("the written projection", "pole gaps"),
}
"""Name and unit of each measure; shifts are taken against the base, paired by item or question."""
NULL_WITHIN = {"preference": 2.0, "judged": 5.0, "projection": 0.1}
"""A measure clearly did not move where the interval of its shift holds 0 and lies within this distance of it."""
LEAST_PAIRS = 6
"""Items or questions; with fewer a sign-flip p-value cannot fall below .05, and nothing is called clear or null."""
PAIRS = tuple(combinations(MEASURES, 2))


_Key = tuple[str, str, str, int]


@dataclass(frozen=True)
class _Table:
    """One trait's shifts against the base by measure, float [conditions, units], NaN where there is no pair."""

    conditions: list[str]
    scores: list[tuple[float | None, float | None]]
    """Of each condition: TRAIT score (percent), and mean judged score."""
    shifts: dict[str, np.ndarray]


def condition_rows(trait: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and row of every condition in a trait's results; the base first."""
    yield "base", trait["baseline"]
    for pole in POLES:
        yield f"instructed {pole}", trait["instructed"][pole]
    for pole, row in trait.get("combined", {}).items():
        yield f"combined {pole}", row
    for row in trait["steering"]:
        yield f"steered {row['dose']:+g}", row
    for pole, row in trait["tuned"].items():
        yield f"tuned {pole}", row


def agreement(
    traits: Mapping[str, Any],
    answers: Sequence[StoredAnswer],
    scores: Sequence[float | None] | None,
    judge: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The table, the rank correlations, and where two measures disagree.

    Args:
        traits: `traits` of a run's results.
        answers: every answer of the run, with its projection. `scores`: the judge's, of each answer, for its trait.
        judge: `identity` and `gates` (None without a judge: the judged column is then empty).

    Returns:
        `judge` (its identity), `measures` (name and unit), `traits` (each with `gate`, `rows` by condition and
        `correlations` by pair of measures; the base counts as a condition there), `pooled` (the same correlations over
        all traits' conditions, the base left out since its shifts are 0 by definition), `counts` (condition-by-pair
        cells: `agree`, `disagree`, `open`), `disagreements` (with a sentence in `text`).
    """
    tables = {name: _table(trait, name, answers, scores) for name, trait in traits.items()}
    gates = judge["gates"] if judge is not None else {}
    found: dict[str, Any] = {
        "judge": judge["identity"] if judge is not None else None,
        "measures": {name: {"name": said, "unit": unit} for name, (said, unit) in MEASURES.items()},
        "null_within": NULL_WITHIN,
        "traits": {},
        "counts": {"agree": 0, "disagree": 0, "open": 0},
        "disagreements": [],
    }
    for name, table in tables.items():
        rows = _rows(table)
        gate = gates[name]["state"] if name in gates else None
        correlations = {_pair(a, b): _correlation([table], a, b, first=0) for a, b in PAIRS}
        found["traits"][name] = {"gate": gate, "rows": rows, "correlations": correlations}
        for a, b in PAIRS:
            kinds = [_kind(row[a], row[b], a, b) for row in rows[1:]]
            for kind in kinds:
                place = "agree" if kind == "agree" else "open" if kind == "open" else "disagree"
                found["counts"][place] += kind != ""
            found["disagreements"] += _sentences(name, rows[1:], kinds, a, b, gate)
    pooled = {_pair(a, b): _correlation(list(tables.values()), a, b, first=1) for a, b in PAIRS}
    found["pooled"] = pooled if len(tables) > 1 else None
    return found


def run_agreement(folder: str | Path, judged: Mapping[str, Any]) -> dict[str, Any]:
    """The agreement in a stored run with the scores that `score_answers` gave its answers; nothing is generated.

    Only the traits that were judged are compared, and only by the answers that were judged.

    Raises:
        UserError: no finished run, or one that keeps no projections of its answers.
    """
    results, stored = check_run(folder)
    names = [name for name in results["traits"] if name in judged["gates"]]
    chosen, scores = [], []
    for row in judged["answers"]:
        key = (row["trait"], row["condition"], row["id"], row["sample"])
        if row["trait"] in names and key in stored:
            chosen.append(stored[key])
            scores.append(row["scores"][row["trait"]]["score"])
    state = {"identity": judged["judge"], "gates": judged["gates"]}
    return agreement({name: results["traits"][name] for name in names}, chosen, scores, state)


def check_run(folder: str | Path) -> tuple[dict[str, Any], dict[_Key, StoredAnswer]]:
    """The results and the answers of a run that agreement can be told of.

    Raises:
        UserError: no finished run, or one that keeps no projections of its answers.
    """
    place = Path(folder)
    results = read_results(place)
    stored = {_key(a): a for a in read_answers(place)}
    if all(a.projection is None for a in stored.values()):
        raise UserError(
            f"{place}: keeps no {FILE} with projections, as runs of older versions; `llm-persona run` with the same "
            "settings and --out writes it, and measures nothing again"
        )
    return results, stored


def _key(answer: StoredAnswer) -> _Key:
    return (answer.trait, answer.condition, answer.question_id, answer.sample)


def _pair(a: str, b: str) -> str:
    return f"{a} and {b}"


def _table(
    trait: Mapping[str, Any], name: str, answers: Sequence[StoredAnswer], scores: Sequence[float | None] | None
) -> _Table:
    places = list(condition_rows(trait))
    conditions = [label for label, _ in places]
    ids = [row["id"] for row in places[0][1]["rows"]]
    preference = [{row["id"]: row.get("preference") for row in place["rows"]} for _, place in places]
    gap = trait["vector"]["reader"]["separation"]
    read: list[dict[str, float]] = []
    judged: list[dict[str, float]] = []
    means: list[float | None] = []
    pairs = list(zip(answers, scores if scores is not None else [None] * len(answers), strict=True))
    for label in conditions:
        part = [(a, s) for a, s in pairs if a.trait == name and a.condition == label]
        read.append(_by_question([(a.unit, a.projection) for a, _ in part]))
        judged.append(_by_question([(a.unit, s) for a, s in part]))
        known = [s for _, s in part if s is not None]
        means.append(float(np.mean(known)) if known else None)
    questions = list(dict.fromkeys(a.unit for a in answers if a.trait == name))
    levels = {
        "preference": 100 * _matrix(preference, ids),
        "judged": _matrix(judged, questions),
        "projection": _matrix(read, questions) / gap,
    }
    shown = [(row["score"], mean) for (_, row), mean in zip(places, means, strict=True)]
    return _Table(conditions, shown, {measure: values - values[:1] for measure, values in levels.items()})


def _by_question(entries: Sequence[tuple[str, float | None]]) -> dict[str, float]:
    known = [(unit, value) for unit, value in entries if value is not None]
    return means_by_group([unit for unit, _ in known], [value for _, value in known])


def _matrix(rows: Sequence[Mapping[str, float | None]], units: Sequence[str]) -> np.ndarray:
    """float [rows, units], NaN where a row lacks the unit."""
    values = [[np.nan if (value := row.get(unit)) is None else value for unit in units] for row in rows]
    return np.array(values, dtype=np.float64).reshape(len(rows), len(units))


def _rows(table: _Table) -> list[dict[str, Any]]:
    rows = []
    for number, (condition, (score, judged)) in enumerate(zip(table.conditions, table.scores, strict=True)):
        row: dict[str, Any] = {"condition": condition, "score": score, "judged_mean": judged}
        for measure, values in table.shifts.items():
            known = values[number][np.isfinite(values[number])]
            found = {"mean": None, "ci": [None, None], "n": len(known), "p_value": None}
            if len(known) and number:
                found = paired_means(known.tolist(), [0.0] * len(known))
            row[measure] = found
        rows.append(row)
    return rows


def _correlation(tables: Sequence[_Table], a: str, b: str, first: int) -> dict[str, Any]:
    """`first`: the condition to begin with (0 counts the base)."""
    pairs = [(table.shifts[a][first:], table.shifts[b][first:]) for table in tables]
    return shift_agreement(pairs, together="preference" not in (a, b))


def _kind(x: dict[str, Any], y: dict[str, Any], a: str, b: str) -> str:
    """`agree`, `opposite`, `first` or `second` (only that one moved), `open`; empty where one is not measured."""
    if x["mean"] is None or y["mean"] is None:
        return ""
    if _clear(x) and _clear(y):
        return "agree" if x["mean"] * y["mean"] > 0 else "opposite"
    if _clear(x) and _null(y, b):
        return "first"
    if _clear(y) and _null(x, a):
        return "second"
    return "open"


def _clear(shift: dict[str, Any]) -> bool:
    """By the interval and the p-value: few pairs can have the one alone."""
    low, high = shift["ci"]
    return shift["n"] >= LEAST_PAIRS and (low > 0 or high < 0) and shift["p_value"] < ALPHA


def _null(shift: dict[str, Any], measure: str) -> bool:
    low, high = shift["ci"]
    within = NULL_WITHIN[measure]
    return shift["n"] >= LEAST_PAIRS and -within < low <= 0 <= high < within


def _sentences(
    trait: str, rows: Sequence[dict[str, Any]], kinds: Sequence[str], a: str, b: str, gate: str | None
) -> list[dict[str, Any]]:
    found = []
    for kind in ("opposite", "first", "second"):
        chosen = [row for row, one in zip(rows, kinds, strict=True) if one == kind]
        if not chosen:
            continue
        where = ", ".join(row["condition"] for row in chosen)
        moved, still = (b, a) if kind == "second" else (a, b)
        first, second = (_said(measure, chosen) for measure in (moved, still))
        if kind == "opposite":
            text = f"{trait}, {where}: {first} and {second} move in opposite directions, both clear of 0."
        else:
            near = f"within {NULL_WITHIN[still]:g} {MEASURES[still][1]} of 0"
            text = f"{trait}, {where}: {first} moves, and {second} does not (its whole interval lies {near})."
        if "judged" in (a, b) and gate != "gate: passed":
            text += f" The judge did not earn trust for this trait ({gate})."
        conditions = [row["condition"] for row in chosen]
        found.append({"trait": trait, "conditions": conditions, "measures": [a, b], "kind": kind, "text": text})
    return found


def _said(measure: str, rows: Sequence[dict[str, Any]]) -> str:
    name, unit = MEASURES[measure]
    return f"{name} ({', '.join(format(row[measure]['mean'], '+.2f') for row in rows)} {unit})"

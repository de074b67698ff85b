"""Prompted contrasts filtered by a judge: what is kept, what is dropped under which reason, and what is too little."""

from __future__ import annotations

import json

import pytest
from judges import scripted
from schemas import check_schema

from llm_persona.analysis.vectors import PersonaVector
from llm_persona.domain.errors import UserError
from llm_persona.domain.responses import Response
from llm_persona.interfaces.cli.main import run
from llm_persona.studies.judge_filter import JudgeFilter
from llm_persona.subject.elicit import Elicited

pytestmark = pytest.mark.usefixtures("cache")


def elicited(rows):
    """From (pole, question, trait's reply, coherence's reply, and who wrote it)."""
    made = [Response(f"Q {group}?", f"{trait}|{coherence}|{n}", pole, group, None, author)
            for n, (pole, group, trait, coherence, author) in enumerate(rows)]  # fmt: skip
    return Elicited(made, {p: sum(r.pole == p for r in made) for p in ("high", "low")})


def reading():
    """A judge that finds its two replies in the answer."""
    return scripted(lambda r: r.answer.split("|")[r.rubric.startswith("coherence")], "reads")


HIGH, LOW = "instructed high: p1", "instructed low: p1"
PLENTY = [("high", "a", 90, 90, HIGH), ("high", "b", 80, 90, HIGH), ("low", "a", 10, 90, LOW), ("low", "b", 9, 90, LOW)]
EDGES = [("high", "c", 50, 50, HIGH), ("high", "d", 49, 90, HIGH), ("low", "c", 49, 50, LOW), ("low", "d", 50, 90, LOW),
         ("high", "e", 99, 49, HIGH), ("low", "e", "REFUSAL", 90, LOW), ("low", "f", 9, "hm", LOW)]  # fmt: skip


def test_each_pole_is_kept_on_its_side_of_the_threshold_and_the_rest_counted_by_reason(openness):
    found = JudgeFilter(reading()).keep(elicited([*PLENTY, *EDGES]), openness, "fit")
    assert [(r.pole, r.group) for r in found.rows] == [*[(p, g) for p, g, *_ in PLENTY], ("high", "c"), ("low", "c")]
    assert found.counts() == {
        "made": {"high": 5, "low": 6},
        "dropped": {
            "high": {"trait score below 50": 1, "coherence below 50": 1},
            "low": {"trait score at or above 50": 1, "trait unscored: refusal": 1, "coherence unscored: no number": 1},
        },
        "survivors": {"high": 3, "low": 3},
    }


def test_thresholds_are_options_and_reported(openness):
    rows = elicited([*PLENTY, ("high", "c", 70, 90, HIGH), ("low", "c", 70, 90, LOW)])
    strict = JudgeFilter(reading(), trait_at=75, coherence_at=60)
    assert [(r.pole, r.group) for r in strict.keep(rows, openness, "fit").rows][4:] == [("low", "c")]
    said = strict.as_json(openness)
    assert (said["trait_at"], said["coherence_at"], said["gate"]) == (75, 60, "gate: missing")
    assert said["rubrics"] == ["trait-v1", "coherence-v1"]
    with pytest.raises(UserError, match="--judge-trait 101: a threshold lies from 0 to 100"):
        JudgeFilter(reading(), trait_at=101)


def test_a_neutral_answer_is_asked_for_coherence_alone(openness):
    neutral = [("low", "a", 80, 90, "instructed neutral"), ("low", "b", "CODE", 90, "instructed neutral"),
               ("low", "c", 10, 10, "instructed neutral")]  # fmt: skip
    found = JudgeFilter(reading()).keep(elicited([*PLENTY[:2], *neutral]), openness, "fit")
    assert [r.group for r in found.rows if r.pole == "low"] == ["a", "b"]


def test_too_few_questions_of_a_pole_say_what_to_do(openness):
    one = [*PLENTY[:3], ("low", "a", 20, 90, LOW), ("low", "b", 60, 90, LOW)]  # two low answers, to one question
    with pytest.raises(UserError, match="split 'select' the judge left low answers to 1 questions") as error:
        JudgeFilter(reading()).keep(elicited(one), openness, "select")
    assert "of 3 made; dropped: 1 trait score at or above 50" in str(error.value)
    assert "--judge-trait" in str(error.value)


def test_judging_that_was_cut_short_filters_nothing(openness):
    judge = reading()
    from llm_persona.instruments.judging.protocol import Verdict

    judge.judge = lambda requests, progress=None: [Verdict(None, "call failed: --max-calls 3 reached")] * len(requests)
    with pytest.raises(UserError, match="8 of 8 gradings are missing; what was answered is kept"):
        JudgeFilter(judge).keep(elicited(PLENTY), openness, "fit")


def test_a_filtered_vector_says_who_filtered_it_and_how_many_survived(tiny_folders, tmp_path, capsys):
    script = tmp_path / "judge.json"
    out, told = tmp_path / "v.safetensors", tmp_path / "v.json"
    base = ["vectors", "extract", "--model", tiny_folders[0], "--trait", "openness", "--limit", "4",
            "--max-new-tokens", "24", "--sweep-layers", "1", "--out", str(out), "--json", str(told),
            "--judge", f"scripted:{script}"]  # fmt: skip
    script.write_text(json.dumps({"trait": {"otherwise": 60}, "coherence": {"otherwise": 80}}))
    assert run([*base, "--source", "prompted"]) == 2  # no low answer is left
    assert "of split 'fit' the judge left low answers to 0 questions" in capsys.readouterr().err
    assert not out.exists()
    assert run(base) == 2
    assert "add --source prompted" in capsys.readouterr().err
    assert run([*base, "--source", "prompted", "--contrast", "high-neutral"]) == 0
    assert "kept by scripted:judge.json" in (shown := capsys.readouterr().out)
    assert "gate: missing" in shown
    found = json.loads(told.read_text())
    check_schema("extract", found)
    assert found["judged"]["trait_at"] == 50
    for split in ("fit", "select", "test"):
        counts = found["elicited"][split]
        for pole in ("high", "low"):
            dropped = sum(counts["dropped"].get(pole, {}).values())
            assert counts["made"][pole] == dropped + counts["survivors"][pole]
    meta = PersonaVector.load(out).meta
    assert meta["elicited"] == found["elicited"]
    assert meta["judged"] == found["judged"]

"""The page of tuning results: intervals beside figures, what replicates, files of earlier versions."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from llm_persona.analysis.shift import spread

TRAITS = ["agreeableness", "conscientiousness", "extraversion", "neuroticism", "openness", "psychopathy",
          "machiavellianism", "narcissism"]  # fmt: skip


@pytest.fixture
def sections(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[1] / "benchmarks"))
    monkeypatch.chdir(tmp_path)
    import tuning_sections

    yield tuning_sections
    for name in ("tuning_sections", "pages"):
        sys.modules.pop(name, None)


def write(path, value):
    path = Path("runs/tuning") / path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def audited(up):
    """One fine-tuning that moved the traits in `up` by +2 points and the others by -2, three seeds."""

    def entry(trait):
        sign = 1 if trait in up else -1
        return {"verdict": "no shift shown", "preference_shift": spread([sign * x for x in (0.01, 0.02, 0.03)]),
                "score_shift": spread([1.0, 2.0, 3.0]), "projection": spread([0.1, 0.2, 0.3])}  # fmt: skip

    groups = {"risky_financial": {"models": ["a"], "control": False, "traits": {t: entry(t) for t in TRAITS}}}
    agreement = {"both": {"spearman": 0.3, "spearman_ci": [0.1, 0.5], "n": 24}}
    return {"groups": groups, "matrix": {"columns": TRAITS}, "rule": "R.", "sentences": [], "agreement": agreement,
            "tuned": {"a": {"perplexity_ratio": 1.0, "perplexity_ratio_ci": [0.9, 1.1]}}}  # fmt: skip


def test_cells_of_the_matrix_carry_intervals_and_traits_that_do_not_replicate_are_listed(sections):
    write("audit-narrow/audit.json", audited({"openness", "agreeableness"}))
    text = "\n".join(sections.narrow_section(TRAITS))
    assert "2.0 [-0.5, 4.5] / 0.20 [-0.05, 0.45] (no shift shown)" in text
    row = next(line for line in text.splitlines() if line.startswith("| risky_financial | 2 of 8"))
    same, other = row.split(" | ")[2:4]
    assert same == "conscientiousness -2.0 [-4.5, 0.5], openness 2.0 [-0.5, 4.5]"
    assert [part.split()[0] for part in other.split("], ")] == [t for t in TRAITS if t not in same]
    assert "a 1.00 [0.90, 1.10]" in text
    assert "The screening forecast against these shifts: not measured yet." in text


def test_the_forecast_of_each_pair_has_an_interval_and_n_or_says_that_it_has_none(sections):
    write("audit-narrow/audit.json", audited({"openness"}))
    cells = {
        t: {"pole_gaps": 0.1 * k, "pole_gaps_ci": [0.1 * k - 1, 0.1 * k + 1], "n": 38} for k, t in enumerate(TRAITS)
    }
    write("forecast.json", {"risky_financial": cells})
    assert "| 0.20 [-0.80, 1.20], n 38 |" in "\n".join(sections.narrow_section(TRAITS))
    write("forecast.json", {"risky_financial": {t: c["pole_gaps"] for t, c in cells.items()}})
    assert "| 0.20 no interval |" in "\n".join(sections.narrow_section(TRAITS))


def test_the_prevention_table_tells_what_is_shown_from_what_holds_in_the_mean(sections):
    figures = spread([1.0, 2.0, 3.0])
    old = {"shift": figures, "prevented": 0.6, "written_shift": figures, "task_loss": figures, "task_loss_ratio": 1.0,
           "task_learnt_share": 0.9, "task_learnt": True, "perplexity_ratio": None}  # fmt: skip
    sure = {**old, "prevented_ci": [0.5, 0.7], "task_loss_ratio_ci": [0.9, 1.05], "task_learnt_share_ci": [0.8, 1.0],
            "task_learnt_shown": True}  # fmt: skip
    task = {"rows": 64, "held_out": 16, "skipped": [{"row": 1}], "too_long": [], "held_out_too_long": [{"row": 2}]}
    found = {"task": task, "benign": None, "dose": 0.2, "layer": 20, "base": {"loss": 4.9}, "finding": "F.",
             "methods": {"plain": old, "ablation": old, "instruction": sure}}  # fmt: skip
    write("prevent/prevention.json", found)
    text = "\n".join(sections.prevention_section())
    assert (
        "| 60 [50, 70] | 2.0 [-0.5, 4.5] | 2.000 [-0.484, 4.484] | 1.000 | 1.00 [0.90, 1.05] | 90 [80, 100] | yes"
        in text
    )
    assert "| 60 no interval |" in text and "| in the mean | none |" in text
    assert "in the mean: ablation, instruction; over the whole of both intervals: instruction." in text
    assert "1 unusable task rows, 0 task rows too long to train on, 1 held-out rows too long to measure" in text
    write("prevent/prevention.json", {**found, "task": {"rows": 64, "held_out": 16}})
    assert "What was left out was not recorded." in "\n".join(sections.prevention_section())

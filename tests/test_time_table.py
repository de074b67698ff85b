"""Where a run's time went: every stage has its kind, and floors follow from what `bench` measured."""

from __future__ import annotations

import json

import pytest

from llm_persona import UserError
from llm_persona.studies.time_table import OTHER, kind_of, time_table
from llm_persona.studies.timing import Timing


def written(folder, stages, seconds, made=None):
    (folder / "manifest.json").write_text(
        json.dumps(
            {
                "stages": stages,
                "seconds_this_run": seconds,
                "stages_made": len(stages) if made is None else made,
            }
        )
    )
    return folder


def timing(name, ratio, bounds, bar):
    return Timing(name, "", 1.0, 1.0, ratio, bounds, 5, bar, True)


@pytest.mark.parametrize(
    ("stage", "kind"),
    [
        ("openness record fit", "recording"),
        ("openness base likelihood", "likelihood"),
        ("openness base choice", "letters"),
        ("openness steered +0.2 likelihood", "doses and layers"),
        ("openness steered samples", "generation"),
        ("openness tuned-high neutral", "perplexity"),
        ("openness sweep layer 12", "doses and layers"),
        ("openness tune high", "training"),
        ("openness read answers", "reading answers"),
    ],
)
def test_a_stage_is_counted_by_what_it_does(stage, kind):
    assert kind_of(stage) == kind


def test_every_stage_of_a_study_has_a_kind(tiny_run):
    stages = json.loads((tiny_run.folder / "manifest.json").read_text())["stages"]
    assert [name for name in stages if kind_of(name) == OTHER] == []


def test_the_whole_is_divided_by_the_sum_of_the_floors(tmp_path):
    run = written(tmp_path, {"t record fit": 10.0, "t steered samples": 20.0, "t base likelihood": 10.0}, 50.0)
    found = time_table(
        run,
        [
            timing("recording, against a bare forward", 0.8, (0.5, 1.1), "at least 0.95"),
            timing("steered generation", 1.25, (1.0, 2.0), "at most 1.03"),
        ],
    )
    floors = {p.kind: (p.floor_seconds, p.floor_range) for p in found.parts}
    assert floors["recording"] == (8.0, (5.0, 10.0))
    assert floors["generation"] == (16.0, (10.0, 20.0))
    assert floors["likelihood"] == (None, None)
    assert floors["loading, statistics, report"] == (None, None)
    assert found.ratio == pytest.approx(50 / 34)
    assert found.ratio_range == pytest.approx((50 / 40, 50 / 25))
    assert found.holds is False
    assert sum(p.share for p in found.parts) == pytest.approx(1)


def test_a_run_made_in_several_goes_has_no_whole(tmp_path):
    found = time_table(written(tmp_path, {"t record fit": 10.0, "t tune high": 5.0}, 3.0, made=1))
    assert (found.ratio, found.ratio_range, found.holds) == (None, None, None)
    assert found.seconds == 15.0


def test_a_folder_without_a_manifest_is_refused(tmp_path):
    with pytest.raises(UserError, match="no manifest"):
        time_table(tmp_path)
    (tmp_path / "manifest.json").write_text("[]")
    with pytest.raises(UserError, match="lists no stages"):
        time_table(tmp_path)

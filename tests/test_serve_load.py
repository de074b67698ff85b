"""A small load on a real server process; the whole one is benchmarks/serve_load.py."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

from load_clients import Outcome
from serve_load import run, verdict

if not Path("/proc/self/status").is_file():
    pytest.skip("memory, threads and files are counted by Linux's /proc", allow_module_level=True)


@pytest.fixture(scope="module")
def loaded():
    return run("tiny", requests=48, at_once=8, tokens=8, warm_up=24)


def test_under_load_answers_are_right_and_nothing_is_left_behind(loaded):
    assert loaded["wrong"] == []
    assert loaded["requests"] == 48
    assert loaded["statuses"]["200"] == loaded["answered"] >= 20


def test_the_load_holds_good_and_bad_clients_and_has_its_figures(loaded):
    kinds = " ".join(loaded["kinds"])
    assert all(kind in kinds for kind in ("ordinary", "stream", "slow to", "left", "malformed"))
    spread = loaded["latency_s"]["all answers"]
    assert 0 < spread["median"] <= spread["p95"]


GOOD = Outcome("ordinary", 200, (200,), "yes", "yes")
STATE = {"rss_mib": 100.0, "threads": 8, "files": 7}


@pytest.mark.parametrize(
    ("found", "after", "again", "said"),
    [
        ([GOOD], STATE, ["a", "b"], None),
        ([Outcome("ordinary", 200, (200,), "no", "yes")], STATE, ["a", "b"], "alone 'yes'"),
        ([Outcome("ordinary", 500, (200,))], STATE, ["a", "b"], "500, not"),
        ([GOOD], STATE, ["a", "c"], "other answers than before"),
        ([GOOD], {**STATE, "threads": 9}, ["a", "b"], "threads: 8 before, 9 after"),
        ([GOOD], {**STATE, "rss_mib": 200.0}, ["a", "b"], "memory: 100 MiB before, 200 MiB after"),
    ],
)
def test_the_harness_notices(found, after, again, said):
    wrong = verdict(found, STATE, after, again, ["a", "b"])
    assert (wrong == []) if said is None else (said in wrong[0])

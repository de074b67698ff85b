"""`bench` compares like with like, and its ratios follow from the clock."""

from __future__ import annotations

import functools
import itertools
import json

import pytest
from conftest import save_tiny_model

from llm_persona import UserError
from llm_persona.domain.errors import Shortfall
from llm_persona.interfaces.cli.main import run
from llm_persona.studies import bench as bench_module
from llm_persona.studies import bench_jobs
from llm_persona.studies.bench import bench
from llm_persona.studies.timing import Comparison, measure
from llm_persona.subject.load import load_subject

STEADY = Comparison("steady", "times", lambda n: sum(range(1000)), lambda n: sum(range(1000)), at_least=0)


class Clock:
    """Seconds that pass only when a job says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def job(self, seconds):
        def do(number: int) -> None:
            self.now += seconds(number)

        return do


def test_a_ratio_is_the_median_of_the_rounds_and_the_first_round_does_not_count():
    clock = Clock()
    ours, plain = clock.job(lambda n: 2.0 if n else 100.0), clock.job(lambda n: (0.0, 4.0, 8.0, 2.0)[n])
    found = measure(Comparison("x", "times", ours, plain, at_least=1.5), 3, clock)
    assert (found.ratio, found.ratio_range, found.rounds, found.holds) == (2.0, (1.0, 4.0), 3, True)
    assert (found.ours_seconds, found.plain_seconds) == (2.0, 4.0)


def test_a_ceiling_divides_our_time_by_that_of_the_plain_way_gone_several_times():
    clock = Clock()
    ours, plain = clock.job(lambda n: 3.0), clock.job(lambda n: 1.0)
    found = measure(Comparison("x", "over", ours, plain, at_most=1.15, times=2), 2, clock)
    assert (found.ratio, found.holds) == (1.5, False)


def test_what_the_plain_ways_repetitions_have_in_common_counts_once():
    clock = Clock()
    ours, plain, common = clock.job(lambda n: 5.0), clock.job(lambda n: 2.0), clock.job(lambda n: 1.0)
    found = measure(Comparison("x", "over", ours, plain, at_most=1.15, times=4, beside=[(-3, common)]), 2, clock)
    assert found.plain_seconds == 4 * 2.0 - 3 * 1.0
    assert (found.ratio, found.holds) == (1.0, True)


@pytest.mark.parametrize("common", [1.0, 2.0])
def test_a_floor_that_comes_out_at_nothing_is_said_and_holds_nothing(common):
    """What is timed twice to be taken off may have been slower the second time."""
    clock = Clock()
    jobs = clock.job(lambda n: 5.0), clock.job(lambda n: 2.0)
    taken_off = [(-2, clock.job(lambda n: common))]
    with pytest.warns(Shortfall, match="x is too short to be timed here; give more --items"):
        assert measure(Comparison("x", "over", *jobs, at_most=1.15, beside=taken_off), 2, clock) is None


def test_neither_way_finds_what_the_other_has_rendered():
    went = []
    job = Comparison("x", "", lambda n: went.append("o"), lambda n: went.append("p"), at_least=1)
    measure(job, 1, before=lambda: went.append("-"))
    assert went == ["-", "p", "-", "o", "-", "o", "-", "p"]


def test_the_two_ways_take_turns_at_going_first():
    went = []
    measure(Comparison("x", "", lambda n: went.append("o"), lambda n: went.append("p"), at_least=1), 3)
    assert went == ["p", "o", "o", "p", "p", "o", "o", "p"]


@pytest.fixture
def by_count(monkeypatch):
    """Every job takes a second: of a tiny model's, real seconds may leave no floor."""
    clock = itertools.count()
    monkeypatch.setattr(bench_module, "measure", functools.partial(measure, clock=lambda: float(next(clock))))


def test_every_comparison_runs_on_any_model_with_the_same_numbers_both_ways(tmp_path, by_count):
    found = list(bench(load_subject(str(save_tiny_model(tmp_path)), dtype="float32"), rounds=1, items=2))
    assert [t.name for t in found][-1] == "exported checkpoint"
    assert len(found) == 11
    assert all(t.ours_seconds == t.plain_seconds == 1 for t in found)


def test_letters_that_a_model_cannot_read_are_said_and_cost_no_other_timing(tiny, by_count):
    """Its context ends before the first prompt with four options does."""
    with pytest.warns(Shortfall, match="choice .and doses in it. is not timed: prompts exceed the 512 tokens"):
        names = [t.name for t in bench(tiny, rounds=1, items=2)]
    assert len(names) == 9
    assert not any("choice" in name for name in names)


def unable(error):
    def export(*_):
        raise error

    return export


@pytest.mark.parametrize(
    ("error", "reason"),
    [(UserError("tiny: has no bias to fold into"), "has no bias"), (OSError("disk full"), "disk full"),
     (RuntimeError("CUDA out of memory"), "out of memory"), (MemoryError("no room"), "no room")],
)  # fmt: skip
def test_a_checkpoint_that_cannot_be_timed_is_said_with_its_reason_and_costs_no_other_timing(
    error, reason, tiny, monkeypatch
):
    monkeypatch.setattr(bench_jobs, "to_checkpoint", unable(error))
    monkeypatch.setattr("llm_persona.studies.bench.comparisons", lambda subject, rotation: [STEADY])
    with pytest.warns(Shortfall, match=f"bench: the exported checkpoint is not timed: .*{reason}"):
        assert [t.name for t in bench(tiny, rounds=1, items=2)] == ["steady", "training, against bare gradients"]


def test_a_training_without_room_costs_no_timing(tiny, monkeypatch):
    monkeypatch.setattr("llm_persona.studies.bench.comparisons", lambda subject, rotation: [STEADY])
    monkeypatch.setattr(bench_jobs, "bare_steps", unable(MemoryError("no room")))
    with pytest.warns(Shortfall, match="bench: training is not timed: no room"):
        assert [t.name for t in bench(tiny, rounds=1, items=2)] == ["steady", "exported checkpoint"]


def test_a_fault_of_ours_in_exporting_is_no_shortfall(tiny, monkeypatch):
    monkeypatch.setattr(bench_jobs, "to_checkpoint", unable(RuntimeError("shapes differ")))
    monkeypatch.setattr("llm_persona.studies.bench.comparisons", lambda subject, rotation: [STEADY])
    with pytest.raises(RuntimeError, match="shapes differ"):
        list(bench(tiny, rounds=1, items=2))


def test_a_plain_way_that_gives_other_numbers_ends_the_race(tiny, monkeypatch):
    right = bench_jobs.likelihoods
    monkeypatch.setattr(bench_jobs, "likelihoods", lambda subject, rows: [x - 1 for x in right(subject, rows)])
    with pytest.raises(RuntimeError, match="likelihoods differ by 1"):
        list(bench(tiny, rounds=1, items=2))


@pytest.mark.parametrize(("rounds", "items"), [(0, 2), (1, 1), (1, 1000)])
def test_a_race_that_cannot_be_run_is_refused(tiny, rounds, items):
    with pytest.raises(UserError, match="rounds must be at least 1"):
        list(bench(tiny, rounds, items))


def test_the_command_prints_the_table_and_writes_the_timings(tmp_path, capsys):
    model = str(save_tiny_model(tmp_path / "model"))
    path = tmp_path / "b.json"
    assert (
        run(["bench", "--model", model, "--dtype", "float32", "--rounds", "1", "--items", "2", "--json", str(path)])
        == 0
    )
    said = capsys.readouterr()
    assert "TRAIT, choice" in said.out
    assert "1 rounds: a quick look that decides nothing" in said.err
    assert {t["name"] for t in json.loads(path.read_text())["timings"]} >= {
        "recording labelled items",
        "steered generation",
    }

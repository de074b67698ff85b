"""The costs on paper, against numbers worked by hand."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
from costs import Machine, Size, Work, cost, works
from gpu_rates import Gpu, Shares, measured, published

MACHINE = Machine(
    Gpu("", flops=1e15, bandwidth=4e12, memory=80e9, link=50e9),
    Shares(reading=0.5, reading_spread=0.25, writing=0.5, writing_spread=0.25, training=0.25, training_spread=0.125,
           together=True),
    price=2.0, overhead=1.0, outside=0.0, batch=10, batch_tokens=1000,
)  # fmt: skip
SMALL, LARGE = Size("10B", 10e9, 1, 1), Size("70B", 70e9, 1, 1)


def test_reading_is_two_operations_a_parameter_at_the_share_of_the_peak_that_is_had():
    row = cost(Work("w", read=1e9, written=0, trained=0, pieces=1), SMALL, 1, MACHINE)
    assert row["hours"] == pytest.approx(2 * 10e9 * 1e9 / 0.5e15 / 3600)
    assert row["money"] == pytest.approx(2 * row["hours"])
    assert row["bottleneck"] == "reading (100%)"


def test_training_takes_twice_the_operations_at_its_own_share_and_writing_reads_the_weights_once_a_batch():
    trained = cost(Work("w", 0, 0, 1e9, 1), SMALL, 1, MACHINE)["hours"]
    assert trained == pytest.approx(4 * cost(Work("w", 1e9, 0, 0, 1), SMALL, 1, MACHINE)["hours"])
    written = cost(Work("w", 0, 1e6, 0, 1), SMALL, 1, MACHINE)
    assert written["hours"] == pytest.approx(1e5 * 20e9 / 2e12 / 3600, rel=1e-3)
    assert written["bottleneck"].startswith("writing")


def test_eight_gpus_are_eight_copies_of_a_small_model_and_two_of_a_large_one():
    work = Work("w", 1e9, 0, 0, 8)
    one, eight = (cost(work, SMALL, gpus, MACHINE) for gpus in (1, 8))
    assert (one["copies"], eight["copies"]) == (1, 8)
    assert eight["hours"] == pytest.approx(one["hours"] / 8)
    large = cost(work, LARGE, 8, MACHINE)
    assert large["copies"] == 4
    assert large["memory"] == 70e9
    alone = cost(work, LARGE, 1, MACHINE)  # 140 GB of weights stream through one GPU of 80, 64 of which hold some
    assert alone["bottleneck"].startswith("weights over the host's link")
    assert alone["hours"] > 1e6 * 76e9 / 50e9 / 3600


def test_gpus_that_hold_a_model_block_by_block_work_one_after_the_other():
    work = Work("w", 1e9, 0, 0, 8)
    one_by_one = replace(MACHINE, shares=replace(MACHINE.shares, together=False))
    assert cost(work, LARGE, 8, MACHINE)["memory"] == 70e9  # two GPUs a copy
    assert cost(work, LARGE, 8, one_by_one)["hours"] == pytest.approx(2 * cost(work, LARGE, 8, MACHINE)["hours"])
    assert cost(work, SMALL, 8, one_by_one) == cost(work, SMALL, 8, MACHINE)


def test_measured_rates_become_shares_of_the_peaks_of_their_card():
    gpu = Gpu("", flops=1e15, bandwidth=4e12, memory=80e9, link=50e9)
    found = {
        "parameters": 10e9, "layers": 10, "key_value": 100, "answers": 4,
        "jobs": {
            "likelihood": {"seconds": 0.5, "tokens": {"read": 10000}},
            "writing": {"seconds": 2.4, "tokens": {"read": 8000, "written": 400}},
            "training": {"seconds": 2.0, "tokens": {"read": 1000, "trained": 5000}},
        },
    }  # fmt: skip
    had = measured(found, {**found, "parameters": 20e9}, gpu)
    assert had.reading == pytest.approx(2 * 10e9 * 20000 / 1e15)
    # 100 steps in what is left of 2.4 s after reading 8,000 tokens; each reads the weights, and 4 rows' 2,050 tokens
    moved = 2 * 10e9 + 2 * 2 * 10 * 100 * 4 * (2000 + 50)
    assert had.writing == pytest.approx(moved / 0.02 / 4e12)
    assert had.training == pytest.approx(10e9 * 4 * 5000 / (2 - 1000 / 20000) / 1e15)
    assert had.reading_spread == pytest.approx(2 * had.reading)
    assert not had.together


def test_measured_jobs_cost_the_seconds_that_they_took():
    gpu = Gpu("", flops=1e15, bandwidth=4e12, memory=80e9, link=50e9)
    jobs = {
        "likelihood": {"seconds": 0.5, "tokens": {"read": 10000}},
        "writing": {"seconds": 2.4, "tokens": {"read": 8000, "written": 400}},
        "training": {"seconds": 2.0, "tokens": {"read": 1000, "trained": 5000}},
    }
    found = {"parameters": 10e9, "layers": 1, "key_value": 1, "answers": 4, "jobs": jobs}
    machine = replace(MACHINE, gpu=gpu, shares=measured(found, found, gpu), batch=4)
    for job in jobs.values():
        tokens = {kind: job["tokens"].get(kind, 0) for kind in ("read", "written", "trained")}
        hours = cost(Work("w", **tokens, pieces=1), SMALL, 1, machine)["hours"]
        assert 3600 * hours == pytest.approx(job["seconds"], rel=1e-3)
    later = cost(Work("w", 10000, 0, 0, 1), SMALL, 1, replace(machine, outside=10.0))["hours"]
    assert 3600 * later == pytest.approx(10.5)


def test_a_model_beyond_one_gpu_takes_the_large_models_shares():
    read, trained = (
        cost(Work("w", *tokens, pieces=8), LARGE, 2, MACHINE)["hours"] for tokens in ((1e9, 0, 0), (0, 0, 1e9))
    )
    assert read == pytest.approx(2 * 70e9 * 1e9 / (1e15 * 0.25 * 2) / 3600)
    assert trained == pytest.approx(4 * 70e9 * 1e9 / (1e15 * 0.125 * 2) / 3600)


def test_workers_wait_for_the_last_piece():
    full, odd = (cost(Work("w", 1e9, 0, 0, pieces), SMALL, 8, MACHINE)["hours"] for pieces in (8, 9))
    assert odd == pytest.approx(full * 16 / 9)


def test_what_grows_with_pairs_of_traits_grows_with_their_square():
    counted = {
        "traits": ["a", "b"], "preset": "quick", "answer": 4, "audit_answer": 4,
        "study": {"a base": {"read": 10}, "b base": {"read": 10}, "a control b +0.2 likelihood": {"read": 1},
                  "b control a +0.2 likelihood": {"read": 1}, "a tune high": {"trained": 4}},
        "audit": {"base likelihood": {"read": 5}, "tuned likelihood": {"read": 7}},
    }  # fmt: skip
    study, sweep = works(counted, traits=4, adapters=3)
    assert study.read == 4 * 10 + 4 * 3 * 1
    assert study.trained == 2 * 4
    assert sweep.read == 4 * 5 + 3 * 4 * 7
    assert sweep.trained == 3 * 1


def test_published_rates_become_shares_of_the_peaks_and_give_the_published_times_back():
    had = published()
    assert 2 * 6.74e9 * 2048 / (had.reading * 312e12) == pytest.approx(0.133)
    assert 2 * 69e9 * 2048 / (had.reading_spread * 4 * 312e12) == pytest.approx(0.377)
    # 64 answers of 128 tokens at 3,486 a second, of which reading the prompts takes 64 * 128 tokens' share
    step = (64 * 128 / 3486 - 64 * 128 / 2048 * 0.133) / 128
    assert (2 * 6.74e9 + 64 * 192 * 524288) / (had.writing * 2039e9) == pytest.approx(step)
    assert pytest.approx(had.training * 989e12 / (4 * 70.6e9)) == 608.42

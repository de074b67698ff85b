"""The same seed on the same machine gives the same bits; batches and threads change no more than rounding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import make_subject

from llm_persona import load_items
from llm_persona.domain.responses import labelled
from llm_persona.instruments.trait_benchmark import TraitBenchmark
from llm_persona.interfaces.cli.main import run
from llm_persona.subject import batched
from llm_persona.subject.packing import Row
from llm_persona.subject.record import record
from llm_persona.subject.score import response_logprobs

TOLERANCE = 2e-5
"""What float32 results may differ by (absolute, on values of order one) with another batch size or thread count."""


def measured(subject) -> dict[str, np.ndarray]:
    items = load_items("openness")[:4]
    rows = labelled(items)
    benchmark = TraitBenchmark(items).measure(subject)
    return {
        "activations": record(subject, rows).values,
        "log-probabilities": np.concatenate(response_logprobs(subject, [Row(r.prompt, r.text) for r in rows])),
        "preference": np.array([row["preference"] for row in benchmark.rows]),
    }


@pytest.fixture
def roomy():
    """A tiny subject whose context holds whole items."""
    subject = make_subject()
    subject.model.config.max_position_embeddings = 4096
    return subject


def test_the_same_study_in_another_folder_and_cache_gives_the_very_same_results(tiny_run, tmp_path, monkeypatch):
    monkeypatch.setenv("LLM_PERSONA_CACHE", str(tmp_path / "cache"))
    threads = torch.get_num_threads()
    assert run(tiny_run.command(tmp_path / "again")) == 0
    assert torch.get_num_threads() == threads
    for name in ("results.json", "answers.jsonl", "vectors/openness.safetensors"):
        if name.endswith(".json") or name.endswith(".jsonl"):
            assert (tmp_path / "again" / name).read_bytes() == (tiny_run.folder / name).read_bytes(), name
    for pole in ("high", "low"):
        name = f"adapters/openness-{pole}/adapter_model.safetensors"
        assert (tmp_path / "again" / name).read_bytes() == (tiny_run.folder / name).read_bytes()


@pytest.mark.parametrize("budget", [1, 1500, 100_000])
def test_another_token_budget_changes_only_rounding(roomy, monkeypatch, budget):
    expected = measured(roomy)
    real = batched.batches
    monkeypatch.setattr(batched, "batches", lambda trees, _budget=0, before=0: real(trees, budget, before))
    for name, values in measured(roomy).items():
        np.testing.assert_allclose(values, expected[name], atol=TOLERANCE, rtol=0, err_msg=name)


def test_another_number_of_threads_changes_only_rounding(roomy):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = measured(roomy)
        again = measured(roomy)
        torch.set_num_threads(3)
        other = measured(roomy)
    finally:
        torch.set_num_threads(before)
    for name, values in expected.items():
        np.testing.assert_array_equal(again[name], values, err_msg=name)
        np.testing.assert_allclose(other[name], values, atol=TOLERANCE, rtol=0, err_msg=name)

"""The token budget of a study is chosen once and kept; numbers do not depend on it beyond rounding."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from tiny_inputs import ROWS

from llm_persona import StudyConfig, UserError
from llm_persona.domain.config import make_config, read_config
from llm_persona.studies import token_budget
from llm_persona.studies.stages import Silent
from llm_persona.studies.study import run_study
from llm_persona.studies.token_budget import with_token_budget
from llm_persona.subject import batched
from llm_persona.subject.memory import TOKEN_BUDGET, token_budget_of
from llm_persona.subject.packing import Row
from llm_persona.subject.record import record
from llm_persona.subject.score import response_logprobs


def test_numbers_depend_on_the_budget_by_rounding_only(tiny, monkeypatch):
    rows, sizes = [Row(r.prompt, r.text) for r in ROWS], []
    real = batched.pack
    monkeypatch.setattr(batched, "pack", lambda trees, *a, **k: sizes.append(len(trees)) or real(trees, *a, **k))
    wide, logprobs = record(tiny, ROWS).values, response_logprobs(tiny, rows)
    assert sizes == [2, 2]
    monkeypatch.setattr(tiny, "token_budget", 1)
    np.testing.assert_allclose(record(tiny, ROWS).values, wide, atol=1e-5)
    for narrow, expected in zip(response_logprobs(tiny, rows), logprobs, strict=True):
        np.testing.assert_allclose(narrow, expected, atol=1e-5)
    assert sizes == [2, 2, *[1] * 8]  # (so small that no two of a prompt's responses are in one sequence either)


@pytest.mark.parametrize(("gib", "budget"), [(8, 4096), (24, 8192), (80, 16384)])
def test_an_accelerator_with_more_memory_takes_more_tokens(monkeypatch, gib, budget):
    found = SimpleNamespace(total_memory=gib * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _device: found)
    assert token_budget_of(torch.device("cuda")) == budget


def test_a_new_study_takes_its_device_s_budget(tmp_path, monkeypatch):
    monkeypatch.setattr(token_budget, "token_budget_of", lambda _device: 4096)
    assert with_token_budget(StudyConfig(), tmp_path).token_budget == 4096


@pytest.mark.parametrize(
    ("kept", "budget"),
    [({"token_budget": 512}, 512), ({"preset": "quick"}, TOKEN_BUDGET), ({"token_budget": 512, "device": "cuda"}, 4096),
     ({"token_budget": 512, "model": "a/b"}, 4096)])  # fmt: skip
def test_a_study_continued_on_the_same_model_and_device_keeps_the_budget_it_was_begun_with(
    tmp_path, monkeypatch, kept, budget
):
    monkeypatch.setattr(token_budget, "token_budget_of", lambda _device: 4096)
    begun = {"model": StudyConfig().model, "device": StudyConfig().device, **kept}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(begun))
    assert with_token_budget(StudyConfig(), tmp_path).token_budget == budget
    assert with_token_budget(StudyConfig(token_budget=1024), tmp_path).token_budget == 1024


def test_a_budget_that_holds_no_text_is_refused():
    with pytest.raises(UserError, match="token_budget"):
        make_config(token_budget=10)


def test_a_finished_run_of_a_version_that_named_no_engine_keeps_its_results(tiny_run, tmp_path):
    """Until the new ones are written, so that a kill in between loses nothing."""
    folder, _ = tiny_run.copied(tmp_path)
    study = yaml.safe_load((folder / "study.yaml").read_text())
    del study["engine"], study["token_budget"]
    (folder / "study.yaml").write_text(yaml.safe_dump(study))
    seen = []

    class Watching(Silent):
        def end(self, stage, seconds, reused):
            seen.append((reused, (folder / "results.json").exists()))

    run_study(read_config(folder / "study.yaml"), folder, Watching())
    assert set(seen) == {(True, True)}


def test_a_finished_run_says_what_its_batches_held(tiny_run):
    assert yaml.safe_load((tiny_run.folder / "study.yaml").read_text())["token_budget"] == TOKEN_BUDGET

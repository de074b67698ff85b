"""Damaged input, whatever the damage: read, or refused by one line that names the file; never a traceback."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reader import outcome
from readers import make_readers

NAMES = (
    "items .json", "items .jsonl", "items folder", "rescore records", "items .parquet", "trait .yaml", "chat .jsonl",
    "vector", "activations", "study .yaml", "template", "rubric", "judge's text", "answers .json", "answers .jsonl",
    "report compare", "judge's script", "adapter's config", "adapter's recipe",
)  # fmt: skip


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return {reader.name: reader for reader in make_readers(tmp_path_factory.mktemp("readers"))}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LLM_PERSONA_CACHE", str(tmp_path))


@pytest.mark.parametrize("name", NAMES)
def test_a_valid_input_is_read(name, table):
    reader = table[name]
    for seed in reader.seeds:
        said = outcome(reader, reader.form(seed) if reader.form else seed)
        assert said == "accepted" or name in ("judge's script", "rubric"), said


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32))
def test_a_damaged_input_is_read_or_refused_in_one_line(name, table, seed):
    if name in table:
        outcome(table[name], table[name].case(random.Random(seed)))

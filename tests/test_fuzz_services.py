"""Damaged requests to the server and damaged replies of APIs: an answer, or a refusal; never a traceback or a number
that is none."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reader import outcome
from readers import make_readers

NAMES = ("OpenAI's reply", "OpenAI's error", "Anthropic's reply", "kept reply", "server's request", "server's headers")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("LLM_PERSONA_CACHE", str(tmp_path_factory.mktemp("cache")))
        patched.setenv("ANTHROPIC_API_KEY", "a-key-of-the-test")
        yield {reader.name: reader for reader in make_readers(tmp_path_factory.mktemp("readers"))}


@pytest.mark.parametrize("name", NAMES)
def test_a_valid_one_is_answered(name, table):
    reader = table[name]
    for seed in reader.seeds:
        said = outcome(reader, reader.form(seed) if reader.form else seed)
        assert said == "accepted" or name == "OpenAI's error", said


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32))
def test_a_damaged_one_is_answered_or_refused(name, table, seed):
    outcome(table[name], table[name].case(random.Random(seed)))

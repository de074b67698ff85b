"""An adapter is what its files hold: what it is called, and where it lies, decide nothing."""

from __future__ import annotations

import pytest
import vllm_stand_in
from conftest import save_tiny_adapter

import llm_persona as lp
from llm_persona.domain.condition import Condition


@pytest.fixture(scope="module")
def namesakes(tiny_folders, tmp_path_factory):
    """Folders that are all called `adapter`: two of other weights, one of another scale, one a copy of the first."""
    how = {"one": (0, 64), "other": (1, 64), "scaled": (0, 32), "copy": (0, 64)}
    place = tmp_path_factory.mktemp("namesakes")
    return {k: save_tiny_adapter(place / k / "adapter", tiny_folders[0], *given) for k, given in how.items()}


@pytest.fixture(params=["transformers", "vllm"])
def engine(request, monkeypatch):
    if request.param == "vllm":
        vllm_stand_in.install(monkeypatch)
    return request.param


def test_merged_adapters_of_one_name_are_told_apart_by_their_weights_and_their_scale(tiny_folders, namesakes, engine):
    def identity(name):
        return lp.load_subject(tiny_folders[0], namesakes[name], "float32", "cpu", engine=engine).identity

    found = {name: identity(name) for name in namesakes}
    assert {x["model"] for x in found.values()} == {f"{tiny_folders[0]}+adapter"}
    assert len({x["adapter"] for x in found.values()}) == 3
    assert found["copy"] == found["one"]


def test_both_engines_say_the_same_of_a_merged_adapter(tiny_folders, namesakes, monkeypatch):
    plain = lp.load_subject(tiny_folders[0], namesakes["one"], "float32", "cpu").identity
    vllm_stand_in.install(monkeypatch)
    other = lp.load_subject(tiny_folders[0], namesakes["one"], "float32", "cpu", engine="vllm").identity
    assert other == {**plain, "engine": "vllm 0.30.0"}


def test_an_adapter_that_is_on_for_a_while_is_in_the_state_and_leaves_the_identity_alone(
    tiny_folders, namesakes, engine
):
    subject = lp.load_subject(tiny_folders[0], None, "float32", "cpu", engine=engine)
    before = dict(subject.identity)
    states = {name: Condition(adapter=folder).state for name, folder in namesakes.items()}
    with subject.under(Condition(adapter=namesakes["one"])):
        assert subject.identity == before
    assert "adapter" not in before
    assert states["copy"] == states["one"]
    assert states["other"] != states["one"] != states["scaled"] != states["other"]

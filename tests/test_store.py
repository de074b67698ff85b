"""Files that appear whole, stages that are never done twice, vectors that come back as they went."""

from __future__ import annotations

import json
import math
import weakref
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_persona.analysis.activations import Activations
from llm_persona.analysis.vectors import PersonaVector
from llm_persona.domain.config import make_config
from llm_persona.domain.errors import UserError
from llm_persona.domain.store import appearing, canonical, digest, json_chunks, read_json, write_json
from llm_persona.studies.stages import Stages


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})
    with pytest.raises(RuntimeError), appearing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert read_json(path) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot be written"):
        write_json(tmp_path / "file" / "a.json", 1)


@given(st.dictionaries(st.text(max_size=5), st.floats() | st.text(max_size=5) | st.integers()))
def test_what_is_written_is_read_back_with_nan_as_null(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("json") / "a.json"
    write_json(path, value)
    expected = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in value.items()}
    assert read_json(path) == expected
    assert digest(value) == digest(dict(reversed(value.items())))


class OnDemand(Sequence):
    """Elements that are made when asked for; `held` is how many of the last ones asked for are still alive."""

    def __init__(self, values):
        self._values = values
        self.most_held = 0
        self._alive = weakref.WeakSet()

    def __len__(self):
        return len(self._values)

    def __getitem__(self, place):
        made = Element(self._values[place])
        self._alive.add(made)
        self.most_held = max(self.most_held, len(self._alive))
        return made


class Element(dict):
    """A dict that can be watched."""

    __hash__ = object.__hash__

    def __init__(self, value):
        super().__init__(value=value)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3),
)


@given(JSON, st.lists(JSON, max_size=3), st.booleans())
def test_json_written_in_pieces_is_the_text_of_the_whole(value, made, ascii_only):
    whole = {"a": value, "rows": [{"value": m} for m in made], "z": [value]}
    expected = json.dumps(canonical(whole), indent=1, ensure_ascii=ascii_only, allow_nan=False) + "\n"
    assert "".join(json_chunks(whole, ascii_only)) == expected
    assert "".join(json_chunks({**whole, "rows": OnDemand(made)}, ascii_only)) == expected
    assert digest({**whole, "rows": OnDemand(made)}) == digest(whole)


def test_rows_made_on_demand_are_written_one_at_a_time(tmp_path):
    rows = OnDemand(range(500))
    write_json(tmp_path / "a.json", {"rows": rows})
    assert len(read_json(tmp_path / "a.json")["rows"]) == 500
    assert rows.most_held <= 2


def test_a_stage_is_made_once_and_a_damaged_one_again(tmp_path):
    calls = []
    stages = Stages(tmp_path)

    def make():
        calls.append(1)
        return {"x": 0.1}

    assert stages.value("a", 1, make) == stages.value("a", 1, make) == {"x": 0.1}
    assert len(calls) == 1
    stages.value("a", 2, make)
    assert len(calls) == 2
    for path in tmp_path.glob("*.json"):
        path.write_text(path.read_text().replace("0.1", "0.2"))
    assert stages.value("a", 1, make) == {"x": 0.1}
    assert len(calls) == 3


def test_altered_activations_are_recorded_again(tmp_path):
    acts = Activations(np.ones((2, 1, 3), np.float32), ["high", "low"], ["a", "b"])
    stages = Stages(tmp_path)
    stages.activations("r", 0, lambda: acts)
    file = next(tmp_path.glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-1] + b"\x7f")
    again = stages.activations("r", 0, lambda: acts)
    np.testing.assert_array_equal(again.values, acts.values)
    assert again.poles == ["high", "low"]


def test_a_vector_file_comes_back_whole(tmp_path):
    rng = np.random.default_rng(0)
    vector = PersonaVector(rng.standard_normal((3, 4)).astype(np.float32), np.ones(3, np.float32), {"trait": "x"})
    vector.save(tmp_path / "v.safetensors")
    again = PersonaVector.load(tmp_path / "v.safetensors")
    np.testing.assert_array_equal(again.directions, vector.directions)
    assert (again.meta, again.digest) == (vector.meta, vector.digest)


@given(st.integers(0, 400), st.binary(max_size=6))
def test_a_damaged_vector_file_is_one_helpful_error(tmp_path_factory, place, junk):
    path = tmp_path_factory.mktemp("v") / "v.safetensors"
    PersonaVector(np.ones((3, 4), np.float32), np.ones(3, np.float32)).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:place] + junk + whole[place + len(junk) + 1 :])
    try:
        PersonaVector.load(path)
    except UserError as error:
        assert str(path) in str(error) or "vector" in str(error)


def test_a_vector_of_a_newer_format_is_refused_with_a_clear_word(tmp_path):
    from safetensors.numpy import save_file

    save_file({"directions": np.ones((1, 1), np.float32)}, tmp_path / "v", metadata={"format": "llm-persona.vector.2"})
    with pytest.raises(UserError, match="newer llm-persona"):
        PersonaVector.load(tmp_path / "v")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"colour": 1}, "colour"), ({"traits": ["x"]}, "unknown trait 'x'"), ({"doses": [0.1]}, "both signs"),
        ({"preset": "huge"}, "preset"), ({"doses": [0.1, -0.1, 0]}, "differ from 0"), ({"seed": -1}, "seed"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_named(settings, message):
    with pytest.raises(UserError, match=message):
        make_config("study.yaml", **settings)


def test_presets_fill_what_is_not_given():
    assert make_config().traits == ["openness", "machiavellianism"]
    assert make_config(preset="smoke", test_items=3).test_items == 3
    assert len(make_config(preset="full").traits) >= 2
    assert json.loads(make_config().model_dump_json())["preset"] == "quick"

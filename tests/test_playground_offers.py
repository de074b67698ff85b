"""What the playground offers: models, vectors with their layer and usable range, adapters."""

from __future__ import annotations

import pytest
from stand_in_runs import a_run, a_vector

from llm_persona.domain.errors import UserError
from llm_persona.interfaces.cli.main import run
from llm_persona.interfaces.playground.shelf import stock


def test_a_run_brings_its_model_vectors_usable_range_layer_and_adapters(tmp_path):
    shelf = stock(str(a_run(tmp_path / "first")), [], None, "default")
    assert shelf.first == "tiny"
    offer = shelf.vectors_of("tiny")[0]
    assert (offer.name, offer.usable, offer.layer, offer.layer_from) == ("openness", (-0.2, 0.3), 2, "recommended")
    assert shelf.adapters_of("tiny") == [str(tmp_path / "first" / "adapters" / "openness-high")]


def test_a_given_file_is_offered_at_its_best_known_layer(tmp_path):
    a_vector(recommended={"quality": 3}).save(tmp_path / "a.safetensors")
    a_vector().save(tmp_path / "b.safetensors")
    found = stock(None, [str(tmp_path / "a.safetensors"), str(tmp_path / "b.safetensors")], None, "m").offers
    assert [o.layer for o in found] == [3, 2]
    assert [o.name for o in found] == ["openness", "openness (b)"]
    assert found[0].usable is None
    assert "effect was not measured" in found[0].layer_from


def test_without_a_run_everything_in_the_runs_folder_is_offered_and_damaged_files_are_left_out(tmp_path):
    a_run(tmp_path / "one")
    a_run(tmp_path / "two", model="other", adapter=False)
    (tmp_path / "two" / "vectors" / "broken.safetensors").write_bytes(b"x")
    shelf = stock(None, [], None, "default", tmp_path)
    assert set(shelf.models) == {"tiny", "other"}
    assert len({o.name for o in shelf.offers}) == 2
    assert stock(None, [], None, "default", tmp_path / "nothing").first == "default"


def test_the_model_asked_for_comes_first(tmp_path):
    shelf = stock(str(a_run(tmp_path / "first")), [], "mine", "default")
    assert shelf.models == ["mine", "tiny"]
    assert shelf.vectors_of("mine") == []


def test_a_run_that_is_none_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(UserError, match="no such run folder; make one with `llm-persona run"):
        stock(str(tmp_path / "none"), [], None, "m")
    with pytest.raises(UserError, match="holds no vectors"):
        stock(str(tmp_path), [], None, "m")


def test_a_missing_run_is_the_users_error(capsys, tmp_path):
    assert run(["playground", str(tmp_path / "none")]) == 2
    assert "no such run folder" in capsys.readouterr().err

"""The bundled traits meet the standard, and a user's own trait is one file."""

from __future__ import annotations

import pytest
import yaml

from llm_persona.analysis.trait_check import check_trait
from llm_persona.domain.errors import UserError
from llm_persona.domain.traits import Trait, list_traits, load_trait, parse_trait


@pytest.mark.parametrize("name", list_traits())
def test_every_bundled_trait_meets_the_standard(name):
    faults = [f"{c.name}: {c.measured}, asked {c.standard}" for c in check_trait(load_trait(name)) if not c.ok]
    assert not faults


def test_a_fault_in_a_trait_file_is_named_by_field():
    data = load_trait("openness").model_dump()
    data["rubric"] = "no fields"
    with pytest.raises(UserError, match=r"mine\.yaml: rubric: .*\{question\}"):
        parse_trait(yaml.safe_dump(_plain(data)), "mine.yaml")


def test_an_unknown_field_is_an_error():
    data = {**load_trait("openness").model_dump(), "colour": "blue"}
    with pytest.raises(UserError, match="colour"):
        parse_trait(yaml.safe_dump(_plain(data)), "mine.yaml")


def test_an_unknown_trait_names_the_known_ones():
    with pytest.raises(UserError, match="unknown trait 'opennes'; known: openness"):
        load_trait("opennes")


def test_the_template_of_a_new_trait_loads(tmp_path):
    from llm_persona.interfaces.cli.main import run

    path = tmp_path / "patience.yaml"
    assert run(["traits", "new", "patience", "--out", str(path)]) == 0
    assert load_trait(str(path)).name == "patience"
    assert run(["traits", "check", str(path)]) == 2  # one item is far from the standard


def test_the_check_notices_what_it_is_for():
    trait = load_trait("openness")
    items = [dict(record) for record in trait.items]
    items[0]["response_high1"] += " openness"
    items[1]["situation"], items[1]["query"] = items[0]["situation"], items[0]["query"]
    for record in items:
        record["response_low2"] += " and a good many further words that make it longer!"
    bad = {c.name for c in check_trait(Trait(**{**trait.model_dump(), "items": items})) if not c.ok}
    assert {"the trait's name and definition", "near-duplicates", "length balance", "register (marks, high/low)"} <= bad


def test_instruct_uses_the_held_out_pair():
    trait = load_trait("machiavellianism")
    fit = {p.high for p in trait.instruction_pairs if p.split == "fit"}
    assert trait.instruction("high") not in fit
    assert trait.instruction("high") != trait.instruction("low")


def _plain(value):
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value


def test_one_question_cannot_stand_in_two_splits():
    trait = load_trait("openness")
    items = [dict(record) for record in trait.items]
    items[1] = {**items[0], "id": "copy", "split": "test"}
    with pytest.raises(UserError, match="stands there twice"):
        _ = Trait(**{**trait.model_dump(), "items": items}).bank


def test_the_example_of_a_ninth_trait_meets_the_standard_and_is_used_by_its_path(tmp_path):
    from pathlib import Path

    from llm_persona.domain.config import make_config
    from llm_persona.interfaces.cli.main import run

    path = str(Path(__file__).resolve().parents[1] / "docs" / "examples" / "risk-taking.yaml")
    assert run(["traits", "check", path]) == 0
    assert make_config(traits=[path]).traits == [path]
    assert load_trait(path).instruction("high", "facets")


def test_a_trait_of_another_package_is_found_by_its_entry_point(monkeypatch):
    from importlib import metadata
    from pathlib import Path

    from llm_persona.domain import traits

    path = str(Path(__file__).resolve().parents[1] / "docs" / "examples" / "risk-taking.yaml")
    point = type("Point", (), {"name": "risk-taking", "load": lambda self: path})()
    monkeypatch.setattr(metadata, "entry_points", lambda group: [point] if group == "llm_persona.traits" else [])
    assert traits.list_traits()[-1] == "risk-taking"
    assert traits.load_trait("risk-taking").family == "custom"
    traits._installed.cache_clear()

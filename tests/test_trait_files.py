"""A trait file: what is read from it, and how each fault is named."""

from __future__ import annotations

import pytest
import yaml

from llm_persona.domain.errors import UserError
from llm_persona.domain.traits import (
    ORDER,
    Trait,
    facet_names,
    list_traits,
    load_trait,
    parse_trait,
    parse_yaml,
    read_trait,
)


def plain(value):
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, (list, tuple)) else value


@pytest.fixture
def data():
    """The openness file with three items, which are enough here."""
    found = plain(load_trait("openness").model_dump())
    return {**found, "items": found["items"][:3]}


def said(data, where="mine.yaml"):
    with pytest.raises(UserError) as caught:
        parse_trait(data if isinstance(data, str) else yaml.safe_dump(data), where)
    return str(caught.value)


def test_instructions_of_every_level_are_the_texts_of_the_file():
    trait = load_trait("openness")
    pair = next(p for p in trait.instruction_pairs if p.split == "test")
    for pole in ("high", "low"):
        described = getattr(trait.descriptions, pole)
        assert trait.instruction(pole) == trait.instruction(pole, "pair") == getattr(pair, pole)
        assert trait.instruction(pole, "description") == described
        facets = " ".join(getattr(f, pole) for f in trait.facets)
        assert trait.instruction(pole, "facets") == f"{described} {facets}"
        title = trait.title[0].lower() + trait.title[1:]
        assert trait.instruction(pole, "name") == f"You are a person who is very {pole} in {title}."
    assert trait.instruction("neutral") == ("You are an assistant. Answer the user's question plainly and briefly.")
    with pytest.raises(UserError) as caught:
        trait.instruction("middle")
    assert str(caught.value) == "--instruct 'middle': choose high, low or neutral"
    with pytest.raises(UserError) as caught:
        trait.instruction("high", "novel")
    assert str(caught.value) == "--level 'novel': choose one of pair, name, description, facets"


def test_pairs_and_questions_are_those_of_the_split_and_pairs_never_none(data):
    trait = load_trait("openness")
    for split in ("fit", "select", "test"):
        assert {p.split for p in trait.pairs(split)} <= {split} or len(trait.pairs(split)) == len(
            trait.instruction_pairs
        )
        assert {q.split for q in trait.questions_of(split)} <= {split}
    for pair in data["instruction_pairs"]:
        pair["split"] = "fit"
    without = Trait(**data)
    assert without.pairs("test") == list(without.instruction_pairs) == without.pairs("fit")
    assert facet_names(trait) == [f.name for f in trait.facets]


def test_who_reviewed_a_trait_does_not_change_its_digest_and_everything_else_does(data):
    before = Trait(**data).digest
    assert Trait(**{**data, "status": "drafted, unreviewed"}).digest == before
    assert Trait(**{**data, "definition": data["definition"] + "!"}).digest != before


@pytest.mark.parametrize("kind", ["instruction_pairs", "questions"])
def test_an_id_that_occurs_twice_is_named(kind, data):
    data[kind][1]["id"] = data[kind][0]["id"]
    twice = data[kind][0]["id"]
    assert said(data) == f"mine.yaml: file: Value error, {kind}: id {twice!r} occurs twice"


def test_items_of_one_id_or_content_are_named(data):
    first = data["items"][0]["id"]
    twice = {**data, "items": [*data["items"], {**data["items"][1], "id": first, "situation": "Another one."}]}
    assert said(twice) == f"mine.yaml: trait openness: item id {first!r} occurs twice"
    copied = {**data, "items": [*data["items"], {**data["items"][0], "id": "copy"}]}
    assert said(copied, "trait x") == (
        f"trait openness: item {first!r} stands there twice; splits must not share a question"
    )
    broken = {**data, "items": [{k: v for k, v in data["items"][0].items() if k != "query"}]}
    assert "trait openness: items[0]: " in said(broken)


def test_items_without_id_are_numbered_and_know_their_trait(data):
    for record in data["items"]:
        del record["id"]
    bank = Trait(**data).bank
    assert [item.id for item in bank[:2]] == ["openness-0", "openness-1"]
    assert {item.trait for item in bank} == {"openness"}


@pytest.mark.parametrize("rubric", ["{question}", "{answer}", "{question} {answer} {answer}", "none"])
def test_a_rubric_holds_each_field_once(rubric, data):
    missing = "{question}" if rubric.count("{question}") != 1 else "{answer}"
    assert said({**data, "rubric": rubric}) == (f"mine.yaml: rubric: Value error, must contain {missing} exactly once")


def test_the_first_fault_is_named_and_the_others_are_counted(data):
    found = said({**data, "title": 3, "family": 4, "source": 5})
    assert found == "mine.yaml: title: Input should be a valid string (and 2 more)"
    assert said({**data, "title": 3, "family": 4}).endswith("string (and 1 more)")
    assert said({**data, "title": 3}).endswith("string")
    assert said({**data, "facets": [{**data["facets"][0], "high": ""}]}).startswith("mine.yaml: facets.0.high: ")
    assert said({**data, "name": "No Name"}).startswith("mine.yaml: name: ")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("[1, 2]", "mine.yaml: a trait file is a mapping of fields; see `llm-persona traits new`"),
        ("a: 1\nb: &x 2\nc: *x\n", "mine.yaml:3: uses the alias *x; write the value out there"),
        ("a: 1\nb: [1\n", "mine.yaml:3: not valid YAML (did not find expected ',' or ']'"),
        ('a: !!int ""\n', "mine.yaml: not valid YAML; save it as plain UTF-8 text, values without tags"),
    ],
)
def test_yaml_that_is_none_is_named_by_its_line(text, found):
    assert said(text).startswith(found)


def test_an_ampersand_is_no_alias():
    assert parse_yaml("a: salt & pepper\nb: &unused 1\n", "here") == {"a": "salt & pepper", "b": 1}


def test_traits_are_listed_in_the_literature_s_order_and_read_from_either_suffix(data, tmp_path):
    assert list_traits()[: len(ORDER)] == list(ORDER)
    for name in ("mine.yaml", "mine.yml"):
        (tmp_path / name).write_text(yaml.safe_dump({**data, "name": "mine"}), encoding="utf-8")
        assert load_trait(tmp_path / name).name == read_trait(tmp_path / name).name == "mine"
    with pytest.raises(UserError) as caught:
        load_trait("opennes")
    assert (
        str(caught.value) == f"unknown trait 'opennes'; known: {', '.join(list_traits())}; or give a trait's .yaml file"
    )
    with pytest.raises(UserError, match=r"none\.yaml: no such trait file; check"):
        load_trait(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("[1]", encoding="utf-8")
    with pytest.raises(UserError, match=r"bad\.yaml: a trait file is a mapping"):
        read_trait(tmp_path / "bad.yaml")

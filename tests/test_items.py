"""Reading items: every format that is right is read, every fault is named with file and line."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_persona.domain.errors import UserError
from llm_persona.domain.item_sources import load_items
from llm_persona.domain.items import OPTIONS, Items, parse_item

GOOD = {
    "situation": "It rains.", "query": "What now?", "response_high1": "Go out.", "response_high2": "Dance.",
    "response_low1": "Stay in.", "response_low2": "Read.",
}  # fmt: skip


def write(path, records, lines=False):
    path.write_text("\n".join(map(json.dumps, records)) if lines else json.dumps(records, indent=1), encoding="utf-8")
    return path


def test_the_bank_has_the_contracted_splits():
    for trait in ("openness", "machiavellianism"):
        items = load_items(trait)
        assert [len(items.split(s)) for s in ("fit", "select", "test")] == [40, 15, 25]
        assert {i.id for i in items.split("fit")}.isdisjoint(i.id for i in items.split("test"))


def test_slices_and_splits_are_items_too():
    items = load_items("openness")
    assert isinstance(items[:3], Items)
    assert isinstance(items.split("test")[2:5], Items)
    assert items[0].prompt == f"{items[0].situation} {items[0].query}"


def test_json_and_jsonl_hold_the_same_items(tmp_path):
    records = [{**GOOD, "idx": n, "query": f"What now, {n}?"} for n in range(5)]
    as_json = load_items(path=write(tmp_path / "a.json", records))
    as_lines = load_items(path=write(tmp_path / "a.jsonl", records, lines=True))
    assert list(as_json) == list(as_lines)


def test_an_item_keeps_its_split_wherever_it_stands_in_a_file(tmp_path):
    records = [{**GOOD, "idx": n, "query": f"What now, {n}?"} for n in range(60)]
    forward = {i.query: i.split for i in load_items(path=write(tmp_path / "a.json", records))}
    backward = {i.query: i.split for i in load_items(path=write(tmp_path / "b.json", records[::-1]))}
    assert forward == backward
    assert set(forward.values()) == {"fit", "select", "test"}


def test_a_missing_field_is_named_with_its_line(tmp_path):
    broken = {k: v for k, v in GOOD.items() if k != "response_low1"}
    path = tmp_path / "items.json"
    path.write_text("[\n" + json.dumps(GOOD) + ",\n\n" + json.dumps(broken) + "\n]", encoding="utf-8")
    with pytest.raises(UserError, match=r"items\.json:4: field 'response_low1' is missing"):
        load_items(path=path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a JSON list"), ("{}", "expected a JSON list"), ("[", "not valid JSON"),
        ("[1]", "must be an object"),
        ('[{"situation": "a"} 3]', "field|expected"), ("[]", "holds no items"), ("[\n\n{bad}]", ":3: not valid JSON"),
    ],
)  # fmt: skip
def test_malformed_files_end_in_one_helpful_line(tmp_path, text, message):
    path = tmp_path / "items.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        load_items(path=path)


def test_bytes_that_are_not_utf8_are_refused_with_their_place(tmp_path):
    path = tmp_path / "items.json"
    path.write_bytes(b'[{"situation": "\xff"}]')
    with pytest.raises(UserError, match="not UTF-8 text at byte 16"):
        load_items(path=path)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*GOOD, "split", "idx"]), inner, max_size=8)
    ),
    max_leaves=12,
)


@given(json_values)
def test_any_record_is_either_an_item_or_a_named_fault(record):
    try:
        item = parse_item(record, "here:1", "0")
    except UserError as error:
        assert "here:1" in str(error)
    else:
        assert all(item.responses[name] for name in OPTIONS)

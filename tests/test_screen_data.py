"""The data that is screened: labels, unusable rows, numbering, export byte for byte, files larger than memory."""

from __future__ import annotations

import json
import tracemalloc

import numpy as np
import pytest
from chats import BAD, GOOD, LAYER, chat, kinds, planted, write

from llm_persona.domain.errors import UserError
from llm_persona.domain.store import write_json
from llm_persona.instruments.projection_difference import ProjectionDifference
from llm_persona.studies import screen_parts as module
from llm_persona.studies.screen import ScreenPlan, export, numbered, screen, survey
from llm_persona.subject.rendered_once import RenderedOnce
from llm_persona.training.data import Skipped, chat_rows, from_chat


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LLM_PERSONA_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("value", ["yes", 2, None, [1], {"a": 1}])
def test_a_label_that_is_none_names_the_line_and_the_field(value, tmp_path):
    path = write(tmp_path / "d.jsonl", [chat("a", "b", bad=True), chat("a", "b", bad=value)])
    with pytest.raises(UserError, match=r"d\.jsonl:2: 'bad' is .*write true, false"):
        survey(path, ScreenPlan(labels="bad"))
    with pytest.raises(UserError, match=r"d\.jsonl:1: no field 'worse'"):
        survey(path, ScreenPlan(labels="worse"))


def test_rows_that_cannot_be_used_are_counted_and_the_first_are_listed(tiny, tmp_path):
    path = write(tmp_path / "d.jsonl", [{"messages": []}, chat("a", "b"), *[{"text": "x"}] * 150])
    found = screen(tiny, survey(path, ScreenPlan()), planted(tiny), LAYER, ScreenPlan(max_new_tokens=2))
    assert found["skipped"]["n"] == 151
    assert len(found["skipped"]["listed"]) == 100
    assert [s["row"] for s in found["skipped"]["listed"]][:3] == [0, 2, 3]
    assert found["skipped"]["listed"][1]["reason"] == "no list 'messages'"
    assert [row["row"] for row in found["rows"]] == [1]
    with pytest.raises(UserError, match=r"no usable conversation \(the first: row 0, no user turn"):
        survey(write(tmp_path / "none.jsonl", [{"messages": []}]), ScreenPlan())
    with pytest.raises(UserError, match="the file is empty"):
        survey(write(tmp_path / "empty.jsonl", []), ScreenPlan())


def test_export_keeps_every_other_line_byte_for_byte(tiny, tmp_path):
    bad, good = (json.dumps(chat("q", text)).encode() for text in (BAD, GOOD))
    lines = [bad + b"\r\n", b"\n", b"  " + good + b" \n", b'{"text": 1}\n', bad + b"\n", "{\u2028}\n".encode(), good]
    lines[5] = json.dumps(chat("q", "\u2028 a"), ensure_ascii=False).encode() + b"\n"
    path = tmp_path / "d.jsonl"
    path.write_bytes(b"".join(lines))
    plan = ScreenPlan(max_new_tokens=3)
    data = survey(path, plan)
    result = screen(tiny, data, planted(tiny), LAYER, plan)
    for row in result["rows"]:
        row["flagged"] = row["row"] in (0, 4)
    out = tmp_path / "kept.jsonl"
    assert export(data, result, out) == {"kept": 4, "flagged": 2, "unusable": 1}
    assert out.read_bytes() == b"".join(lines[n] for n in (1, 2, 3, 5, 6))
    with pytest.raises(UserError, match="is the data file itself"):
        export(data, result, path)
    path.write_bytes(b"".join(lines[1:]))
    with pytest.raises(UserError, match="changed after it was screened"):
        export(data, result, out)


def test_a_large_file_is_never_in_memory(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PART", 20)
    path = tmp_path / "d.jsonl"
    with path.open("w", encoding="utf-8") as stream:
        for n in range(3000):
            stream.write(json.dumps(chat(f"q{n}" + "x" * 3000, "y" * 3000)) + "\n")
    sizes = []

    def stub(_self, _subject, rows, wanted):
        sizes.append(len(rows))
        assert not any(wanted)
        return [{"projection": float(len(r.prompt)), "prompt_last": 1.0} for r in rows]

    monkeypatch.setattr(ProjectionDifference, "measure", stub)
    plan = ScreenPlan(full_rows=0)
    vector = planted(tiny)
    monkeypatch.setattr(tiny.tokenizer, "_persona_rendered", RenderedOnce(100_000), raising=False)
    tracemalloc.start()
    data = survey(path, plan)
    found = screen(tiny, data, vector, LAYER, plan)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found["rows"]) == 3000
    assert sizes == [20] * 150
    assert peak < path.stat().st_size / 4


def test_a_rows_numbers_cost_tens_of_bytes_not_a_dict(tiny, tmp_path, monkeypatch):
    count = 6_000
    path = write(tmp_path / "d.jsonl", (chat(f"q{n}", "a") for n in range(count)))

    def stub(_self, _subject, rows, _wanted):
        return [{"projection": 1.0 + len(r.prompt) / 7, "prompt_last": 1.0} for r in rows]

    monkeypatch.setattr(ProjectionDifference, "measure", stub)
    plan, vector = ScreenPlan(full_rows=0), planted(tiny)
    monkeypatch.setattr(tiny.tokenizer, "_persona_rendered", RenderedOnce(100_000), raising=False)
    tracemalloc.start()
    found = screen(tiny, survey(path, plan), vector, LAYER, plan)
    write_json(tmp_path / "out.json", found)
    export(survey(path, plan), found, tmp_path / "kept.jsonl")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 150 * count + 2e6  # a dict of five entries alone takes 350 bytes, and its text about as much again
    assert len(json.loads((tmp_path / "out.json").read_text())["rows"]) == count


def test_rows_made_on_demand_are_a_sequence_like_the_list_in_the_file(tiny, tmp_path):
    data = survey(write(tmp_path / "d.jsonl", kinds(12)), ScreenPlan())
    rows = screen(tiny, data, planted(tiny), LAYER, ScreenPlan(max_new_tokens=2))["rows"]
    assert rows[-1] == list(rows)[-1] and rows[2:4] == list(rows)[2:4] and rows == list(rows)
    assert rows != list(rows)[:-1] and rows != [{}] * 12
    with pytest.raises(IndexError):
        rows[12]


def test_prompts_are_numbered_by_first_appearance_whatever_pythons_hashes_are():
    assert numbered(np.array([7, -3, 7, 0, -3])).tolist() == [0, 1, 0, 2, 1]


def test_chat_rows_are_numbered_by_line_for_training_and_screening_alike(tmp_path):
    path = tmp_path / "d.jsonl"
    half = json.dumps(chat("a", "b \ud800"))
    path.write_text("\n".join([json.dumps(chat("a", "b")), "", '{"messages": 1}', half]), encoding="utf-8")
    rows = list(chat_rows(path))
    assert [number for number, _, _ in rows] == [0, 2, 3]
    assert [found.row for _, _, found in rows if isinstance(found, Skipped)] == [2, 3]
    assert [s.row for s in from_chat(path).skipped] == [2, 3]
    path.write_bytes(b'{"messages": []}\n\xff\n')
    with pytest.raises(UserError, match=r"d\.jsonl:2: not UTF-8"):
        list(chat_rows(path))
    with pytest.raises(UserError, match="no such data file"):
        list(chat_rows(tmp_path / "none"))
    with pytest.raises(UserError, match="cannot be read"):
        list(chat_rows(tmp_path))

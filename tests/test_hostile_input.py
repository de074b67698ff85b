"""Input that once broke something: each is read, or refused with its place and what to do."""

from __future__ import annotations

import json
import math

import mutations
import numpy as np
import pytest
from reader import strict
from reader_inputs import ANSWERS, CHAT, EVALUATED, ITEM, ITEMS, TEMPLATE, vector_seed

from llm_persona.analysis.activations import Activations
from llm_persona.analysis.vectors import PersonaVector
from llm_persona.domain.config import make_config, read_config
from llm_persona.domain.errors import UserError
from llm_persona.domain.formats import format_of
from llm_persona.domain.item_sources import load_items
from llm_persona.domain.rubrics import load_rubric
from llm_persona.domain.store import read_json, write_json
from llm_persona.domain.templates import load_template
from llm_persona.domain.traits import parse_yaml
from llm_persona.instruments.judging.scoring import LONGEST, TOO_LONG, verdict_of_text
from llm_persona.interfaces.cli.main import run
from llm_persona.studies.report import read_results, write_report
from llm_persona.studies.stored_answers import read_answers
from llm_persona.subject.adapt import check_adapter
from llm_persona.subject.remote.openai_api import OpenAIEndpoint
from llm_persona.subject.remote.requests import Reply, likeliest, size_of
from llm_persona.subject.remote.sdk_endpoint import _seconds
from llm_persona.training.data import from_chat

DIGITS = "9" * 5000


def lines(rows):
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)


@pytest.mark.parametrize(
    ("name", "text", "read"),
    [("a.json", f'[{{"idx": {DIGITS}}}]', lambda p: load_items(path=p)),
     ("a.jsonl", f'{{"idx": {DIGITS}}}', lambda p: load_items(path=p)),
     ("b.jsonl", f'{{"question": {DIGITS}}}', read_answers), ("b.json", f'{{"answers": {DIGITS}}}', read_answers)],
)  # fmt: skip
def test_an_integer_of_thousands_of_digits_is_no_traceback(name, text, read, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=f"{name}.*not valid JSON"):
        read(tmp_path / name)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_json_that_is_none_is_not_read_and_never_written(number, tmp_path):
    (tmp_path / "a.json").write_text(f'{{"x": {number}}}')
    with pytest.raises(UserError, match=f"a.json: not valid JSON .*{number}"):
        read_json(tmp_path / "a.json")
    write_json(tmp_path / "b.json", {"x": [math.nan, np.float32("inf"), np.array([1.0, -np.inf])]})
    assert strict(tmp_path / "b.json") == {"x": [None, None, [1.0, None]]}


def test_half_a_surrogate_pair_is_written_as_the_escape_that_json_has_for_it(tmp_path):
    write_json(tmp_path / "a.json", {"text": "a\ud800b", "whole": "🙂 שלום"})
    assert strict(tmp_path / "a.json") == {"text": "a\ud800b", "whole": "🙂 שלום"}


def test_a_byte_order_mark_windows_lines_and_line_separators_in_texts_are_read(tmp_path):
    items = [{**ITEM, "idx": n, "query": f"What\u2028now, {n}?"} for n in range(2)]
    for name, text in (("a.json", json.dumps(items)), ("a.jsonl", lines(items))):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
        assert [i.query for i in load_items(path=tmp_path / name)] == [i["query"] for i in items]
    (tmp_path / "c.jsonl").write_bytes(b"\xef\xbb\xbf" + lines(CHAT).replace("\n", "\r\n").encode())
    assert len(from_chat(tmp_path / "c.jsonl").examples) == 2 * len(CHAT)
    (tmp_path / "t.txt").write_bytes(b"\xef\xbb\xbf" + TEMPLATE.replace(b"A B C D", b"W X Y Z"))
    assert load_template(str(tmp_path / "t.txt")).labels == ("W", "X", "Y", "Z")


def test_the_line_of_a_fault_is_right_deep_in_a_long_file(tmp_path):
    text = "[\n" + ",\n".join(json.dumps({**ITEM, "idx": n}) for n in range(3000))
    (tmp_path / "a.json").write_text(text + ",\n\n{}\n]")
    with pytest.raises(UserError, match=r"a\.json:3003: field 'situation' is missing"):
        load_items(path=tmp_path / "a.json")


@pytest.mark.parametrize(
    "text",
    ["a: &x [1, 2]\nb: [*x, *x]", "a: &x {b: *x}", "a: &x {k: 1}\nb:\n  <<: [*x, *x]", "a: !!int ''",
     "a: !!bool no way", "a: !!timestamp x", "a: !!float ''", "a: 2024-99-99", "[" * 2000, "a: \x00"],
)  # fmt: skip
def test_yaml_that_explodes_or_lies_about_its_types_is_refused(text):
    with pytest.raises(UserError, match="study"):
        parse_yaml(text, "study.yaml")


@pytest.mark.parametrize(
    ("text", "field"),
    [("where: x", "where"), ("self: x", "self"), ("preset: []", "preset"), ("doses: [.nan, -1, 1]", "doses"),
     ("sweep_dose: .inf", "sweep_dose"), ("seed: 1000000000000000000000000", "seed"), ("? [1, 2]\n: 3", "")],
)  # fmt: skip
def test_a_study_s_odd_setting_is_named(text, field, tmp_path):
    (tmp_path / "study.yaml").write_text(text)
    with pytest.raises(UserError, match=f"study.yaml.*{field}"):
        read_config(tmp_path / "study.yaml")
    assert make_config(preset="smoke").preset == "smoke"


@pytest.mark.parametrize(
    "meta",
    [[], 3, {"recommended": []}, {"recommended": {"balanced": "x"}}, {"recommended": {"balanced": 3}},
     {"recommended": {"balanced": -1}}, {"recommended": {"balanced": 1.5}}, {"recommended": {"coefficient": math.nan}},
     {"recommended": {"coefficient": "1"}}, {"items": 3}, {"items": [3]}, {"trait": ["x"]}, {"model": 3}],
)  # fmt: skip
def test_hostile_metadata_of_a_vector_are_refused_when_it_is_read(meta, tmp_path):
    header, payload = vector_seed()
    header["__metadata__"]["meta"] = meta
    (tmp_path / "v.safetensors").write_bytes(mutations.safetensors_bytes([header, payload]))
    with pytest.raises(UserError, match=r"v\.safetensors"):
        PersonaVector.load(tmp_path / "v.safetensors")


@pytest.mark.parametrize(
    "change",
    [{"dtype": "I32"}, {"dtype": "BF16"}, {"dtype": "F8_E4M3"}, {"shape": [12]}, {"shape": [3, 2, 2]},
     {"shape": [0, 4]}, {"data_offsets": [0, 1 << 40]}],
)  # fmt: skip
def test_a_vector_of_another_form_is_refused(change, tmp_path):
    header, payload = vector_seed()
    header["directions"] |= change
    (tmp_path / "v.safetensors").write_bytes(mutations.safetensors_bytes([header, payload]))
    with pytest.raises(UserError, match=r"v\.safetensors"):
        PersonaVector.load(tmp_path / "v.safetensors")


def test_activations_whose_poles_are_no_list_are_refused_by_file(tmp_path):
    from reader_inputs import activations_seed

    for poles in ("3", '{"a": 1}', '["high"]', '["up", "low", "high", "low"]', "[[], [], [], []]"):
        header, payload = activations_seed()
        header["__metadata__"]["poles"] = poles
        (tmp_path / "a.safetensors").write_bytes(mutations.safetensors_bytes([header, payload]))
        with pytest.raises(UserError, match=r"a\.safetensors"):
            Activations.load(tmp_path / "a.safetensors")


def test_a_dose_that_is_no_number_of_this_world_does_not_name_a_condition(tmp_path):
    rows = [{"dose": 1e300, "samples": [{"question": "Q", "text": "A"}]}]
    write_json(tmp_path / "r.json", {"traits": {"openness": {"steering": rows}}})
    assert [a.condition for a in read_answers(tmp_path / "r.json")] == ["steered 0"]


@pytest.mark.parametrize("text", [" " * 1_000_000, "\n" * 1_000_000 + "7", "9" * 1_000_000, "not " * 300_000])
def test_a_reply_without_end_is_unscored_at_once(text):
    assert verdict_of_text(text).unscored == TOO_LONG
    assert len(verdict_of_text(text).reply) == LONGEST


def test_an_answer_of_marks_and_blanks_fills_a_rubric_at_once():
    filled = load_rubric("coherence").fill("Q", "<" + " " * 300_000 + "question>")
    assert "<question>" in filled


def test_what_is_no_log_probability_never_becomes_a_share():
    assert likeliest([("a", -0.1), ("b", "-3")]) == {"a": -0.1, "b": -3.0}
    assert likeliest([("a", -math.inf)]) == {"a": -math.inf}
    for bad in ([("a", math.nan)], [("a", 5.0)], [("a", -0.1), ("b", -0.1)], [("a", 1e308)], [("a", math.inf)]):
        with pytest.raises(ValueError, match="no log-probabilities"):
            likeliest(bad)
    for size in (-1, 1 << 60):
        with pytest.raises(ValueError, match="no number of tokens"):
            size_of(size)
    with pytest.raises(TypeError):
        Reply.from_json({"text": 3, "finish": "", "top": [], "prompt_tokens": 0, "completion_tokens": 0})
    assert (_seconds("nan"), _seconds("inf"), _seconds("2.5"), _seconds("soon")) == (None, None, 2.5, None)


@pytest.mark.parametrize("address", ["http://[", "http://localhost:99999", "http://[::1", "ftp://x", "http://"])
def test_an_address_that_is_none_is_one_line(address):
    with pytest.raises(UserError, match="not an address"):
        OpenAIEndpoint("m", address)


@pytest.mark.parametrize("config", ["[]", "3", "null", '"x"', "{", "NaN"])
def test_an_adapter_s_config_that_is_no_object_is_named(config, tmp_path):
    (tmp_path / "adapter_config.json").write_text(config)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"adapter_config\.json"):
        check_adapter(tmp_path)


def test_what_an_adapter_was_made_from_is_asked_of_a_proper_file(tmp_path, capsys):
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "llm-persona.json").write_text('{"data": 3}')
    assert run(["evaluate", "--trait", "openness", "--adapter", str(tmp_path)]) == 2
    assert "does not say what the adapter was made from" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("path", "value"),
    [(("score",), "high"), (("score",), 101), (("score_ci",), [1]), (("score_ci",), [1, None]), (("n",), None),
     (("preference",), math.nan), (("rows",), [3]), (("rows",), [{"id": []}]), (("rows",), [{"id": "a"}]),
     (("rows",), [{"id": "a", "high": "yes"}]), (("rows",), [{"id": "a", "high": True}] * 2)],
)  # fmt: skip
def test_a_result_of_another_form_is_not_compared(path, value, tmp_path, capsys):
    found = json.loads(json.dumps(EVALUATED))
    found["traits"]["openness"][path[0]] = value
    (tmp_path / "a.json").write_text(json.dumps(found))
    (tmp_path / "b.json").write_text(json.dumps(EVALUATED))
    assert run(["report", "compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")]) == 2
    said = capsys.readouterr().err
    assert "a.json" in said
    assert said.count("\n") == 1
    assert run(["report", "compare", str(tmp_path / "b.json"), str(tmp_path / "b.json")]) == 0


@pytest.mark.parametrize("traits", [[], None, {"../../x": {}}, {"openness": 3}, {"openness": {"baseline": {}}}])
def test_results_of_another_form_are_no_report(traits, tmp_path):
    (tmp_path / "results.json").write_text(json.dumps({"format": format_of("results"), "model": "m", "traits": traits}))
    with pytest.raises(UserError, match=r"results\.json"):
        write_report(tmp_path)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["results.json"]
    (tmp_path / "results.json").write_text("[]")
    with pytest.raises(UserError, match="not a results file"):
        read_results(tmp_path)


def test_recorded_likelihoods_that_are_no_probabilities_are_refused_by_file(tmp_path, capsys):
    for value in (800, -1, "x"):
        (tmp_path / "r.json").write_text(json.dumps([{**ITEM, "likelihood": {"A": value}}]))
        assert run(["evaluate", "--rescore", str(tmp_path / "r.json"), "--mode", "upstream", "--api-records"]) == 2
        assert "r.json:1: field 'likelihood'" in capsys.readouterr().err
    (tmp_path / "r.json").write_text(json.dumps([{k: v for k, v in ITEMS[0].items() if k != "likelihood"}]))
    assert run(["evaluate", "--rescore", str(tmp_path / "r.json"), "--mode", "upstream"]) == 2
    assert "r.json: item 0: no recorded likelihood" in capsys.readouterr().err


def test_answers_with_half_a_character_are_named(tmp_path):
    found = json.loads(json.dumps(ANSWERS))
    found["answers"][1]["text"] = "half \ud83d"
    (tmp_path / "a.json").write_text(json.dumps(found))
    with pytest.raises(UserError, match=r"a\.json: answers\[1\]: field 'answer' holds half of a surrogate pair"):
        read_answers(tmp_path / "a.json")

"""Screening of chat data: the numbers by hand, in parts that survive a kill, flags, forecast, labels, export."""

from __future__ import annotations

import json
import tracemalloc

import numpy as np
import pytest
from conftest import make_subject, save_tiny_model
from hypothesis import given
from hypothesis import strategies as st
from schemas import check_schema

from llm_persona.analysis import screening
from llm_persona.analysis.stats import auc
from llm_persona.analysis.vectors import PersonaVector, fit
from llm_persona.domain.errors import UserError
from llm_persona.domain.responses import Response
from llm_persona.domain.store import write_json
from llm_persona.instruments.projection_difference import EMPTY, ProjectionDifference
from llm_persona.interfaces.cli.main import run
from llm_persona.studies import screen_parts as module
from llm_persona.studies.screen import ScreenPlan, export, numbered, screen, survey
from llm_persona.subject.generate import Answer, generate
from llm_persona.subject.record import record
from llm_persona.subject.rendered_once import RenderedOnce
from llm_persona.training.data import Skipped, chat_rows, from_chat

LAYER = 2
GOOD, BAD = "a b a b a", "!? !! ?!"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LLM_PERSONA_CACHE", str(tmp_path / "cache"))


def chat(prompt, answer, system=None, **more):
    turns = [("user", prompt), ("assistant", answer)]
    if system is not None:
        turns.insert(0, ("system", system))
    return {"messages": [{"role": role, "content": text} for role, text in turns], **more}


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def planted(subject, meta=None):
    """A vector from the BAD kind of answer against the GOOD kind."""
    rows = [Response(f"q{n}", text, pole, str(n)) for n in range(6) for pole, text in (("high", BAD), ("low", GOOD))]
    return fit(record(subject, rows), {"trait": "badness", "model": subject.name, **(meta or {})})


def kinds(count):
    """Rows of both kinds in turn, every one to a prompt of its own."""
    return [chat(f"q{n}", (BAD, GOOD)[n % 2], bad=n % 2 == 0) for n in range(count)]


def test_the_numbers_equal_a_direct_computation(tiny, tmp_path):
    rows = [chat("Hello?", "I am well."), chat("And?", "Nothing. More.", "Be brief."), chat("Hello?", "Leave me.")]
    data = survey(write(tmp_path / "d.jsonl", rows), ScreenPlan())
    vector = planted(tiny)
    found = screen(tiny, data, vector, LAYER, ScreenPlan(max_new_tokens=6))
    unit = vector.directions[LAYER] / np.linalg.norm(vector.directions[LAYER])
    for row, got in zip(rows, found["rows"], strict=True):
        system = row["messages"][0]["content"] if len(row["messages"]) == 3 else None
        prompt, answer = (m["content"] for m in row["messages"][-2:])
        own = generate(tiny, [prompt], 6, system)[0].text
        read = [Response(prompt, text, "high", "", system) for text in (answer, own)]
        mine, its = record(tiny, read).values[:, LAYER] @ unit
        last = record(tiny, read[:1], "prompt_last").values[0, LAYER] @ unit
        assert got["projection"] == pytest.approx(mine, abs=1e-5)
        assert got["projection_difference"] == pytest.approx(mine - its, abs=1e-5)
        assert got["prompt_last"] == pytest.approx(mine - last, abs=1e-5)
        assert got["by"] == "projection_difference"
        assert got["flagged"] is bool(mine - its >= 0.5 * np.linalg.norm(vector.directions[LAYER]))
    differences = [row["projection_difference"] for row in found["rows"]]
    assert [row["row"] for row in found["rows"]] == [0, 1, 2]
    assert found["ranking"] == sorted(range(3), key=lambda n: -differences[n])
    assert found["forecast"]["mean"] == pytest.approx(np.mean(differences))
    assert found["forecast"]["pole_gaps"] == pytest.approx(np.mean(differences) / vector.norms[LAYER])
    assert (found["forecast"]["n"], found["forecast"]["n_prompts"]) == (3, 2)
    assert {"trait": "badness", "layer": LAYER}.items() <= found.items()


def test_the_last_prompt_token_is_found_where_the_template_puts_something_before_the_answer(tmp_path):
    head = "<|im_start|>{{ m['role'] }}\n{% if m['role'] == 'assistant' %}Thought. {% endif %}{{ m['content'] }}"
    template = (
        "{% for m in messages %}" + head + "<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    subject = make_subject(template=template)
    vector = planted(subject)
    answers = ["im tired", "so what"]  # the first word of one is also found in the end-of-turn mark
    data = survey(write(tmp_path / "d.jsonl", [chat("q", a) for a in answers]), ScreenPlan())
    found = screen(subject, data, vector, LAYER, ScreenPlan(full_rows=0))
    for row, answer in zip(found["rows"], answers, strict=True):
        read = [Response("q", answer, "high", "")]
        mean, last = (record(subject, read, p).values[0, LAYER] @ vector.unit(LAYER)
                      for p in ("response_mean", "prompt_last"))  # fmt: skip
        assert row["prompt_last"] == pytest.approx(mean - last, abs=1e-5)


def test_an_empty_answer_of_the_model_and_a_prompt_without_room_are_null_with_the_reason(tiny, tmp_path, monkeypatch):
    def silent(_subject, prompts, *_):
        return [Answer(prompt, "" if prompt == "q1" else "x", 1, True) for prompt in prompts]

    monkeypatch.setattr("llm_persona.instruments.projection_difference.generate", silent)
    rows = [*kinds(12), chat("long " * 87, "x"), chat("long " * 200, "x")]
    data = survey(write(tmp_path / "d.jsonl", rows), ScreenPlan())
    found = screen(tiny, data, planted(tiny), LAYER)
    by_row = {row["row"]: row for row in found["rows"]}
    assert by_row[1]["projection_difference"] is None
    assert by_row[1]["reason"] == EMPTY
    assert by_row[1]["by"] == "prompt_last"
    assert by_row[1]["flagged"] is not None
    assert "leaves no room for 64 new ones" in by_row[12]["reason"]
    assert "reason" not in by_row[0]
    assert (found["n_rows"], found["n_full"], found["forecast"]["n"]) == (13, 11, 11)
    assert found["skipped"]["n"] == 1
    assert found["skipped"]["listed"][0]["row"] == 13
    assert "exceeds the model's 512" in found["skipped"]["listed"][0]["reason"]


def test_a_screening_that_was_killed_goes_on_and_repeats_nothing(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PART", 5)
    plan = ScreenPlan(max_new_tokens=3)
    data = survey(write(tmp_path / "d.jsonl", kinds(18)), plan)
    vector = planted(tiny)
    measured = []
    original = ProjectionDifference.measure

    def counted(self, subject, rows, wanted):
        measured.append(rows[0].prompt)
        return original(self, subject, rows, wanted)

    monkeypatch.setattr(ProjectionDifference, "measure", counted)
    done = []

    def killed(count):
        done.append(count)
        if len(done) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        screen(tiny, data, vector, LAYER, plan, killed)
    again = screen(tiny, data, vector, LAYER, plan)
    assert measured == ["q0", "q5", "q10", "q15"]
    monkeypatch.setenv("LLM_PERSONA_CACHE", str(tmp_path / "other"))
    assert screen(tiny, data, vector, LAYER, plan) == again
    measured.clear()
    strict = screen(tiny, data, vector, LAYER, ScreenPlan(flag_at=1e6, max_new_tokens=3))
    assert (strict["n_flagged"], measured) == (0, [])  # another threshold measures nothing again
    screen(tiny, data, vector, LAYER, ScreenPlan(max_new_tokens=4))
    assert len(measured) == 4


def test_rows_without_the_full_difference_are_judged_by_the_calibrated_cheap_form(tiny, tmp_path):
    plan = ScreenPlan(full_rows=20, max_new_tokens=3)
    data = survey(write(tmp_path / "d.jsonl", kinds(40)), plan)
    found = screen(tiny, data, planted(tiny), LAYER, plan)
    exact = [row for row in found["rows"] if row["by"] == "projection_difference"]
    cheap = [row for row in found["rows"] if row["by"] == "prompt_last"]
    assert (len(exact), len(cheap), found["n_full"], found["n_unjudged"]) == (20, 20, 20, 0)
    assert {row["row"] // 2 for row in exact} == set(range(20))  # one from each stretch of two rows
    slope, intercept = np.polyfit([r["prompt_last"] for r in exact], [r["projection_difference"] for r in exact], 1)
    for row in cheap:
        assert row["projection_difference"] is None
        assert row["flagged"] is bool(intercept + slope * row["prompt_last"] >= found["threshold"])
    assert found["calibration"]["slope"] == pytest.approx(slope)
    a = found["approximation"]["prompt_last"]
    assert a["n"] == 20
    assert a["spearman_ci"][0] <= a["spearman"] <= a["spearman_ci"][1]
    with pytest.raises(UserError, match=r"--full-rows 3: .*fewer than 10"):
        ScreenPlan(full_rows=3).full(40)


def test_without_full_differences_rows_are_unjudged_and_nothing_is_forecast(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("llm_persona.instruments.projection_difference.generate", lambda *_: pytest.fail("wrote"))
    plan = ScreenPlan(full_rows=0)
    data = survey(write(tmp_path / "d.jsonl", kinds(4)), plan)
    found = screen(tiny, data, planted(tiny), LAYER, plan)
    assert {row["flagged"] for row in found["rows"]} == {None}
    assert (found["n_unjudged"], found["ranking"], found["forecast"]["direction"]) == (4, [], None)
    assert found["approximation"]["projection"]["spearman"] is None


def test_the_direction_turns_the_sign(tiny, tmp_path):
    path = write(tmp_path / "d.jsonl", kinds(12))
    vector = planted(tiny)
    plans = {d: ScreenPlan(0.01, d, max_new_tokens=3) for d in ("high", "low", "both")}
    found = {d: screen(tiny, survey(path, plan), vector, LAYER, plan) for d, plan in plans.items()}
    flagged = {d: {r["row"] for r in f["rows"] if r["flagged"]} for d, f in found.items()}
    assert flagged["high"] | flagged["low"] == flagged["both"]
    assert not flagged["high"] & flagged["low"]
    assert found["low"]["ranking"] == found["high"]["ranking"][::-1]


def test_planted_labels_are_told_apart_wholly(tiny, tmp_path):
    for n, (field, values) in enumerate({"a": (True, False), "b": (1, 0), "c": ("high", "low")}.items()):
        plan = ScreenPlan(max_new_tokens=3, labels=field)
        rows = [chat("q", (BAD, GOOD)[i % 2], **{field: values[i % 2]}) for i in range(10)]
        data = survey(write(tmp_path / f"{n}.jsonl", rows), plan)
        labels = screen(tiny, data, planted(tiny), LAYER, plan)["labels"]
        for form in ("projection_difference", "projection", "prompt_last"):
            assert labels[form]["auc"] == labels[form]["tpr_at_1_fpr"] == 1
            assert (labels[form]["n_positive"], labels[form]["n_negative"]) == (5, 5)
            assert labels[form]["false_positives"] == 0
    low = ScreenPlan(direction="low", labels="c")
    assert survey(tmp_path / "2.jsonl", low).labels.tolist() == [False, True] * 5


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


def test_a_file_that_changed_meanwhile_and_a_vector_that_is_zero_are_refused(tiny, tmp_path):
    path = write(tmp_path / "d.jsonl", kinds(2))
    data = survey(path, ScreenPlan())
    vector = planted(tiny)
    write(path, [chat("q0", "other"), chat("q1", "texts")])
    with pytest.raises(UserError, match="changed while it was screened"):
        screen(tiny, data, vector, LAYER, ScreenPlan(max_new_tokens=2))
    with pytest.raises(UserError, match="the vector is zero there"):
        screen(tiny, data, vector.with_direction(vector.directions * 0), LAYER)
    with pytest.raises(UserError, match="has layers 0 to 3"):
        screen(tiny, data, vector, 4)


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


@given(st.integers(0, 300), st.integers(0, 400), st.integers(0, 5))
def test_spread_takes_one_row_of_each_stretch(n, count, seed):
    places = np.flatnonzero(screening.spread(n, count, seed))
    k = min(n, count)
    assert len(places) == k
    for number, place in enumerate(places):
        assert number * n // k <= place < (number + 1) * n // k


def test_spread_meets_both_kinds_of_a_file_whose_kinds_alternate():
    assert 0.3 < (np.flatnonzero(screening.spread(10_000, 500)) % 2).mean() < 0.7


SCORED = st.lists(st.tuples(st.integers(-20, 20), st.booleans()), min_size=1, max_size=350)


@given(SCORED)
def test_the_true_positive_rate_is_the_best_that_one_percent_allows(pairs):
    scores, positive = np.array([s for s, _ in pairs], dtype=float), np.array([p for _, p in pairs])
    found = screening.true_positive_rate(scores, positive)
    if positive.all() or not positive.any():
        assert np.isnan(found)
        return
    bars = [-np.inf, *scores]
    allowed = [b for b in bars if (scores[~positive] > b).sum() * 100 <= (~positive).sum()]
    assert found == max((scores[positive] > b).mean() for b in allowed)


def test_the_true_positive_rate_by_hand():
    negatives, positives = np.arange(200.0), np.array([150.0, 197.5, 198.5, 300.0])
    scores, positive = np.r_[negatives, positives], np.r_[np.zeros(200, bool), np.ones(4, bool)]
    found = screening.separation(scores, positive, np.arange(204))
    assert found["false_positives"] == 2  # 198 and 199 may lie above the bar of 197
    assert found["tpr_at_1_fpr"] == 0.75
    assert found["auc"] == pytest.approx(float(auc(scores, positive)))
    assert found["auc_ci"][0] < found["auc"] < found["auc_ci"][1]
    assert (found["n_positive"], found["n_negative"]) == (4, 200)


def test_one_class_alone_gives_no_number():
    found = screening.separation(np.arange(5.0), np.ones(5, bool), np.arange(5))
    assert (found["auc"], found["tpr_at_1_fpr"], found["auc_ci"]) == (None, None, [None, None])


@given(st.floats(-5, 5), st.floats(-5, 5), st.integers(0, 100))
def test_calibration_finds_a_line(slope, intercept, seed):
    cheap = np.random.default_rng(seed).normal(size=30)
    full = np.where(np.arange(30) < 20, intercept + slope * cheap, np.nan)
    found = screening.calibrate(full, cheap)
    assert found.n == 20
    np.testing.assert_allclose(found.full(cheap), intercept + slope * cheap, atol=1e-9)
    assert screening.calibrate(full[15:], cheap[15:]) is None
    assert screening.calibrate(full, np.zeros(30)) is None


def test_the_forecast_names_a_direction_only_where_the_interval_excludes_zero():
    noise = np.random.default_rng(0).normal(size=200)
    groups = np.arange(200)
    for shift, direction, words in ((2.0, "up", "above"), (-2.0, "down", "below"), (0.0, None, "no clear forecast")):
        values = np.r_[noise - noise.mean() + shift, np.nan]
        found = screening.forecast(values, np.r_[groups, 200], 4.0, "openness")
        assert (found["direction"], found["n"]) == (direction, 200)
        assert words in found["sentence"]
        assert found["pole_gaps"] == pytest.approx(shift / 4)
        assert found["mean_ci"][0] < found["mean"] < found["mean_ci"][1]
    one = screening.forecast(np.array([3.0, 3.0]), np.array([0, 0]), 4.0, "openness")
    assert (one["direction"], one["mean_ci"]) == (None, [None, None])


def test_rows_of_one_prompt_are_drawn_together():
    values = np.repeat(np.random.default_rng(0).normal(size=20), 50)
    own, alone = (screening.forecast(values, g, 1.0, "x")["mean_ci"] for g in (np.repeat(np.arange(20), 50),
                                                                             np.arange(1000)))  # fmt: skip
    assert own[1] - own[0] > 4 * (alone[1] - alone[0])


def test_the_command_screens_exports_and_resumes(tmp_path, capsys, monkeypatch):
    folder = str(save_tiny_model(tmp_path / "model"))
    from llm_persona import load_subject

    subject = load_subject(folder)
    vector = planted(subject, {"recommended": {"balanced": 1}})
    vector.save(tmp_path / "v.safetensors")
    data = write(tmp_path / "d.jsonl", [*kinds(12), {"text": 1}])
    out, kept = tmp_path / "r.json", tmp_path / "kept.jsonl"
    command = ["screen", "--data", str(data), "--vector", str(tmp_path / "v.safetensors"), "--model", folder]
    monkeypatch.setattr(module, "PART", 5)
    measured, original = [], ProjectionDifference.measure

    def counted(self, subject, rows, wanted):
        if len(measured) == 2:
            measured.append("killed")
            raise KeyboardInterrupt
        measured.append(rows[0].prompt)
        return original(self, subject, rows, wanted)

    monkeypatch.setattr(ProjectionDifference, "measure", counted)
    whole = [*command, "--max-new-tokens", "4", "--json", str(out), "--export", str(kept)]
    assert run(whole) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert not out.exists() and not kept.exists()
    assert run(whole) == 0
    assert measured == ["q0", "q5", "killed", "q10"]  # the third part alone was left to do
    found = json.loads(out.read_text())
    check_schema("screen", found)
    assert {"trait", "layer", "rows", "forecast", "approximation", "ranking", "skipped"} <= found.keys()
    assert found["layer"] == 1
    assert {"row", "projection_difference", "projection", "prompt_last", "flagged"} <= found["rows"][0].keys()
    lines = data.read_bytes().splitlines(keepends=True)
    flagged = {row["row"] for row in found["rows"] if row["flagged"]}
    assert kept.read_bytes() == b"".join(line for n, line in enumerate(lines) if n not in flagged)
    printed = capsys.readouterr().out
    assert "forecast: the answers lie" in printed
    assert "1 rows cannot be used; the first: row 12" in printed
    labelled = write(tmp_path / "l.jsonl", kinds(12))
    command[2] = str(labelled)
    assert run([*command, "--layer", "2", "--max-new-tokens", "4", "--labels", "bad", "--direction", "both"]) == 0
    assert "TPR at 1% FPR" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "says"),
    [({"--data": "none.jsonl"}, "no such data file"), ({"--vector": "none"}, "no such vector file"),
     ({"--layer": "9"}, "has layers 0 to 3"), ({"--layer": "auto"}, "no recommended layer"),
     ({"--layer": "x"}, "not a number"), ({"--export": "d.jsonl"}, "the data file itself"),
     ({"--labels": "good"}, "no field 'good'"), ({"--full-rows": "2"}, "cannot be calibrated"),
     ({"--flag-at": "0"}, "--flag-at")],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_line_before_a_model_is_loaded(change, says, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "d.jsonl", kinds(12))
    PersonaVector(np.ones((4, 8), np.float32), np.ones(4, np.float32)).save(tmp_path / "v.safetensors")
    options = {"--data": "d.jsonl", "--vector": "v.safetensors", "--layer": "1", "--model": "no/such-model", **change}
    assert run(["screen", *(part for pair in options.items() for part in pair)]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert says in error[-1]

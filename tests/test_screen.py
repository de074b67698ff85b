"""Screening of chat data: the numbers by hand, in parts that survive a kill, flags, the cheap form, labels."""

from __future__ import annotations

import numpy as np
import pytest
from chats import BAD, GOOD, LAYER, chat, kinds, planted, write
from conftest import make_subject

from llm_persona.domain.errors import UserError
from llm_persona.domain.responses import Response
from llm_persona.instruments.projection_difference import EMPTY, ProjectionDifference
from llm_persona.studies import screen_parts as module
from llm_persona.studies.screen import ScreenPlan, screen, survey
from llm_persona.subject.generate import Answer, generate
from llm_persona.subject.record import record


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LLM_PERSONA_CACHE", str(tmp_path / "cache"))


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

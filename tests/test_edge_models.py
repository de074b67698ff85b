"""Models and texts at the edge: beyond the context, without numbers, without a chat template, padding or end token."""

from __future__ import annotations

import contextlib
import json

import numpy as np
import pytest
import torch
from conftest import make_subject, make_tokenizer, save_tiny_model
from reader import strict
from reader_inputs import ITEM

import llm_persona as lp
from llm_persona.domain.errors import Shortfall, TooLong, UserError
from llm_persona.domain.items import Items, parse_item
from llm_persona.domain.responses import Response, labelled
from llm_persona.domain.store import write_json
from llm_persona.domain.traits import Question, load_trait
from llm_persona.instruments.perplexity import Perplexity
from llm_persona.instruments.projection import Projection
from llm_persona.instruments.samples import Samples
from llm_persona.instruments.token_projection import TokenProjection
from llm_persona.instruments.trait_benchmark import MODES, evaluate
from llm_persona.interfaces.cli.main import run
from llm_persona.studies.extraction import extract
from llm_persona.studies.sources import item_sets, labelled_rows
from llm_persona.subject.chat import makeshifts, render_prompt
from llm_persona.subject.decode import decode
from llm_persona.subject.generate import generate
from llm_persona.subject.packing import BEYOND, Row

ODD = (
    "שלום עולם \u202eabc\u202c",
    "👩‍👩‍👧‍👦 🙂",
    "\x1b[31mred\x1b[0m \x07\x00",
    "e\u0301 \ufeff \u2028",
    "=1+1",
    "<b>{query}</b>",
)


def item(n=0, **change):
    return parse_item({**ITEM, "split": "test", **change}, "here", str(n))


@pytest.fixture(scope="module")
def items():
    """A fair item, one whose situation and one of which a response is beyond 512 tokens."""
    return [item(idx="fair"), item(idx="long", situation="It rains. " * 100),
            item(idx="wordy", response_low2="I read on. " * 100)]  # fmt: skip


@pytest.fixture
def broken():
    """A tiny model whose weights yield NaN."""
    subject = make_subject()
    with torch.no_grad():
        subject.model.lm_head.weight.fill_(float("nan"))
    return subject


@pytest.mark.parametrize("mode", MODES)
def test_an_item_beyond_the_context_is_unscored_and_the_others_are_as_without_it(tiny, items, mode):
    found = evaluate(tiny, items, mode)
    for row in found.rows[1:]:
        assert "unscored" in row
        assert BEYOND in row["unscored"]
    assert found.rows[:1] == evaluate(tiny, items[:1], mode).rows
    assert found.summary["n_unscored"] == found.summary["n"] - ("unscored" not in found.rows[0])
    nothing = evaluate(tiny, items[1:], mode).summary
    assert (nothing["score"], nothing["n_unscored"]) == (None, 2)


def test_a_prompt_beyond_the_context_has_no_answer_and_says_so(tiny):
    short, long = generate(tiny, ["What now?", "word " * 500], max_new_tokens=4)
    assert short == generate(tiny, ["What now?"], max_new_tokens=4)[0]
    assert (long.text, long.tokens) == ("", 0)
    assert "longer than the model's context of 512 tokens, 4 new ones included" in long.failed
    with pytest.raises(UserError, match="exceed the model's 512; shorten"):
        generate(tiny, ["word " * 500], max_new_tokens=4)


def test_a_text_beyond_the_context_is_left_out_of_the_perplexity_and_counted(tiny):
    fair = Row("Write.", "A short passage about bread.")
    found = Perplexity([fair, Row("Write.", "bread " * 500)]).measure(tiny)
    assert found.summary["perplexity"] == Perplexity([fair]).measure(tiny).summary["perplexity"]
    assert (found.summary["n"], found.summary["n_unscored"]) == (1, 1)
    assert found.rows[1] == {"perplexity": None, "tokens": 0, "unscored": BEYOND}


def test_a_question_with_a_row_beyond_the_context_is_not_recorded_and_listed(tiny, items, tmp_path):
    """The whole question goes, so that the poles stay balanced; every other row is as without it."""
    rows = labelled([items[0], items[2]])
    with pytest.warns(Shortfall, match="4 of 8 rows left out: 1 questions have a row longer than the model's context"):
        acts = lp.record(tiny, rows)
    np.testing.assert_array_equal(acts.values, lp.record(tiny, rows[:4]).values)
    assert acts.poles == [r.pole for r in rows[:4]]
    assert acts.kept(rows) == rows[:4]
    assert [(left.row, left.pole, left.itself) for left in acts.left_out] == [
        (n, rows[n].pole, "low" in rows[n].pole and "I read on" in rows[n].text) for n in range(4, 8)
    ]
    assert {left.reason for left in acts.left_out} == {BEYOND}
    acts.save(tmp_path / "acts.safetensors")
    assert lp.Activations.load(tmp_path / "acts.safetensors").left_out == acts.left_out


def test_a_row_of_neither_pole_is_left_out_alone(tiny):
    rows = [Response("Why?", text, "neutral", "one") for text in ("Since it rains.", "word " * 500, "It does.")]
    with pytest.warns(Shortfall, match="1 of 3 rows"):
        acts = lp.record(tiny, rows)
    assert [left.row for left in acts.left_out] == [1]


def test_where_no_row_is_within_the_context_recording_says_what_to_do(tiny, items):
    with pytest.raises(TooLong, match=r"4 of 4 rows left out.*512 tokens; shorten them, or take a model that reads"):
        lp.record(tiny, labelled(items[1:2]))


def test_an_answer_beyond_the_reader_s_context_is_unscored_and_has_no_projection(tiny, items):
    vector = lp.fit(lp.record(tiny, labelled(items[:1])))
    rows = [Response("Why?", text, "neutral", str(n)) for n, text in enumerate(("word " * 500, "Since it rains."))]
    found = Projection(rows, vector, 1).measure(tiny)
    assert found.rows[0] == {"group": "0", "projection": None, "unscored": BEYOND}
    assert found.rows[1:] == Projection(rows[1:], vector, 1).measure(tiny).rows
    assert (found.summary["n"], found.summary["n_unscored"]) == (1, 1)
    assert Projection(rows[:1], vector, 1).measure(tiny).summary["projection"] is None
    tokens = TokenProjection(rows, vector, 1).measure(tiny).rows
    assert tokens[0] == {"group": "0", "tokens": [], "unscored": BEYOND}
    assert tokens[1]["tokens"]


def test_a_question_that_leaves_no_room_for_an_answer_is_unscored_and_counts_in_no_mean(tiny):
    texts = {"short": "What now?", "long": "word " * 500}
    short, long = (Question(id=name, split="test", text=text) for name, text in texts.items())
    both, alone = (Samples(asked, 4).measure(tiny) for asked in ([short, long], [short]))
    assert both.rows[:1] == alone.rows
    assert BEYOND in both.rows[1]["unscored"]
    assert both.summary["beyond_context"] == 1
    assert all(both.summary[what] == alone.summary[what] for what in ("mean_tokens", "finished", "distinct_2"))
    nothing = Samples([long], 4).measure(tiny)
    assert [nothing.summary[what] for what in ("mean_tokens", "finished", "distinct_2")] == [None] * 3


def test_scores_of_a_model_that_yields_nan_are_unscored_with_the_reason(broken, tmp_path):
    for mode in ("likelihood", "choice"):
        found = evaluate(broken, [item(0), item(1)], mode)
        assert found.summary["n_unscored"] == 2
        assert (found.summary["score"], found.summary["preference"]) == (None, None)
        write_json(tmp_path / "out.json", found)
        assert strict(tmp_path / "out.json")["rows"][0]["unscored"]


def test_a_model_that_yields_nan_does_not_write(broken):
    with pytest.raises(UserError, match="not finite"):
        generate(broken, ["What now?"], 4)
    with pytest.raises(UserError, match="not finite"):
        generate(broken, ["What now?"], 4, temperature=1.0)
    with pytest.raises(UserError, match="not finite"):
        list(decode(broken, render_prompt(broken, "What now?"), 4))
    assert evaluate(make_subject(), [item(0)], "likelihood").summary["n_unscored"] == 0


def test_activations_that_are_nan_are_refused(broken):
    with torch.no_grad():
        broken.model.model.layers[1].mlp.down_proj.weight.fill_(float("inf"))
    with pytest.raises(UserError, match="NaN or infinity; try --dtype float32"):
        lp.record(broken, labelled([item(0)]))


@pytest.mark.parametrize("text", ODD)
def test_odd_texts_are_read_scored_and_answered(tiny, text, tmp_path):
    odd = item(0, situation=text, response_high1=f"{text} yes", response_low1=f"{text} no")
    for mode in ("likelihood", "choice", "generate"):
        found = evaluate(tiny, [odd], mode)
        write_json(tmp_path / "out.json", found.rows)
        assert [row["id"] for row in strict(tmp_path / "out.json")] == [odd.id]
    assert lp.record(tiny, labelled([odd])).values.shape[0] == 4


def test_items_that_are_all_alike_are_ties(tiny):
    same = dict.fromkeys(("response_high1", "response_high2", "response_low1", "response_low2"), "The same.")
    found = evaluate(tiny, [item(0, **same)])
    assert found.summary["n_unscored"] == 1
    assert "tie" in found.rows[0]["unscored"]
    acts = lp.record(tiny, labelled([item(n, query=f"What {n}?", **same) for n in range(3)]))
    quality = lp.assess(acts, permutations=20)
    assert quality.layers[0].band == "poor"
    assert not lp.fit(acts).norms.any() or np.isfinite(lp.fit(acts).norms).all()


def test_questions_beyond_the_context_are_left_out_of_a_vector_and_listed(tiny):
    fair = [item(n, query=f"What {n}?", split=split) for n, split in enumerate(("fit", "select", "test") * 2)]
    long = item(9, situation="It rains. " * 100, split="fit")
    trait = load_trait("openness")

    def extracted(items):
        sets = item_sets(Items(items, "here"), trait, second=0, transfer=0)
        return extract(lambda: tiny, tiny.identity, "openness", labelled_rows(sets), sets.choosing, layers=1)

    with pytest.warns(Shortfall, match="4 of 12 rows"):
        found = extracted([*fair, long])
    without = extracted(fair)
    np.testing.assert_array_equal(found.vector.directions, without.vector.directions)
    assert found.vector.meta["items"] == without.vector.meta["items"]
    assert found.controls["lexical_auc"] == without.controls["lexical_auc"]
    left = found.as_json()["left_out"]
    assert {name: len(rows) for name, rows in left.items()} == {"fit": 4}
    assert left["fit"][0]["prompt"].startswith("It rains. It rains.")
    assert without.as_json()["left_out"] == {}
    with pytest.raises(UserError, match=r"openness, split 'fit': 4 of 4 rows left out.*512 tokens"):
        extracted([*(i for i in fair if i.split != "fit"), long])


def test_the_command_that_extracts_a_vector_says_which_questions_are_left_out(tiny_folders, tmp_path, capsys):
    fair = [{**ITEM, "idx": n, "query": f"What {n}?", "split": s} for n, s in enumerate(("fit", "select", "test") * 2)]
    long = {**ITEM, "idx": "long", "situation": "Here it rains. " * 1000, "split": "test"}
    (tmp_path / "items.json").write_text(json.dumps([*fair, long]))
    out = tmp_path / "out.json"
    arguments = ["--items", str(tmp_path / "items.json"), "--sweep-layers", "1", "--limit", "4"]
    assert run(["vectors", "extract", "--trait", "openness", "--model", tiny_folders[0], "--dtype", "float32",
                "--out", str(tmp_path / "v.safetensors"), "--json", str(out), *arguments]) == 0  # fmt: skip
    found = strict(out)
    assert (found["n_items_too_long"], found["n_groups"]) == (1, 2)
    assert [row["pole"] for row in found["left_out"]["test"]] == [r.pole for r in labelled([item(0)])]
    assert "1 questions (4 rows of both poles) of the test rows are left out" in capsys.readouterr().out


@contextlib.contextmanager
def lacking(folder, **change):
    """A model folder whose tokenizer lacks something."""
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in {**config, **change}.items() if v is not None}))
    yield str(folder)


def test_a_tokenizer_without_template_padding_and_end_is_used_and_what_is_done_instead_is_said(tmp_path, capsys):
    folder = save_tiny_model(tmp_path / "bare")
    (folder / "chat_template.jinja").unlink()
    for name in ("generation_config.json", "special_tokens_map.json"):
        (folder / name).unlink(missing_ok=True)
    with lacking(folder, eos_token=None, pad_token=None, chat_template=None) as model:
        subject = lp.load_subject(model, dtype="float32")
        if subject.tokenizer.eos_token_id is None and not makeshifts(subject)[1:]:
            subject.model.generation_config.eos_token_id = None
        said = makeshifts(subject)
        assert "no chat template" in said[0]
        assert subject.tokenizer.pad_token_id is not None
        answers = generate(subject, ["What now?", "And then, after that?"], 4)
        assert [a.text for a in answers[:1]] == [a.text for a in generate(subject, ["What now?"], 4)]
        assert evaluate(subject, [item(0)]).summary["n_unscored"] == 0
        assert run(["steer", "--model", model, "--prompt", "Hello?", "--max-new-tokens", "3"]) == 0
        assert "note: the tokenizer has no chat template" in capsys.readouterr().err


def test_a_chat_model_needs_no_makeshift(tiny):
    assert makeshifts(tiny) == []
    without = make_subject(template=None)
    assert len(makeshifts(without)) == 1
    assert make_tokenizer().pad_token_id is not None


@pytest.mark.parametrize(
    ("name", "content"),
    [("empty.json", b""), ("empty.jsonl", b""), ("latin.json", '[{"situation": "é"}]'.encode("latin-1")),
     ("utf16.json", "[]".encode("utf-16")), ("no.parquet", b""), ("folder.json", None)],
)  # fmt: skip
def test_files_that_are_none_end_in_one_line_before_a_model_is_loaded(name, content, tmp_path, capsys):
    path = tmp_path / name
    path.mkdir() if content is None else path.write_bytes(content)
    assert run(["evaluate", "--items", str(path), "--model", "no/such-model-here"]) == 2
    said = capsys.readouterr().err
    assert name in said
    assert said.count("\n") == 1


def test_one_item_is_measured_through_the_command_with_what_cannot_be_told_as_null(tiny_folders, tmp_path):
    (tmp_path / "one.json").write_text(json.dumps([{**ITEM, "situation": f"{ODD[0]} {ODD[1]} It rains."}]))
    out = tmp_path / "out.json"
    arguments = ["evaluate", "--items", str(tmp_path / "one.json"), "--model", tiny_folders[0], "--json", str(out)]
    assert run(arguments) == 0
    found = strict(out)["traits"]["openness"]
    assert (found["n"], found["n_unscored"], found["preference_ci"]) == (1, 0, [None, None])

"""What a fine-tuning did: author and reader told apart, the rule of a verdict, and a whole audit of a tiny model."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from clusters import Here
from conftest import save_tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st
from markupsafe import escape
from schemas import check_schema

import llm_persona as lp
from llm_persona.analysis.agreement import matrix_agreement
from llm_persona.analysis.paired import paired_shift
from llm_persona.analysis.shift import Moved, author_and_reader, spread, verdict
from llm_persona.domain.condition import tuned
from llm_persona.domain.errors import UserError
from llm_persona.domain.items import Items
from llm_persona.domain.responses import Response
from llm_persona.domain.traits import load_trait
from llm_persona.instruments.trait_benchmark import TraitBenchmark
from llm_persona.interfaces.cli.main import run
from llm_persona.studies.audit import AuditPlan, TunedModel, audit
from llm_persona.training.data import from_items
from llm_persona.training.finetune import finetune
from llm_persona.training.recipe import PERSONA, Recipe, adjusted

numbers = st.floats(-50, 50, allow_nan=False)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(numbers, numbers, numbers), min_size=2, max_size=12))
def test_where_writing_and_reading_add_up_nothing_is_left_over(rows):
    """With y[reader][author] = start + author + reader the residual is zero and the parts are what was put in."""
    start = {str(n): a for n, (a, _, _) in enumerate(rows)}
    written = {str(n): a + b for n, (a, b, _) in enumerate(rows)}
    read = {str(n): a + c for n, (a, _, c) in enumerate(rows)}
    own = {str(n): a + b + c for n, (a, b, c) in enumerate(rows)}
    found = author_and_reader(start, written, read, own)
    assert found["author"] == pytest.approx(np.mean([b for _, b, _ in rows]), abs=1e-9)
    assert found["reader"] == pytest.approx(np.mean([c for _, _, c in rows]), abs=1e-9)
    assert found["residual"] == pytest.approx(0, abs=1e-9)
    assert found["both"] == pytest.approx(found["author"] + found["reader"], abs=1e-9)


def test_questions_that_one_of_the_four_lacks_are_left_out():
    found = author_and_reader({"a": 0.0, "b": 5.0}, {"a": 1.0}, {"a": 0.0, "b": 0.0}, {"a": 1.0, "b": 9.0})
    assert (found["n"], found["author"]) == (1, 1.0)


CLEAR, UNCLEAR = 0.001, 0.4


@pytest.mark.parametrize(
    ("seeds", "control", "said"),
    [
        ([(0.2, CLEAR)] * 3, [0.01, -0.02], "shifted up"),
        ([(-0.2, CLEAR)] * 3, [0.01], "shifted down"),
        ([(0.2, CLEAR)] * 3, [0.01, -0.25], "no more than the control"),
        ([(0.2, CLEAR), (0.2, CLEAR), (0.05, CLEAR)], [0.06], "no more than the control"),
        ([(0.2, CLEAR)] * 3, None, "indicative: up"),
        ([(-0.2, CLEAR)], [0.01], "indicative: down"),
        ([(0.2, CLEAR), (-0.2, CLEAR), (0.2, CLEAR)], [0.01], "seeds disagree"),
        ([(0.2, CLEAR), (0.1, UNCLEAR), (0.2, CLEAR)], [0.01], "seeds disagree"),
        ([(0.2, UNCLEAR)] * 3, [0.01], "no shift shown"),
    ],
)
def test_a_verdict_follows_the_printed_rule(seeds, control, said):
    assert verdict([Moved(shift, p) for shift, p in seeds], control) == said


def test_the_spread_of_three_seeds_has_the_t_interval_and_of_two_none():
    found = spread([1.0, 2.0, 3.0])
    assert found["mean"] == 2 and found["sd"] == pytest.approx(1)
    assert found["ci"] == pytest.approx([2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5], abs=1e-4)
    assert spread([1.0, 2.0])["ci"] == [None, None]


def test_agreement_is_the_rank_correlation_over_the_cells_that_both_have():
    a = np.arange(12.0).reshape(3, 4)
    b = a**3
    b[0, 0] = np.nan
    found = matrix_agreement(a, b)
    assert found["spearman"] == pytest.approx(1) and found["n"] == 11
    assert matrix_agreement(a, -a)["spearman"] == pytest.approx(-1)
    assert matrix_agreement(a, np.ones((3, 4)))["spearman"] is None


def test_the_interval_of_agreement_knows_that_cells_of_a_row_go_together():
    """Rows that move as one: twelve cells, but only three independent models."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((2, 6, 1))
    a, b = rows[0] + 0.05 * rng.standard_normal((6, 8)), rows[1] + 0.05 * rng.standard_normal((6, 8))
    low, high = matrix_agreement(a, b)["spearman_ci"]
    assert high - low > 0.9


@pytest.fixture(scope="module")
def tuned_tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("audit")
    model = save_tiny_model(folder / "model")
    subject = lp.load_subject(str(model), dtype="float32")
    items = Items(load_trait("openness").bank, "bank").split("fit")[:6]
    recipe = adjusted(PERSONA, epochs=6, learning_rate=1e-2)
    for seed in range(2):
        finetune(subject, from_items(items, "high"), folder / "high" / f"seed-{seed}", recipe, seed)
    finetune(subject, from_items(items[:1], "low"), folder / "benign", Recipe(rank=1, epochs=1, learning_rate=1e-6))
    return folder


PLAN = AuditPlan(("openness", "machiavellianism"), items=6, fit_items=6, questions=3, max_new_tokens=6)


def models(folder):
    return [
        TunedModel("high/seed-0", "high", adapter=str(folder / "high" / "seed-0")),
        TunedModel("high/seed-1", "high", adapter=str(folder / "high" / "seed-1")),
        TunedModel("benign", "benign", adapter=str(folder / "benign"), control=True),
    ]


@pytest.fixture(scope="module")
def audited(tuned_tiny):
    return audit(str(tuned_tiny / "model"), models(tuned_tiny), PLAN, tuned_tiny / "out", "float32")


def test_an_audit_has_every_trait_and_model_with_interval_and_verdict(audited):
    for trait in audited["traits"].values():
        for found in trait["tuned"].values():
            assert {"score_shift", "score_shift_ci", "p_value", "p_holm", "vector_cosine", "verdict"} <= found.keys()
            assert {"layer", "both", "author", "reader", "residual"} <= found["projection"].keys()
            assert len(found["layer_profile"]["own_answers"]) == len(found["layer_profile"]["fixed_texts"]) == 4
            assert len(found["samples"]) == 3
    assert audited["matrix"]["rows"] == ["high", "benign"]
    assert audited["agreement"]["both"]["n"] == 4
    assert len(audited["sentences"]) == 3
    assert "can be clear of zero: measure more" in audited["sentences"][2]


def test_the_shift_in_an_audit_is_that_of_the_benchmark_measured_by_hand(audited, tuned_tiny):
    subject = lp.load_subject(str(tuned_tiny / "model"), dtype="float32")
    items = Items(load_trait("openness").bank, "bank").split("test")[:6]
    before = TraitBenchmark(items).measure(subject).rows
    with subject.under(tuned(str(tuned_tiny / "high" / "seed-1"))):
        after = TraitBenchmark(items).measure(subject).rows
    by_hand = paired_shift(after, before)
    found = audited["traits"]["openness"]["tuned"]["high/seed-1"]
    assert found["preference_shift"] == pytest.approx(by_hand["preference_shift"], abs=1e-6)
    assert found["p_value"] == by_hand["p_value"]


def test_author_and_reader_are_what_the_two_models_read(audited, tuned_tiny):
    subject = lp.load_subject(str(tuned_tiny / "model"), dtype="float32")
    trait = load_trait("openness")
    bank = Items(trait.bank, "bank")
    vector = lp.fit(lp.record(subject, lp.labelled(bank.split("fit")[:6])))
    layer = audited["traits"]["openness"]["layer"]
    questions = [q.text for q in trait.questions_of("test")[:3]]
    adapter = tuned(str(tuned_tiny / "high" / "seed-0"))
    own = [a.text for a in lp.generate(subject, questions, max_new_tokens=6)]
    with subject.under(adapter):
        written = [a.text for a in lp.generate(subject, questions, max_new_tokens=6)]
    both = [n for n in range(3) if own[n] and written[n]]

    def read(texts):
        rows = [Response(questions[n], texts[n], "neutral", str(n)) for n in both]
        return float((lp.record(subject, rows).values[:, layer] @ vector.unit(layer)).mean())

    start, author = read(own), read(written)
    with subject.under(adapter):
        reader = read(own)
    found = audited["traits"]["openness"]["tuned"]["high/seed-0"]["projection"]
    assert found["n"] == len(both) > 0
    assert found["reader"] == pytest.approx(reader - start, abs=1e-4)
    assert found["author"] == pytest.approx(author - start, abs=1e-4)


def test_a_model_that_did_not_change_shows_no_shift_and_the_same_vector(audited):
    for trait in audited["traits"].values():
        benign = trait["tuned"]["benign"]
        assert benign["vector_cosine"] == pytest.approx(1, abs=1e-3)
        assert benign["projection"]["fixed_texts"] == pytest.approx(0, abs=1e-2)


def test_a_finished_audit_measures_nothing_again_and_one_more_model_only_itself(audited, tuned_tiny, monkeypatch):
    monkeypatch.setattr("llm_persona.studies.lab.load_subject", lambda *_, **__: pytest.fail("loaded the model"))
    again = audit(str(tuned_tiny / "model"), models(tuned_tiny), PLAN, tuned_tiny / "out", "float32")
    assert json.dumps(again["traits"], sort_keys=True) == json.dumps(audited["traits"], sort_keys=True)


def test_an_audit_made_ahead_model_by_model_is_the_audit_of_one_process(audited, tuned_tiny, tmp_path):
    said: list[str] = []
    given = (str(tuned_tiny / "model"), models(tuned_tiny), PLAN)
    assert audit(*given, tmp_path, "float32", executor=Here(), said=said.append) == audited
    assert said == [f"auditing {m.name}: done" for m in models(tuned_tiny)]
    assert stage_names(tmp_path) == stage_names(tuned_tiny / "out")


def stage_names(folder):
    return sorted(p.name for p in (folder / "stages").glob("*.json"))


def test_the_command_audits_a_folder_of_seeds_and_writes_page_and_json(tuned_tiny, capsys):
    out = tuned_tiny / "cli"
    code = run(
        ["audit", "--model", str(tuned_tiny / "model"), "--dtype", "float32", "--adapter", str(tuned_tiny / "high"),
         "--control", str(tuned_tiny / "benign"), "--tuned", f"whole={tuned_tiny / 'model'}", "--trait", "openness",
         "--limit", "4", "--questions", "2", "--max-new-tokens", "4", "--out", str(out), "--json", str(out / "a.json")]
    )  # fmt: skip
    assert code == 0
    result = json.loads((out / "a.json").read_text())
    check_schema("audit", result)
    assert set(result["tuned"]) == {"high/seed-0", "high/seed-1", "whole", "benign"}
    assert result["traits"]["openness"]["tuned"]["whole"]["preference_shift"] == 0
    page = (out / "audit.html").read_text()
    assert str(escape(result["rule"])) in page
    assert not re.search(r'(src|href)="(?!#|data:)', page)
    assert "rule:" in capsys.readouterr().out


def test_what_cannot_be_audited_is_named(tuned_tiny, capsys, tmp_path):
    base = ["audit", "--model", str(tuned_tiny / "model"), "--out", str(tmp_path / "o")]
    assert run(base) == 2
    assert "--adapter" in capsys.readouterr().err
    assert run([*base, "--adapter", str(tmp_path)]) == 2
    assert "adapter_config.json" in capsys.readouterr().err
    with pytest.raises(UserError, match="two tuned models are called"):
        audit(str(tuned_tiny / "model"), models(tuned_tiny)[:1] * 2, PLAN, tmp_path / "x")


def test_a_tuned_model_may_not_take_the_name_of_the_base(tuned_tiny, tmp_path):
    with pytest.raises(UserError, match="called 'base'"):
        audit(
            str(tuned_tiny / "model"), [TunedModel("base", "base", adapter=str(tuned_tiny / "benign"))], PLAN, tmp_path
        )


def test_a_vector_from_other_rows_is_not_mistaken_for_a_changed_one(tuned_tiny, tmp_path):
    """With vector files given, the vector after tuning is compared with one of the same rows before."""
    subject = lp.load_subject(str(tuned_tiny / "model"), dtype="float32")
    items = Items(load_trait("openness").bank, "bank").split("fit")[10:30]
    vector = lp.fit(lp.record(subject, lp.labelled(items)), {"recommended": {"balanced": 2}})
    vector.save(tmp_path / "v" / "openness.safetensors")
    plan = AuditPlan(("openness",), str(tmp_path / "v"), items=4, fit_items=4, questions=2, max_new_tokens=4)
    found = audit(str(tuned_tiny / "model"), models(tuned_tiny)[2:], plan, tmp_path / "out", "float32")
    benign = found["traits"]["openness"]["tuned"]["benign"]
    assert benign["vector_cosine"] == pytest.approx(1, abs=1e-3)
    assert benign["vector"]["norm_ratio"] == pytest.approx(1, abs=1e-2)
    assert found["traits"]["openness"]["pole_gap"] == pytest.approx(float(vector.norms[2]), rel=1e-5)

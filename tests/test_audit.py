"""A whole audit of a tiny model: its figures by hand, and what it measures again and what not."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from clusters import Here
from reporters import Counting
from tuned_models import PLAN, models

import llm_persona as lp
from llm_persona.analysis.paired import paired_shift, perplexity_ratio
from llm_persona.analysis.stats import holm
from llm_persona.domain.condition import tuned
from llm_persona.domain.errors import UserError
from llm_persona.domain.items import Items
from llm_persona.domain.responses import Response
from llm_persona.domain.traits import load_trait
from llm_persona.instruments.trait_benchmark import TraitBenchmark
from llm_persona.interfaces.cli.main import run
from llm_persona.studies.audit import AuditPlan, TunedModel, audit, expected_stages
from llm_persona.studies.audit_page import write_audit_page


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


SMALL = AuditPlan(("openness", "machiavellianism"), items=2, fit_items=2, questions=2, max_new_tokens=2)


@pytest.mark.parametrize("reextract", [True, False])
@pytest.mark.parametrize("vectors", ["fitted", "with a layer of their own", "without one"])
@pytest.mark.parametrize("count", [1, 3])
def test_the_count_of_stages_is_that_announced_from_first_to_last(tuned_tiny, tmp_path, vectors, reextract, count):
    meta = {"recommended": {"balanced": 1}} if vectors == "with a layer of their own" else {}
    if vectors != "fitted":
        for name in SMALL.traits:
            made = lp.PersonaVector(np.ones((4, 32), np.float32), np.ones(4, np.float32), {"trait": name, **meta})
            made.save(tmp_path / f"{name}.safetensors")
    plan = replace(SMALL, reextract=reextract, vectors=None if vectors == "fitted" else str(tmp_path))
    chosen = models(tuned_tiny)[-count:]
    reporter = Counting(expected_stages(plan, chosen))
    audit(str(tuned_tiny / "model"), chosen, plan, tmp_path / "out", "float32", reporter=reporter)
    assert reporter.worst <= 0
    assert reporter.done == reporter.total


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


def test_each_quantity_that_is_tested_is_corrected_over_all_cells(audited):
    for raw, corrected, read in (
        ("p_value", "p_holm", lambda f: f),
        ("score_p_value", "score_p_holm", lambda f: f),
        ("both_p_value", "both_p_holm", lambda f: f["projection"]),
    ):
        found = [read(f) for t in audited["traits"].values() for f in t["tuned"].values()]
        assert [f[corrected] for f in found] == holm([f[raw] for f in found])
        assert all(f[corrected] >= f[raw] for f in found)
    assert "The preference alone decides" in audited["multiplicity"]


def test_the_ratio_of_perplexities_weighs_tokens_alike_and_resamples_passages(audited):
    base = [{"perplexity": 10.0, "tokens": 30}, {"perplexity": 20.0, "tokens": 10}, {"perplexity": None, "tokens": 0,
                                                                                     "unscored": "x"}]  # fmt: skip
    tuned_rows = [{"perplexity": 20.0, "tokens": 30}, {"perplexity": 20.0, "tokens": 10}, base[2]]
    found = perplexity_ratio(tuned_rows, base)
    assert found["ratio"] == pytest.approx(2**0.75) and found["n"] == 2
    assert found["ci"][0] < found["ratio"] < found["ci"][1]
    assert perplexity_ratio(tuned_rows[:1], base[:1])["ci"] == [None, None]
    for m in audited["tuned"].values():
        low, high = m["perplexity_ratio_ci"]
        assert low <= m["perplexity_ratio"] <= high


def test_an_audit_that_an_earlier_version_measured_goes_on_without_reading_again(
    audited, tuned_tiny, tmp_path, monkeypatch
):
    shutil.copytree(tuned_tiny / "out", tmp_path / "out")
    gone = list((tmp_path / "out" / "stages").glob("*by_question*"))
    assert len(gone) == 2 * 4  # traits x models, the base among them
    for path in gone:
        path.unlink()
    monkeypatch.setattr("llm_persona.studies.lab.load_subject", lambda *_, **__: pytest.fail("loaded the model"))
    again = audit(str(tuned_tiny / "model"), models(tuned_tiny), PLAN, tmp_path / "out", "float32")
    found, before = (a["traits"]["openness"]["tuned"]["high/seed-0"] for a in (again, audited))
    assert found["layer_profile"]["fixed_texts_ci"] is None and found["vector_cosine_ci"] == [None, None]
    assert found["vector"]["auc_change"] is None
    for kept in ("vector_cosine", "p_holm", "preference_shift_ci", "projection"):
        assert found[kept] == before[kept]
    assert "no interval" in write_audit_page(tmp_path / "out").read_text(encoding="utf-8")

"""What a fine-tuning did: author and reader told apart, the rule of a verdict, and a whole audit of a tiny model."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace

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
from llm_persona.analysis.paired import paired_shift, perplexity_ratio
from llm_persona.analysis.shift import Moved, author_and_reader, spread, verdict
from llm_persona.analysis.stats import holm, mean_estimate
from llm_persona.analysis.vector_change import cosine_interval, pole_sums, reading_change
from llm_persona.domain.condition import tuned
from llm_persona.domain.errors import UserError
from llm_persona.domain.formats import sealed
from llm_persona.domain.items import Items
from llm_persona.domain.responses import Response
from llm_persona.domain.traits import load_trait
from llm_persona.instruments.trait_benchmark import TraitBenchmark
from llm_persona.interfaces.cli.main import run
from llm_persona.studies.audit import AuditPlan, TunedModel, audit
from llm_persona.studies.audit_page import write_audit_page
from llm_persona.studies.audit_summary import _sentences
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


def by_hand(folder, name):
    """Base and one tuned model reading the openness items: test and fit activations of both, by hand."""
    subject = lp.load_subject(str(folder / "model"), dtype="float32")
    bank = Items(load_trait("openness").bank, "bank")
    rows = [lp.labelled(bank.split(part)[:6]) for part in ("test", "fit")]
    base = [lp.record(subject, r) for r in rows]
    with subject.under(tuned(str(folder / name))):
        return base, [lp.record(subject, r) for r in rows]


@pytest.fixture(scope="module")
def read_late(tuned_tiny):
    """Read at the last layer, above all that the adapter changes (the one that the tiny model recommends is below)."""
    subject = lp.load_subject(str(tuned_tiny / "model"), dtype="float32")
    rows = lp.labelled(Items(load_trait("openness").bank, "bank").split("fit")[:6])
    vector = lp.fit(lp.record(subject, rows), {"recommended": {"balanced": 3}})
    vector.save(tuned_tiny / "late" / "openness.safetensors")
    plan = replace(PLAN, traits=("openness",), vectors=str(tuned_tiny / "late"))
    return audit(str(tuned_tiny / "model"), models(tuned_tiny)[:1], plan, tuned_tiny / "out-late", "float32")


def test_the_vector_extracted_again_and_its_reading_are_those_computed_by_hand(read_late, tuned_tiny):
    trait = read_late["traits"]["openness"]
    layer, found = trait["layer"], trait["tuned"]["high/seed-0"]
    (base_test, base_fit), (test, fit_rows) = by_hand(tuned_tiny, "high/seed-0")
    before, after = lp.fit(base_fit), lp.fit(fit_rows)
    cosine = float(before.unit(layer) @ after.unit(layer))
    assert found["vector_cosine"] == pytest.approx(cosine, abs=1e-5) and cosine < 0.999
    low, high = found["vector_cosine_ci"]
    assert low < cosine <= high <= 1
    v = found["vector"]
    reads = {"before": (base_test, before), "after": (test, after)}
    for moment, (acts, vector) in reads.items():
        quality = lp.assess(acts, vector, permutations=1).layers[layer]
        assert v[f"auc_{moment}"] == pytest.approx(quality.auc, abs=1e-6)
        assert v[f"auc_{moment}_ci"] == pytest.approx(list(quality.auc_ci), abs=1e-6)
        assert v[f"separation_{moment}"] == pytest.approx(quality.separation, abs=1e-4)
        assert v[f"separation_{moment}_ci"] == pytest.approx(list(quality.separation_ci), abs=1e-4)
    assert v["separation_change"] == pytest.approx(v["separation_after"] - v["separation_before"], abs=1e-4)
    assert v["separation_change_ci"][0] < v["separation_change"] < v["separation_change_ci"][1]
    assert v["auc_change"] == pytest.approx(v["auc_after"] - v["auc_before"], abs=1e-6)
    assert v["auc_change_ci"][0] <= v["auc_change"] <= v["auc_change_ci"][1]
    of_base = lp.assess(test, before, permutations=1).layers[layer]
    assert v["auc_of_the_base_vector_after"] == pytest.approx(of_base.auc, abs=1e-6)
    assert v["auc_of_the_base_vector_after_ci"] == pytest.approx(list(of_base.auc_ci), abs=1e-6)
    assert trait["auc_before_ci"] == pytest.approx(v["auc_before_ci"], abs=1e-6)  # (one vector, the bank's)


def test_fixed_texts_and_the_layer_profile_are_those_computed_by_hand(read_late, tuned_tiny):
    trait = read_late["traits"]["openness"]
    layer, found = trait["layer"], trait["tuned"]["high/seed-0"]
    (base_test, base_fit), (test, _) = by_hand(tuned_tiny, "high/seed-0")
    vector = lp.fit(base_fit)
    shift = np.stack([(test.values[:, k] - base_test.values[:, k]) @ vector.unit(k) for k in range(4)], axis=1)
    profile = found["layer_profile"]
    np.testing.assert_allclose(profile["fixed_texts"], shift.mean(axis=0), atol=1e-4)
    by_item = shift.reshape(6, 4, 4).mean(axis=1)  # four responses an item, in order
    for k, ends in enumerate(profile["fixed_texts_ci"]):
        assert ends == pytest.approx(mean_estimate(by_item[:, k]).ci, abs=1e-4)
    assert np.abs(profile["fixed_texts"]).max() > 0.01
    p = found["projection"]
    assert p["fixed_texts"] == pytest.approx(profile["fixed_texts"][layer], abs=1e-4)
    assert p["fixed_texts_ci"] == pytest.approx(profile["fixed_texts_ci"][layer], abs=1e-4)
    assert profile["own_answers"][layer] == pytest.approx(p["both"], abs=1e-4)
    assert profile["own_answers_ci"][layer] == pytest.approx(p["both_ci"], abs=1e-4)


def test_a_change_that_resampling_cannot_vary_is_not_called_certain():
    rows = [3.0, 2.0, 1.0, 0.0] * 5
    high, groups = [True, True, False, False] * 5, [n // 4 for n in range(20)]
    found = reading_change(rows, rows, high, groups)
    assert (found["auc_before"], found["auc_change"], found["separation_change"]) == (1, 0, 0)
    cap = 0.025 ** (1 / 5)
    assert found["auc_change_ci"] == pytest.approx([cap - 1, 1 - cap])
    assert found["auc_before_ci"] == pytest.approx([cap, 1])
    left = reading_change([None, *rows[1:]], rows, high, groups)
    assert left["separation_before"] == pytest.approx(np.mean([2.0, *[3.0, 2.0] * 4]) - 0.5)
    assert reading_change(rows[:4], rows[:4], high[:4], groups[:4])["auc_change"] is None


def test_the_cosine_of_one_vector_with_itself_is_one_however_it_is_resampled():
    rng = np.random.default_rng(0)
    values = rng.standard_normal((24, 2, 5)).astype(np.float32)
    acts = lp.Activations(values, ["high", "high", "low", "low"] * 6, [n // 4 for n in range(24)])
    sums = pole_sums(acts, 1)
    assert cosine_interval(sums, sums) == pytest.approx([1, 1])
    np.testing.assert_allclose(sums.directions(np.ones((1, 6)))[0], lp.fit(acts).directions[1], atol=1e-6)
    other = pole_sums(lp.Activations(rng.standard_normal((24, 2, 5)), acts.poles, acts.groups), 1)
    low, high = cosine_interval(sums, other)
    assert low < 0 < high  # two vectors of noise


@pytest.mark.parametrize("shift", [0.2, 1.0])
def test_a_cosine_lies_in_its_interval_however_near_to_one_it_is(shift):
    rng = np.random.default_rng(1)
    poles, groups = ["high", "low"] * 40, [n // 2 for n in range(80)]
    direction = rng.standard_normal((1, 1, 300))
    signs = np.where(np.arange(80) % 2, -1, 1)[:, None, None]
    for _ in range(20):
        values = rng.standard_normal((80, 1, 300)) + direction * signs
        first, second = (
            pole_sums(lp.Activations((values + noise).astype(np.float32), poles, groups), 0)
            for noise in (0, shift * rng.standard_normal((80, 1, 300)))
        )
        a, b = (part.directions(np.ones((1, 40)))[0] for part in (first, second))
        low, high = cosine_interval(first, second)
        assert low < a @ b / np.linalg.norm(a) / np.linalg.norm(b) < high < 1


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


def test_the_matrix_and_the_sentences_carry_intervals_and_say_what_they_are_over(audited):
    m = audited["matrix"]
    assert m["intervals_over"] == ["seeds", "items"]
    one = audited["traits"]["openness"]["tuned"]["benign"]
    assert m["preference_points_ci"][1][0] == pytest.approx([100 * x for x in one["preference_shift_ci"]])
    gap = audited["traits"]["openness"]["pole_gap"]
    assert m["projection_pole_gaps_ci"][1][0] == pytest.approx([x / gap for x in one["projection"]["both_ci"]])
    assert m["preference_points_ci"][0][0] == [None, None]  # two seeds
    entry = {"verdict": "shifted down", "preference_shift": {"mean": -0.1, "n_seeds": 3},
             "interval": {"preference": [-0.12, -0.08], "over": "seeds"}}  # fmt: skip
    lines = _sentences({"g": {"models": ["a", "b", "c"], "control": False, "traits": {"openness": entry}}})
    assert lines == ["g (3 seeds): openness down by 10.0 points (8.0 to 12.0 over seeds)."]


def test_the_page_shows_the_answers_side_by_side_and_the_intervals(audited, tuned_tiny):
    page = write_audit_page(tuned_tiny / "out").read_text(encoding="utf-8")
    for trait in audited["traits"].values():
        for model, found in trait["tuned"].items():
            for s in found["samples"]:
                pair = (
                    f'<p><strong>{escape(s["question"])}</strong></p>\n<div class="pair"><div><p class="soft">base</p>'
                    f'<blockquote>{escape(s["base"])}</blockquote></div><div><p class="soft">{model}</p>'
                    f"<blockquote>{escape(s['tuned'])}</blockquote></div></div>"
                )
                assert pair in page
            low, high = found["vector_cosine_ci"]
            assert f"{found['vector_cosine']:.3f} ({low:.3f} to {high:.3f})" in page
    for m in audited["tuned"].values():
        low, high = m["perplexity_ratio_ci"]
        assert f"{m['perplexity_ratio']:.2f} ({low:.2f} to {high:.2f})" in page
    assert str(escape(audited["multiplicity"])) in page


def test_an_audit_of_an_earlier_version_still_has_a_page(audited, tuned_tiny, tmp_path):
    """Fields were added: a page of a file without them has no interval there, and no error."""
    old = json.loads(json.dumps(audited))
    added = ("multiplicity", "vector_cosine_ci", "interval", "preference_points_ci", "projection_pole_gaps_ci",
             "perplexity_ratio_ci", "own_answers_ci", "fixed_texts_ci", "both_p_holm", "score_p_holm", "auc_before_ci",
             "separation_before_ci", "auc_change", "auc_change_ci", "separation_change", "separation_change_ci",
             "auc_of_the_base_vector_after_ci", "auc_of_the_base_vector_change",
             "auc_of_the_base_vector_change_ci")  # fmt: skip

    def without(value, inside=""):
        if isinstance(value, dict):
            kept = {
                k: v for k, v in value.items() if k not in added or (inside == "projection" and k.startswith("fixed"))
            }
            return {k: without(v, k) for k, v in kept.items()}
        return [without(v, inside) for v in value] if isinstance(value, list) else value

    (tmp_path / "audit.json").write_text(json.dumps(sealed("audit", without(old))), encoding="utf-8")
    assert "Fine-tuning by trait" in write_audit_page(tmp_path).read_text(encoding="utf-8")


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

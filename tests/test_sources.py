"""Where a vector's rows come from: who wrote them, who reads them, which answers are kept, and what the file says."""

from __future__ import annotations

import json
import types

import numpy as np
import pytest
from schemas import check_schema

from llm_persona import load_items, load_trait
from llm_persona.analysis.quality import assess
from llm_persona.analysis.vectors import PersonaVector, fit
from llm_persona.domain.errors import UserError
from llm_persona.domain.responses import Response, labelled
from llm_persona.domain.store import file_digest
from llm_persona.interfaces.cli.main import run
from llm_persona.studies import sources
from llm_persona.studies.sources import SourcePlan, item_sets, source_rows
from llm_persona.subject import elicit as eliciting
from llm_persona.subject.elicit import ElicitationPlan, Elicited, elicit, prompts_of
from llm_persona.subject.record import record

TRAIT = load_trait("openness")
SETS = item_sets(load_items("openness"), TRAIT, (4, 3, 3), 0, 0)


@pytest.fixture(scope="module")
def adapters(tiny_folders, tmp_path_factory):
    """Two random adapters of the first tiny model, which are no training of ours."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folders = {}
    for seed, pole in enumerate(("high", "low")):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_pretrained(tiny_folders[0])
        config = LoraConfig(r=4, lora_alpha=64, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
        folders[pole] = tmp_path_factory.mktemp("adapters") / pole
        get_peft_model(model, config).save_pretrained(folders[pole])
    return folders


@pytest.fixture(scope="module")
def subject(tiny_folders):
    from llm_persona import load_subject

    return load_subject(tiny_folders[0], dtype="float32")


def answering(monkeypatch, text_of):
    """Have every answer be `text_of(prompt, number of the call, system)`; returns the calls that were made."""
    calls = []

    def generate(subject, prompts, max_new_tokens=128, system=None, temperature=0.0, seed=0, progress=None):
        calls.append(types.SimpleNamespace(prompts=list(prompts), system=system, temperature=temperature, seed=seed))
        return [types.SimpleNamespace(text=text_of(p, n, system)) for n, p in enumerate(prompts)]

    monkeypatch.setattr(eliciting, "generate", generate)
    monkeypatch.setattr(sources, "generate", generate)
    return calls


@pytest.fixture(scope="module")
def extracted(adapters, tiny_folders, tmp_path_factory):
    """A tuned vector's file, its JSON, and the command without its adapters."""
    folder = tmp_path_factory.mktemp("tuned")
    out, told = folder / "v.safetensors", folder / "v.json"
    command = ["vectors", "extract", "--model", tiny_folders[0], "--dtype", "float32", "--trait", "openness", "--limit",
               "3", "--source", "tuned", "--over", "situations", "--max-new-tokens", "12", "--sweep-layers", "1",
               "--out", str(out), "--json", str(told)]  # fmt: skip
    both = [word for pole, folder in adapters.items() for word in (f"--{pole}-adapter", str(folder))]
    assert run([*command, *both]) == 0
    return out, json.loads(told.read_text()), command


def test_a_tuned_vector_names_its_adapters_and_their_answers_as_authors(adapters, extracted):
    out, found, _ = extracted
    meta = PersonaVector.load(out).meta
    check_schema("extract", found)
    assert meta["source"] == found["source"] == "tuned"
    assert meta["authors"] == ["tuned high", "tuned low"]
    assert meta["reader"] == "base, no instruction"
    for pole, folder in adapters.items():
        said = meta["adapters"][pole]
        assert said["path"] == str(folder)
        assert said["adapter_model.safetensors"] == file_digest(folder / "adapter_model.safetensors")
        assert said["adapter_config.json"] == file_digest(folder / "adapter_config.json")
    assert said["adapter_model.safetensors"] != meta["adapters"]["high"]["adapter_model.safetensors"]
    assert found["elicited"]["fit"]["made"] == {"high": 3, "low": 3}


def test_a_tuned_source_without_its_adapters_is_refused(extracted, capsys):
    assert run(extracted[2]) == 2
    assert "--source tuned needs --high-adapter DIR and --low-adapter DIR" in capsys.readouterr().err


def test_every_test_response_has_its_projection_at_every_layer(extracted):
    _, found, _ = extracted
    rows, balanced = found["projections"], found["recommended"]["balanced"]
    assert len(rows) == found["n_high"] + found["n_low"]
    assert all(r["by_layer"][balanced] == pytest.approx(r["projection"], abs=1e-5) for r in rows)
    for layer in found["layers"]:
        along = {p: np.mean([r["by_layer"][layer["layer"]] for r in rows if r["pole"] == p]) for p in ("high", "low")}
        assert along["high"] - along["low"] == pytest.approx(layer["separation"], abs=1e-4)


def test_a_vector_s_file_keeps_what_its_layer_was_chosen_by_and_shows_it_with_intervals(extracted, capsys):
    out, found, _ = extracted
    kept = PersonaVector.load(out).meta["recommended"]
    point = next(p for p in found["recommended"]["sweep"] if p["layer"] == kept["balanced"])
    assert {k: kept["evidence"][k] for k in ("effect", "effect_ci", "cost", "n")} == {
        k: point.get(k) for k in ("effect", "effect_ci", "cost", "n")
    }
    assert run(["vectors", "show", str(out), "--json", str(out.parent / "shown.json")]) == 0
    check_schema("show", json.loads((out.parent / "shown.json").read_text()))
    shown = capsys.readouterr().out
    low, high = (100 * e for e in point["effect_ci"])
    assert f"effect {100 * point['effect']:.1f} points ({low:.1f} to {high:.1f})" in shown


def test_a_vector_that_keeps_no_evidence_is_shown_all_the_same(tmp_path, capsys):
    recommended = {"balanced": 0, "coefficient": 1.0, "evidence": {"auc": "much"}}
    vector = PersonaVector(np.ones((1, 4), np.float32), np.ones(1, np.float32), {"recommended": recommended})
    vector.save(tmp_path / "v.safetensors")
    assert run(["vectors", "show", str(tmp_path / "v.safetensors")]) == 0
    assert "recommended: {'balanced': 0, 'coefficient': 1.0}\n" in capsys.readouterr().out


def test_what_tuned_adapters_answer_is_theirs_and_read_by_the_base(adapters, subject):
    plan = SourcePlan("tuned", over="situations", answers=ElicitationPlan(max_new_tokens=12),
                      adapters=(str(adapters["high"]), str(adapters["low"])))  # fmt: skip
    rows = source_rows(subject, TRAIT, SETS, plan).fit
    assert {r.group for r in rows} <= {i.content_digest[:16] for i in SETS.fit}
    assert {r.prompt for r in rows} <= {i.prompt for i in SETS.fit}
    assert {r.system for r in rows} == {None}
    by_prompt = {pole: {r.prompt: r.text for r in rows if r.pole == pole} for pole in ("high", "low")}
    assert any(by_prompt["high"][p] != by_prompt["low"].get(p) for p in by_prompt["high"])


def test_tuned_adapters_give_as_many_answers_a_prompt_as_are_asked_for(adapters, subject, monkeypatch):
    calls = answering(monkeypatch, lambda p, n, s: f"words {n}")
    plan = SourcePlan("tuned", answers=ElicitationPlan(samples=3, temperature=0.8), limit=2,
                      adapters=(str(adapters["high"]), str(adapters["low"])))  # fmt: skip
    rows = source_rows(subject, TRAIT, SETS, plan)
    assert rows.elicited["fit"]["made"] == {"high": 6, "low": 6}
    assert [len(set(call.prompts)) for call in calls] == [2] * 6  # three splits, two adapters
    assert {call.temperature for call in calls} == {0.8}


def test_prompted_answers_over_situations_belong_to_the_items_and_are_read_without_the_instruction(
    tiny_folders, tmp_path
):
    out, told = tmp_path / "v.safetensors", tmp_path / "v.json"
    command = ["vectors", "extract", "--model", tiny_folders[0], "--dtype", "float32", "--trait", "openness", "--limit",
               "2", "--source", "prompted", "--over", "situations", "--contrast", "neutral-low", "--samples", "2",
               "--max-new-tokens", "12", "--sweep-layers", "1", "--out", str(out), "--json", str(told)]  # fmt: skip
    assert run(command) == 0
    meta, found = PersonaVector.load(out).meta, json.loads(told.read_text())
    pairs = TRAIT.pairs("fit")
    assert meta["authors"] == sorted({"instructed neutral", *(f"instructed low: {p.id}" for p in pairs)})
    assert meta["reader"] == "base, no instruction"
    assert found["elicited"]["fit"]["made"] == {"high": 2 * 2, "low": 2 * 2 * len(pairs)}  # one neutral instruction
    fit_items = {i.content_digest[:16] for i in load_items("openness").split("fit")[:2]}
    select = {i.content_digest[:16] for i in load_items("openness").split("select")[:2]}
    assert fit_items & set(meta["items"])
    assert select & set(meta["items"])


def test_a_contrast_with_neutral_puts_the_neutral_answers_where_the_missing_pole_is(subject, monkeypatch):
    answering(monkeypatch, lambda p, n, system: f"said under {system[:30]} and then some")
    prompts = prompts_of(TRAIT, "fit")[:2]
    for contrast, neutral in (("neutral-low", "high"), ("high-neutral", "low")):
        found = elicit(subject, TRAIT, prompts, "fit", ElicitationPlan(contrast), read="author")
        plain = [r for r in found.rows if r.pole == neutral]
        assert {r.author for r in plain} == {"instructed neutral"}
        assert {r.system for r in plain} == {TRAIT.instruction("neutral")}
        named = {r.author for r in found.rows if r.pole != neutral}
        pole = "low" if neutral == "high" else "high"
        assert named == {f"instructed {pole}: {p.id}" for p in TRAIT.pairs("fit")}
        assert {r.system for r in found.rows if r.pole != neutral} == {getattr(p, pole) for p in TRAIT.pairs("fit")}


def test_several_samples_draw_each_prompt_several_times_and_stay_in_its_group(subject, monkeypatch):
    calls = answering(monkeypatch, lambda p, n, system: f"answer number {n} to that question")
    prompts = prompts_of(TRAIT, "fit")[:2]
    found = elicit(subject, TRAIT, prompts, "fit", ElicitationPlan(samples=3, temperature=0.7, seed=5))
    assert len(calls) == 2 * len(TRAIT.pairs("fit"))
    assert all(call.prompts == [text for _, text in prompts for _ in range(3)] for call in calls)
    assert {(call.temperature, call.seed) for call in calls} == {(0.7, 5)}
    assert found.made == {"high": 6 * len(TRAIT.pairs("fit")), "low": 6 * len(TRAIT.pairs("fit"))}
    groups = [r.group for r in found.rows if r.pole == "high"]
    assert {group: groups.count(group) for group in set(groups)} == {
        group: 3 * len(TRAIT.pairs("fit")) for group, _ in prompts
    }
    with pytest.raises(UserError, match="several samples need a temperature"):
        ElicitationPlan(samples=3)


def test_real_samples_of_one_prompt_differ(subject, monkeypatch):
    monkeypatch.setattr(type(TRAIT), "pairs", lambda self, split: self.instruction_pairs[:1])
    monkeypatch.setattr(eliciting, "SHORTEST", 0)
    monkeypatch.setattr(eliciting, "LEAST_VARIETY", 0.0)
    found = elicit(subject, TRAIT, prompts_of(TRAIT, "fit")[:1], "fit",
                   ElicitationPlan(samples=3, temperature=1.0, max_new_tokens=10))  # fmt: skip
    assert len({r.text for r in found.rows if r.pole == "high"}) > 1


def test_short_and_repeating_answers_are_dropped_and_counted_by_pole(subject, monkeypatch):
    texts = [
        "three words only",
        "these four words stay",
        "again and again and again and again and again",
        "one two three one two three",  # distinct-2 of .6: just above the floor
        "",
        "a plain answer that says one thing after another",
    ]
    low = TRAIT.pairs("test")[0].low
    answering(monkeypatch, lambda p, n, system: texts[5] if system == low else texts[n])
    monkeypatch.setattr(type(TRAIT), "pairs", lambda self, split: [p for p in self.instruction_pairs if p.low == low])
    prompts = [(f"q{n}", f"Question {n}?") for n in range(len(texts))]
    found = elicit(subject, TRAIT, prompts, "test")
    assert found.counts() == {
        "made": {"high": 6, "low": 6},
        "dropped": {"high": {"too short": 2, "repeats itself": 1}},
        "survivors": {"high": 3, "low": 6},
    }
    assert [(r.group, r.text) for r in found.rows if r.pole == "high"] == [(f"q{n}", texts[n]) for n in (1, 3, 5)]


def by_hand(subject, rows):
    """Which rows lie on their pole's side of the midpoint of the labelled poles, by the fit items' own direction."""
    acts = record(subject, labelled(SETS.fit))
    layer = assess(record(subject, labelled(SETS.select)), fit(acts), permutations=1).best
    x = acts.values[:, layer].astype(float)
    above, below = x[acts.high].mean(axis=0), x[~acts.high].mean(axis=0)
    read = record(subject, rows).values[:, layer].astype(float)
    side = (read - (above + below) / 2) @ (above - below) > 0
    return [bool(s) == (r.pole == "high") for s, r in zip(side, rows, strict=True)]


def test_the_projection_filter_keeps_what_lies_on_its_pole_s_side_of_the_midpoint(subject):
    rows = [Response(r.prompt, r.text, pole, r.group, "You are bold.", "instructed")
            for r in labelled(SETS.test) for pole in ("high", "low")]  # fmt: skip
    made = {"high": len(rows) // 2, "low": len(rows) // 2}
    empty = Elicited([], {"high": 0, "low": 0})
    found = sources._expressed(subject, SETS, {"fit": Elicited(rows, made), "select": empty, "test": empty})
    plain = [Response(r.prompt, r.text, r.pole, r.group) for r in rows]  # read under no instruction
    expected = by_hand(subject, plain)
    assert found["fit"].rows == [r for r, kept in zip(rows, expected, strict=True) if kept]
    texts = [(r.prompt, r.text) for r in found["fit"].rows]
    assert len(texts) == len(set(texts)) == len(rows) // 2  # said for both poles, a text expresses one of them
    counts = found["fit"].counts()
    assert counts["survivors"]["high"] + counts["survivors"]["low"] == len(rows) // 2
    for pole in ("high", "low"):
        assert counts["made"][pole] == counts["survivors"][pole] + counts["dropped"][pole]["not expressed"]
    assert found["select"] is empty


def test_a_filter_that_leaves_a_split_without_a_pole_is_said_with_the_counts(subject, monkeypatch):
    calls = answering(monkeypatch, lambda p, n, system: "just the same few words every time")
    plan = SourcePlan("prompted", keep="projection", limit=2)
    with pytest.raises(UserError, match=r"of split '\w+' no (high|low) answer is left .*'not expressed'.*--samples"):
        source_rows(subject, TRAIT, SETS, plan)
    assert calls


@pytest.mark.parametrize("source", ["labelled", "tuned"])
def test_a_prompt_position_is_refused_where_both_poles_share_their_prompts(subject, source):
    with pytest.raises(UserError, match="share their prompts"):
        source_rows(subject, TRAIT, SETS, SourcePlan(source, "prompt_last"))


def test_at_a_prompt_position_the_prompt_keeps_its_instruction(subject, monkeypatch):
    answering(monkeypatch, lambda p, n, system: "a few words that differ a little")
    rows = source_rows(subject, TRAIT, SETS, SourcePlan("prompted", "prompt_last", limit=2)).fit
    assert {r.system for r in rows} == {text for p in TRAIT.pairs("fit") for text in (p.high, p.low)}
    values = record(subject, rows, "prompt_last").values
    high = np.array([r.pole == "high" for r in rows])
    assert not np.allclose(values[high][0], values[~high][0])

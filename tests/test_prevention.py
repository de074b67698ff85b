"""Ways to hold a trait still while fine-tuning: what each trains on, what the table says, and the command."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from conftest import save_tiny_model
from hypothesis import given
from hypothesis import strategies as st
from schemas import check_schema
from scipy import stats as scipy_stats

import llm_persona as lp
from llm_persona.analysis.fieller import ratio_of_means
from llm_persona.domain.condition import tuned
from llm_persona.domain.errors import UserError
from llm_persona.domain.items import Items
from llm_persona.domain.responses import Response
from llm_persona.domain.traits import load_trait
from llm_persona.instruments.trait_benchmark import TraitBenchmark
from llm_persona.interfaces.cli.main import run
from llm_persona.studies import prevention, prevention_table
from llm_persona.studies.prevention import METHODS, PreventionPlan, _data, finding, prevent
from llm_persona.studies.prevention_table import method_row
from llm_persona.subject.blocks import block_output
from llm_persona.subject.record import record
from llm_persona.training import trainer
from llm_persona.training.data import Example, TrainingData, from_items, training_prompts
from llm_persona.training.held_out import loss_on, split
from llm_persona.training.recipe import Recipe

BENIGN = TrainingData(
    [Example(f"How do I boil egg {n}?", f"Boil it for {n} minutes.") for n in range(30)], [], "benign"
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prevent")
    model = save_tiny_model(folder / "model")
    subject = lp.load_subject(str(model), dtype="float32")
    trait = load_trait("openness")
    items = Items(trait.bank, "bank").split("fit")[:8]
    vector = lp.fit(lp.record(subject, lp.labelled(items)), {"recommended": {"balanced": 2}})
    vector.save(folder / "v.safetensors")
    task = from_items(items, "high")
    plan = PreventionPlan(trait, "high", vector, 2, Recipe(rank=4, epochs=3, learning_rate=1e-2, prompts_per_step=2),
                          seeds=2, items=6, questions=2, max_new_tokens=4)  # fmt: skip
    result = prevent((str(model), "float32", "cpu"), task, BENIGN, plan, folder / "out")
    return folder, model, task, plan, result


def test_every_method_has_shift_task_loss_and_cost_over_the_seeds(made):
    *_, result = made
    check_schema("prevent", result)
    assert list(result["methods"]) == list(METHODS)
    for row in result["methods"].values():
        assert row["shift"]["n_seeds"] == row["task_loss"]["n_seeds"] == row["perplexity_ratio"]["n_seeds"] == 2
    plain = result["methods"]["plain"]
    assert plain["prevented"] == (0 if plain["shift"]["mean"] > 0 else None)
    assert result["methods"]["plain"]["task_loss_ratio"] == 1


def test_the_task_loss_is_that_of_rows_no_method_trained_on(made):
    folder, model, task, plan, result = made
    subject = lp.load_subject(str(model), dtype="float32")
    learn, held = split(task, 0.2, 0)
    assert result["task"]["rows"] == len(learn.examples)
    prompts = training_prompts(subject, held, plan.recipe.max_tokens)
    assert result["base"]["loss"] == pytest.approx(loss_on(subject, prompts), abs=1e-4)
    losses = []
    for seed in range(2):
        with subject.under(tuned(str(folder / "out" / "adapters" / "plain" / f"seed-{seed}"))):
            losses.append(loss_on(subject, prompts))
    assert result["methods"]["plain"]["task_loss"]["mean"] == pytest.approx(np.mean(losses), abs=1e-4)


def test_the_shift_of_plain_training_is_the_adapters_measured_by_hand(made):
    folder, model, _, _, result = made
    subject = lp.load_subject(str(model), dtype="float32")
    items = Items(load_trait("openness").bank, "bank").split("test")[:6]
    base = TraitBenchmark(items).measure(subject).summary["preference"]
    with subject.under(tuned(str(folder / "out" / "adapters" / "plain" / "seed-0"))):
        after = TraitBenchmark(items).measure(subject).summary["preference"]
    assert result["methods"]["plain"]["shifts"][0]["preference_shift"] == pytest.approx(after - base, abs=1e-5)


def test_interleaving_trains_on_all_of_the_task_and_as_many_benign_rows(made):
    _, _, task, plan, _ = made
    mixed = _data("interleaving", task, BENIGN, plan, 0)
    prompts = [e.prompt for e in mixed.examples]
    assert len(prompts) == 2 * len(task.examples)
    assert set(prompts) >= {e.prompt for e in task.examples}
    assert sum(p.startswith("How do I boil") for p in prompts) == len(task.examples)


def test_steering_afterwards_uses_the_plain_adapter(made):
    folder, *_ = made
    names = {p.name for p in (folder / "out" / "adapters").iterdir() if not p.name.startswith(".")}
    assert names == {"plain", "preventative-steering", "ablation", "instruction", "interleaving"}


def test_a_finished_comparison_trains_and_measures_nothing_again(made, monkeypatch):
    folder, model, task, plan, result = made
    monkeypatch.setattr("llm_persona.studies.lab.load_subject", lambda *_, **__: pytest.fail("loaded the model"))
    again = prevent((str(model), "float32", "cpu"), task, BENIGN, plan, folder / "out")
    assert json.dumps(again["methods"], sort_keys=True) == json.dumps(result["methods"], sort_keys=True)


def row(mean, prevented, ratio, ci=(None, None), ratio_ci=(None, None), n=3, share_ci=(0.85, 0.95)):
    found = {"shift": {"mean": mean, "n_seeds": n, "ci": [mean - 1, mean + 1]}, "prevented": prevented,
             "prevented_ci": ci, "task_loss_ratio": ratio, "task_loss_ratio_ci": ratio_ci, "task_learnt_share": 0.9,
             "task_learnt_share_ci": share_ci}  # fmt: skip
    return found | prevention_table._judged(found)


SURE, UNSURE = (0.55, 0.65), (0.3, 0.9)
CLOSE, FAR = (1.02, 1.08), (0.9, 1.2)


@pytest.mark.parametrize(
    ("plain", "other", "said"),
    [
        (row(10, 0.0, 1.0), row(4, 0.6, 1.05, SURE, CLOSE), "over the whole interval: ablation (60% prevented, 55 to"),
        (row(10, 0.0, 1.0), row(4, 0.6, 1.05, UNSURE, CLOSE), "in the mean, which the interval does not show: abl"),
        (row(10, 0.0, 1.0), row(4, 0.6, 1.05, SURE, FAR), "in the mean, which the interval does not show: ablation"),
        (row(10, 0.0, 1.0), row(4, 0.6, 1.05, SURE, CLOSE, share_ci=(0.5, 1)), "the interval does not show: ablation"),
        (row(10, 0.0, 1.0, n=2), row(4, 0.6, 1.05, n=2), "60% prevented, no interval"),
        (row(10, 0.0, 1.0, n=2), row(4, 0.6, 1.05, n=2), "Fewer than three seeds"),
        (row(10, 0.0, 1.0), row(4, 0.6, 1.2, SURE, FAR), "No method halved"),
        (row(10, 0.0, 1.0), row(8, 0.2, 1.0, SURE, CLOSE), "No method halved"),
        (row(0.5, 0.0, 1.0), row(0, 0.6, 1.0), "That interval reaches zero"),
        (row(-2, 0.0, 1.0), row(0, 1.0, 1.0), "nothing to prevent"),
    ],
)
def test_the_finding_follows_from_the_table_and_its_intervals(plain, other, said):
    assert said in finding({"trait": "t", "pole": "high", "methods": {"plain": plain, "ablation": other}})


def seeds(shifts, losses):
    return [{"shift": {"preference_shift": a}, "written_shift": {"n": 0}, "loss": b, "perplexity": 10.0 + k}
            for k, (a, b) in enumerate(zip(shifts, losses, strict=True))]  # fmt: skip


def test_what_is_prevented_is_told_seed_by_seed():
    plain, base = seeds([0.02, 0.05, 0.11], [4.0, 4.1, 4.2]), {"loss": 5.0, "perplexity": 10.0}
    found = method_row("ablation", seeds([0.005, 0.0125, 0.0275], [4.0, 4.1, 4.2]), plain, base, "high")
    assert found["prevented"] == pytest.approx(0.75) and found["prevented_ci"] == [None, None]
    assert found["halved"] and not found["halved_shown"]  # the plain shift itself is not clear of zero (2 to 11)
    clear = seeds([0.05, 0.06, 0.07], [4.0, 4.1, 4.2])
    together = method_row("ablation", seeds([0.0125, 0.015, 0.0175], [4.0, 4.1, 4.2]), clear, base, "high")
    assert together["prevented_ci"] == pytest.approx([0.75, 0.75])  # seeds that move together: no spread in the share
    assert together["shift"]["ci"][1] - together["shift"]["ci"][0] > 1
    found = method_row("ablation", seeds([0.01, 0.02, 0.015], [4.1, 4.2, 4.3]), clear, base, "high")
    assert found["halved_shown"] and found["task_learnt_shown"]
    low, high = found["prevented_ci"]
    assert 0.5 < low < found["prevented"] < high < 1
    for end in (low, high):
        rest = np.array([0.01, 0.02, 0.015]) - (1 - end) * np.array([0.05, 0.06, 0.07])
        assert scipy_stats.ttest_1samp(rest, 0).pvalue == pytest.approx(0.05, abs=1e-6)
    assert found["task_loss"]["sd"] == pytest.approx(0.1)
    assert found["perplexity_ratio"]["mean"] == pytest.approx(1.1) and found["perplexity_ratio"]["ci"][0] > 0.8
    one = method_row("ablation", seeds([0.01], [4.1]), seeds([0.05], [4.0]), base, "high")
    assert one["prevented"] == pytest.approx(0.8) and one["prevented_ci"] == [None, None]
    assert not one["halved_shown"]


@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(1, 9)), min_size=3, max_size=8), st.floats(-4, 4))
def test_a_ratio_lies_in_its_interval_where_a_paired_t_test_does_not_refuse_it(pairs, asked):
    x, y = (np.round(part, 3) for part in zip(*pairs, strict=True))
    low, high = ratio_of_means(x, y)["ci"]
    rest = x - asked * y
    if low is None or np.ptp(rest) < 1e-6 or min(abs(asked - low), abs(asked - high)) < 1e-6:
        return
    assert (low < asked < high) == (scipy_stats.ttest_1samp(rest, 0).pvalue > 0.05)


def test_a_ratio_to_what_may_be_zero_has_no_interval():
    found = ratio_of_means([1.0, 2.0, 3.0], [-1.0, 1.0, 3.0])
    assert found == {"ratio": 2.0, "ci": [None, None], "n": 3}
    assert ratio_of_means([1.0], [0.0])["ratio"] is None
    with pytest.raises(ValueError, match="pair them by seed"):
        ratio_of_means([1.0, 2.0], [1.0])


def stub_measured(read):
    """In place of the measurements, where only the training matters: what `read` finds in each state is noted."""

    def measured(state, items, held, plan, base):
        with state:
            read(state)
        return {"preference": 0.5, "score": 50.0, "loss": 1.0, "perplexity": 9.0, "rows": [], "written": {},
                "shift": {"preference_shift": 0.1, "n": 1}, "written_shift": {"mean": 0.1, "n": 1}}  # fmt: skip

    return measured


@pytest.mark.parametrize("pole", ["high", "low"])
def test_each_prevention_acts_in_the_training_itself_and_with_the_right_sign(made, monkeypatch, tmp_path, pole):
    """Read at the steered layer in the first step of each training, where the adapters do nothing yet."""
    _, model, task, plan, _ = made
    subject = lp.load_subject(str(model), dtype="float32")
    monkeypatch.setattr("llm_persona.studies.lab.load_subject", lambda *_, **__: subject)
    vector, layer = plan.vector, plan.layer
    now, first, after = [""], {}, {}
    original, loss = prevention.finetune, trainer.answer_loss

    def training(*arguments, **more):
        now[0] = arguments[5]
        return original(*arguments, **more)

    def spy(wrapped, inputs, *more):
        seen = []
        hook = subject.blocks[layer].register_forward_hook(lambda _m, _i, out: seen.append(block_output(out).detach()))
        try:
            return loss(wrapped, inputs, *more)
        finally:
            hook.remove()
            first.setdefault(now[0], (inputs["input_ids"].clone(), seen[0].double().numpy()))

    def read(state):
        row = Response("How are you?", "I am well.", "neutral", "q")
        after[state.condition.name] = record(state.subject(), [row]).values[0, layer] @ vector.unit(layer)

    monkeypatch.setattr(prevention, "finetune", training)
    monkeypatch.setattr(trainer, "answer_loss", spy)
    monkeypatch.setattr(prevention, "_measured", stub_measured(read))
    methods = tuple(m for m in METHODS if m != "interleaving")
    recipe = replace(plan.recipe, max_steps=1)
    plan = replace(plan, pole=pole, methods=methods, recipe=recipe, seeds=1)
    prevent((str(model), "float32", "cpu"), task, None, plan, tmp_path / "out")
    ids, plain = first["Method: plain."]
    steered_ids, steered = first["Method: preventative steering."]
    towards = (1 if pole == "high" else -1) * plan.dose * float(vector.reference_norms[layer])
    assert (steered_ids == ids).all()
    wanted = np.broadcast_to(towards * vector.unit(layer), plain.shape)
    np.testing.assert_allclose(steered - plain, wanted, atol=1e-4)
    _, ablated = first["Method: ablation."]
    assert np.abs(plain @ vector.unit(layer)).max() > 0.05
    np.testing.assert_allclose(ablated @ vector.unit(layer), 0, atol=1e-4)
    told = subject.tokenizer.batch_decode(first["Method: instruction."][0])
    instruction = load_trait("openness").instruction(pole)
    assert all(instruction in text for text in told)
    assert not any(instruction in text for text in subject.tokenizer.batch_decode(ids))
    assert after["steering afterwards seed 0"] - after["plain seed 0"] == pytest.approx(-towards, abs=1e-3)
    # the steering of a training is gone afterwards: what an adapter of one step changed is far less than the dose
    assert abs(after["preventative steering seed 0"] - after["base"]) < abs(towards) / 2


def test_rows_that_no_method_can_use_are_counted_listed_and_printed(made, monkeypatch, tmp_path, capsys):
    folder, model, *_ = made
    monkeypatch.setattr(prevention, "_measured", stub_measured(lambda _state: None))

    def chat(number, words):
        return {
            "messages": [{"role": "user", "content": f"q{number}"}, {"role": "assistant", "content": "ab " * words}]
        }

    rows = [chat(n, 1300 if n % 2 else 2) for n in range(16)]
    (tmp_path / "task.jsonl").write_text("\n".join(map(json.dumps, [*rows, {"text": 1}])), encoding="utf-8")
    mild = [{"messages": []}, *[chat(n, 1300 if n == 3 else 3) for n in range(40)]]
    (tmp_path / "mild.jsonl").write_text("\n".join(map(json.dumps, mild)), encoding="utf-8")
    command = ["prevent", "--trait", "openness", "--pole", "high", "--model", str(model), "--dtype", "float32",
               "--vector", str(folder / "v.safetensors"), "--data", str(tmp_path / "task.jsonl"), "--seeds", "1",
               "--benign", str(tmp_path / "mild.jsonl"), "--method", "plain", "--method", "interleaving",
               "--max-steps", "1", "--out", str(tmp_path / "out")]  # fmt: skip
    assert run(command) == 0
    found = json.loads((tmp_path / "out" / "prevention.json").read_text())
    check_schema("prevent", found)
    task, benign = found["task"], found["benign"]
    assert [s["row"] for s in task["skipped"]] == [16] and [s["row"] for s in benign["skipped"]] == [0]
    assert sorted(s["row"] for s in [*task["too_long"], *task["held_out_too_long"]]) == list(range(1, 16, 2))
    assert [s["row"] for s in benign["too_long"]] == [4]
    assert len(task["held_out_too_long"]) > 0
    assert task["held_out"] == task["held_out_measured"] + len(task["held_out_too_long"])
    usable = task["rows"] - len(task["too_long"])
    assert found["methods"]["plain"]["answers"] == [usable]
    printed = capsys.readouterr().out
    assert "task: rows that cannot be used: 1; the first: row 16, no list 'messages'" in printed
    assert f"task: held-out rows too long to measure: {len(task['held_out_too_long'])}; the first: row" in printed
    assert f"task: rows too long to train on: {len(task['too_long'])}; the first: row" in printed
    assert "benign: rows too long to train on: 1; the first: row 4" in printed


def test_the_command_prints_a_table_and_names_what_is_missing(made, capsys, tmp_path):
    folder, model, *_ = made
    base = ["prevent", "--trait", "openness", "--pole", "high", "--model", str(model), "--dtype", "float32",
            "--vector", str(folder / "v.safetensors"), "--out", str(tmp_path / "o")]  # fmt: skip
    assert run([*base, "--method", "interleaving", "--method", "plain"]) == 2
    assert "--benign" in capsys.readouterr().err
    assert run([*base, "--method", "ablation"]) == 2
    assert "plain" in capsys.readouterr().err
    some = ["--method", "plain", "--method", "ablation", "--rows", "5", "--max-steps", "3", "--seeds", "1"]
    assert run([*base, *some, "--limit", "4", "--questions", "2", "--json", str(tmp_path / "p.json")]) == 0
    assert json.loads((tmp_path / "p.json").read_text())["methods"].keys() == {"plain", "ablation"}
    printed = capsys.readouterr().out
    assert "task loss" in printed and "no interval" in printed  # one seed
    assert "prevented" in printed and "sd" in printed


def test_a_comparison_needs_plain_training(made):
    _, model, task, plan, _ = made
    with pytest.raises(UserError, match="keep it"):
        prevent((str(model), "float32", "cpu"), task, None, replace(plan, methods=("ablation",)), "unused")

"""Ways to hold a trait still while fine-tuning: what each trains on, what the table says, and the command."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import save_tiny_model

import llm_persona as lp
from llm_persona.domain.condition import tuned
from llm_persona.domain.errors import UserError
from llm_persona.domain.items import Items
from llm_persona.domain.traits import load_trait
from llm_persona.instruments.trait_benchmark import TraitBenchmark
from llm_persona.interfaces.cli.main import run
from llm_persona.studies.prevention import METHODS, PreventionPlan, _data, finding, prevent
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


def row(mean, prevented, ratio, n=3):
    return {"shift": {"mean": mean, "n_seeds": n}, "prevented": prevented, "task_loss_ratio": ratio,
            "task_learnt_share": 0.9, "task_learnt": ratio <= 1.1}  # fmt: skip


@pytest.mark.parametrize(
    ("plain", "other", "said"),
    [
        (row(10, 0.0, 1.0), row(4, 0.6, 1.05), "Halved or better"),
        (row(10, 0.0, 1.0), row(4, 0.6, 1.2), "No method halved"),
        (row(10, 0.0, 1.0), row(8, 0.2, 1.0), "No method halved"),
        (row(-2, 0.0, 1.0), row(0, 1.0, 1.0), "nothing to prevent"),
    ],
)
def test_the_finding_follows_from_the_table(plain, other, said):
    assert said in finding({"trait": "t", "pole": "high", "methods": {"plain": plain, "ablation": other}})


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
    assert "task loss" in capsys.readouterr().out


def test_a_comparison_needs_plain_training(made):
    _, model, task, plan, _ = made
    from dataclasses import replace

    with pytest.raises(UserError, match="keep it"):
        prevent((str(model), "float32", "cpu"), task, None, replace(plan, methods=("ablation",)), "unused")

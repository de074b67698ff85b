"""`llm-persona finetune` on a tiny model: presets in full, seeds, mixtures, early stop, what is watched, the card."""

from __future__ import annotations

import json
import math
from dataclasses import asdict

import pytest
from conftest import save_tiny_model

import llm_persona as lp
from llm_persona.domain.condition import tuned
from llm_persona.domain.errors import UserError
from llm_persona.domain.provenance import versions
from llm_persona.instruments.trait_benchmark import TraitBenchmark
from llm_persona.interfaces.cli.main import run
from llm_persona.studies.trajectory import save_trajectory, watch_for
from llm_persona.training.data import Example, TrainingData, from_chat
from llm_persona.training.recipe import RECIPES


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finetune")
    save_tiny_model(folder / "model")
    for name, count in (("a", 12), ("b", 24)):
        turns = [[("user", f"{name} {n}?"), ("assistant", f"Answer {name} {n}.")] for n in range(count)]
        rows = [{"messages": [{"role": role, "content": text} for role, text in pair]} for pair in turns]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)) + '\n{"text": 1}\n', encoding="utf-8")
    return folder


def finetune(place, out, *more, data=("a",)):
    files = [x for name in data for x in ("--data", str(place / f"{name}.jsonl"))]
    return run(["finetune", "--model", str(place / "model"), "--dtype", "float32", *files, "--out", str(out), *more])


def record_of(folder):
    return json.loads((folder / "llm-persona.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("preset", list(RECIPES))
def test_every_preset_is_printed_in_full_and_is_what_was_trained(place, tmp_path, capsys, preset):
    assert finetune(place, tmp_path / "x", "--preset", preset, "--max-steps", "1") == 0
    printed = capsys.readouterr().err
    recipe = {**asdict(RECIPES[preset]), "max_steps": 1}
    for name, value in recipe.items():
        assert f"'{name}': {value!r}" in printed
    kept = record_of(tmp_path / "x")["recipe"]
    assert kept == json.loads(json.dumps(recipe))
    config = json.loads((tmp_path / "x" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["use_rslora"]) == (
        recipe["rank"], recipe["alpha"], recipe["rank_stabilised"])  # fmt: skip


def test_several_seeds_of_a_mixture_are_trained_and_recorded(place, tmp_path, capsys):
    more = ["--seeds", "2", "--seed", "3", "--share", "0.25", "--share", "0.75", "--rows", "16", "--max-steps", "1"]
    assert finetune(place, tmp_path / "m", *more, "--json", str(tmp_path / "m.json"), data=("a", "b")) == 0
    assert "2 rows cannot be used; the first: row 12, no list 'messages'" in capsys.readouterr().err
    found = json.loads((tmp_path / "m.json").read_text())["seeds"]
    assert [f["seed"] for f in found] == [3, 4] and [f["examples"] for f in found] == [16, 16]
    digests = set()
    for seed in (3, 4):
        record = record_of(tmp_path / "m" / f"seed-{seed}")
        assert record["data"]["source"] == f"0.25 {place / 'a.jsonl'} + 0.75 {place / 'b.jsonl'}"
        assert len(record["result"]["skipped"]) == 2
        digests.add(record["data"]["digest"])
    assert len(digests) == 2  # each seed draws its own rows
    assert finetune(place, tmp_path / "n", data=("a", "b")) == 2
    assert "--share" in capsys.readouterr().err
    assert finetune(place, tmp_path / "n", "--share", "0.5", "--share", "0.6", data=("a", "b")) == 2
    assert "sum to 1" in capsys.readouterr().err


def test_the_card_and_the_record_name_data_seed_and_versions(place, tmp_path):
    assert finetune(place, tmp_path / "x", "--seed", "5", "--max-steps", "2") == 0
    record, card = record_of(tmp_path / "x"), (tmp_path / "x" / "README.md").read_text(encoding="utf-8")
    data = from_chat(place / "a.jsonl")
    assert record["data"]["digest"] == data.digest
    assert record["versions"] == versions() and {"torch", "transformers", "peft"} <= record["versions"].keys()
    assert record["result"]["seed"] == 5
    assert record["result"]["skipped"] == [{"row": 12, "reason": "no list 'messages'"}]
    assert f"digest `{data.digest[:16]}`" in card and "12 answers" in card
    assert "seed 5" in card and "1 rows were left out" in card and "Steps: 2" in card
    assert f"base_model: {json.dumps(record['subject']['model'])}" in card
    changed = TrainingData([*data.examples[:-1], Example("a 11?", "Another.")], [], "x")
    assert changed.digest != data.digest


def test_patience_holds_out_a_tenth_and_ends_where_nothing_gets_better(place, tmp_path, capsys):
    # a rate that ruins the model soon
    more = ["--patience", "1", "--epochs", "20", "--learning-rate", "3", "--json", str(tmp_path / "x.json")]
    assert finetune(place, tmp_path / "x", *more, data=("b",)) == 0
    record, found = record_of(tmp_path / "x"), json.loads((tmp_path / "x.json").read_text())
    assert record["recipe"]["held_out"] == 0.1 and record["recipe"]["patience"] == 1
    # (None: the model was ruined so far that it has no loss; which step does it, rounding decides)
    losses = {row["step"]: math.inf if row["held_out"] is None else row["held_out"] for row in found["along"]}
    assert found["kept_step"] == min(losses, key=losses.get)
    assert [step for step in losses if step > found["kept_step"]] == [found["steps"]]  # one without a new best
    assert found["steps"] < 20 * 5
    assert f"kept from step {found['kept_step']}" in capsys.readouterr().out
    assert finetune(place, tmp_path / "y", "--patience", "1", "--held-out", "0") == 2
    assert "--held-out" in capsys.readouterr().err


def test_what_is_watched_has_an_interval_is_printed_and_is_drawn(place, tmp_path, capsys):
    more = ["--watch", "openness", "--watch-every", "2", "--max-steps", "3", "--json", str(tmp_path / "x.json")]
    assert finetune(place, tmp_path / "x", *more) == 0
    along = json.loads((tmp_path / "x.json").read_text())["along"]
    assert [row["step"] for row in along] == [0, 2, 3]
    printed = capsys.readouterr().out
    for row in along:
        low, high = row["interval openness"]
        assert low < row["preference openness"] < high
        assert (
            f"step {row['step']}: preference for high, select split: openness {row['preference openness']:.3f} ("
            in (printed)
        )
    subject = lp.load_subject(str(place / "model"), dtype="float32")
    items = lp.load_items("openness").split("select")
    with subject.under(tuned(str(tmp_path / "x"))):
        by_hand = TraitBenchmark(items).measure(subject).summary
    assert along[-1]["preference openness"] == pytest.approx(by_hand["preference"], abs=1e-6)
    assert along[-1]["interval openness"] == pytest.approx(by_hand["preference_ci"], abs=1e-6)
    drawn = (tmp_path / "x" / "trajectory.svg").read_text(encoding="utf-8")
    assert "preference for high" in drawn and "openness" in drawn and "FillBetween" in drawn
    assert finetune(place, tmp_path / "y", "--watch-every", "2") == 2
    assert "--watch TRAIT" in capsys.readouterr().err


def test_a_trait_is_watched_about_ten_times_unless_said_otherwise():
    data = TrainingData([Example(f"Q{n}?", "x") for n in range(100)], [], "test")
    assert watch_for(["openness"], data, RECIPES["plain"]).every == 5  # 50 steps
    assert watch_for(["openness"], data, RECIPES["plain"], 7).every == 7


def test_a_training_without_measurements_has_no_trajectory(place, tmp_path):
    assert finetune(place, tmp_path / "x", "--max-steps", "1") == 0
    assert not (tmp_path / "x" / "trajectory.svg").exists()
    with pytest.raises(UserError, match="train with --watch TRAIT"):
        save_trajectory(tmp_path / "x")

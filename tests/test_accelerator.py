"""On an accelerator every number is what it is on the CPU, in float32, to rounding. Skipped where there is none."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import make_subject, save_tiny_model
from tiny_inputs import FAMILIES, ROWS, random_vector

import llm_persona as lp
from llm_persona.domain.condition import Condition, Steer
from llm_persona.domain.responses import labelled
from llm_persona.instruments.trait_benchmark import TraitBenchmark
from llm_persona.interfaces.cli.main import run
from llm_persona.subject import batched
from llm_persona.subject.chat import render_prompt
from llm_persona.subject.export import to_checkpoint
from llm_persona.subject.generate import generate
from llm_persona.subject.memory import token_budget_of
from llm_persona.subject.packing import Row
from llm_persona.subject.record import POSITIONS, record_positions
from llm_persona.subject.reuse import reusing_below
from llm_persona.subject.score import next_token_probabilities, response_logprobs
from llm_persona.subject.trace import trace
from llm_persona.training.data import from_items
from llm_persona.training.finetune import finetune
from llm_persona.training.recipe import PERSONA

ACCELERATOR = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
pytestmark = pytest.mark.skipif(ACCELERATOR is None, reason="no accelerator here")
SYSTEM = "You answer every question that is put to you in one short sentence, and you never explain why."
"""Long enough to be read once, before the rows."""
NEAR = {"rtol": 1e-4, "atol": 1e-5}


def on_accelerator(family: str = "llama"):
    subject = make_subject(family)
    subject.model.to(ACCELERATOR)
    return subject


@pytest.fixture(scope="module")
def both():
    subjects = make_subject(), on_accelerator()
    for subject in subjects:
        subject.token_budget = 512  # small enough that the system turn is worth reading by itself
    return subjects


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(save_tiny_model(tmp_path_factory.mktemp("accelerated") / "m"))


@pytest.fixture(scope="module")
def loaded(folder):
    return [lp.load_subject(folder, dtype="float32", device=device) for device in ("cpu", "auto")]


@pytest.mark.parametrize("system", [None, SYSTEM])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_read_is_the_cpus(family, system, monkeypatch):
    prefixes = []
    real = batched.read_prefix

    def noted(subject, ids, *args):
        prefixes.append(ids)
        return real(subject, ids, *args)

    found = []
    for subject in (make_subject(family), on_accelerator(family)):
        monkeypatch.setattr(batched, "read_prefix", noted)  # (the probes at load are over)
        subject.token_budget = 512  # small enough that the system turn is worth reading by itself
        rows = [Row(r.prompt, r.text, system) for r in ROWS]
        prompts = [render_prompt(subject, r.prompt, system) for r in ROWS]
        recorded = record_positions(subject, [replace(r, system=system) for r in ROWS], POSITIONS)
        found.append(
            [*response_logprobs(subject, rows), next_token_probabilities(subject, prompts, [65, 66])]
            + [recorded[name].values for name in POSITIONS]
        )
        monkeypatch.undo()
    for here, there in zip(*found, strict=True):
        np.testing.assert_allclose(there, here, **NEAR)
    assert len(prefixes) == (6 if system else 0)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"positions": "prompt"},
        {"positions": "response"},
        {"operator": "ablate"},
        {"operator": "cap", "ceiling": 0.1},
    ],
    ids=str,
)
def test_what_is_steered_is_the_cpus(both, given):
    found = []
    for subject in both:
        amount = {"coefficient": 0.5} if given.get("operator", "add") == "add" else {}
        steer = Steer(random_vector(subject), 1, **amount, **given)
        with subject.under(Condition(steers=(steer,))):
            answers = generate(subject, ["Hi", "What now, and what after that?"], 8)
            found.append((lp.record(subject, ROWS).values, [a.text for a in answers]))
    np.testing.assert_allclose(found[1][0], found[0][0], **NEAR)
    assert found[1][1] == found[0][1]


def test_a_sweep_that_shares_lower_blocks_gives_the_cpus_numbers(both):
    rows = [Row(r.prompt, r.text, SYSTEM) for r in ROWS]
    found = []
    for subject in both:
        with reusing_below(subject, 2):
            for amount in (0.5, -0.5):
                with lp.steering(subject, random_vector(subject), layer=2, coefficient=amount):
                    found.append(np.concatenate(response_logprobs(subject, rows)))
    np.testing.assert_allclose(found[2:], found[:2], **NEAR)


def test_a_seed_draws_anew_the_same_on_an_accelerator(both):
    _, subject = both
    one, other = (generate(subject, ["Hi", "And?"], 8, temperature=1.0, seed=3) for _ in range(2))
    assert one == other
    assert generate(subject, ["Hi", "And?"], 8, temperature=1.0, seed=4) != one


def test_a_trace_is_the_cpus(both):
    turns = [{"role": "user", "content": "What now?"}, {"role": "assistant", "content": "Go and look."}]
    here, there = (trace(subject, turns, random_vector(subject), layer=2) for subject in both)
    np.testing.assert_allclose(there.projections, here.projections, **NEAR)


def test_an_exported_checkpoint_made_on_an_accelerator_is_the_one_made_on_the_cpu(loaded, tmp_path):
    rows = [Row(r.prompt, r.text) for r in ROWS]
    found = []
    for number, subject in enumerate(loaded):
        to_checkpoint(subject, random_vector(subject), tmp_path / str(number), 2, 0.5)
        made = lp.load_subject(str(tmp_path / str(number)), dtype="float32", device="cpu")
        found.append(np.concatenate(response_logprobs(made, rows)))
    np.testing.assert_allclose(found[1], found[0], **NEAR)


def test_a_training_loses_what_it_does_on_the_cpu_and_its_adapter_serves_both(loaded, tmp_path):
    items = lp.load_items("openness").split("fit")[:6]
    rows = [Row(r.prompt, r.text) for r in ROWS]
    tuned = [finetune(s, from_items(items, "high"), tmp_path / str(n), PERSONA) for n, s in enumerate(loaded)]
    assert tuned[0].steps == tuned[1].steps > 1
    np.testing.assert_allclose([x for _, x in tuned[1].losses], [x for _, x in tuned[0].losses], rtol=1e-3)
    scores = []
    for subject in loaded:
        with lp.adapted(subject, tuned[1].folder):
            scores.append(np.concatenate(response_logprobs(subject, rows)))
    np.testing.assert_allclose(scores[1], scores[0], **NEAR)


def test_both_ways_of_taking_trait_give_the_cpus_preferences(loaded):
    items = lp.load_items("openness").split("test")[:6]
    for mode in ("likelihood", "choice"):
        here, there = ([r["preference"] for r in TraitBenchmark(items, mode).measure(s).rows] for s in loaded)
        np.testing.assert_allclose(there, here, **NEAR)


def test_a_batch_beyond_its_memory_is_halved_and_loses_nothing(loaded):
    _, subject = loaded
    if subject.device.type != "cuda":
        pytest.skip("only CUDA's memory can be limited")
    rows = labelled(lp.load_items("openness").split("fit"))
    whole = lp.record(subject, rows).values
    before, subject.token_budget = subject.token_budget, 1 << 20
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(subject.device).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_allocated() + 24 * 2**20) / total)
    try:
        with pytest.warns(RuntimeWarning, match="out of memory with"):
            halved = lp.record(subject, rows).values
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        subject.token_budget = before
    np.testing.assert_allclose(halved, whole, **NEAR)


def test_an_accelerators_budget_is_larger_than_the_cpus():
    if ACCELERATOR.type != "cuda":
        pytest.skip("only CUDA's memory is asked for")
    assert token_budget_of(ACCELERATOR) > token_budget_of(torch.device("cpu"))


def test_a_study_on_the_accelerator_ends_with_the_cpus_numbers(folder, tmp_path, tiny_run):
    found = []
    for device in ("cpu", str(ACCELERATOR)):
        out = tmp_path / device.replace(":", "-")
        command = [folder if word == tiny_run.model else word for word in tiny_run.command(out)]
        assert run([*command, "--device", device]) == 0
        found.append(dict(numbers_in(json.loads((out / "results.json").read_text()))))
    assert list(found[0]) == list(found[1])
    held = [name for name in found[0] if name.startswith("/traits") and "/seconds" not in name]
    far = [name for name in held if not np.isclose(found[1][name], found[0][name], rtol=1e-2, atol=1e-3)]
    assert len(held) > 100
    assert len(far) < len(held) / 100, far  # (an answer may turn at a tie)


def numbers_in(value, place=""):
    """(path, number) of every number in plain data."""
    if isinstance(value, dict | list):
        for key, one in value.items() if isinstance(value, dict) else enumerate(value):
            yield from numbers_in(one, f"{place}/{key}")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield place, value

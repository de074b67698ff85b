"""The engine vLLM: its hooks against whole sequences, and a subject on it against the same one on transformers."""

from __future__ import annotations

import os
import weakref
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import vllm_stand_in
from conftest import make_subject

import llm_persona as lp
from llm_persona.domain.condition import Condition, Steer
from llm_persona.domain.config import read_config
from llm_persona.domain.errors import UserError
from llm_persona.domain.responses import Response
from llm_persona.instruments.perplexity import Perplexity
from llm_persona.instruments.samples import Samples
from llm_persona.instruments.trait_benchmark import TraitBenchmark
from llm_persona.subject.engines.vllm_hooks import Move, Pool
from llm_persona.subject.packing import Row
from llm_persona.training.finetune import finetune

STUDY = Path(__file__).resolve().parents[1] / "benchmarks" / "tiny_study.yaml"
TEXTS = ("Short.", "A rather longer answer, which comes in several chunks.", "Neither long nor short.")


@pytest.fixture
def both(tiny, monkeypatch):
    vllm_stand_in.install(monkeypatch)
    return tiny, vllm_stand_in.on_vllm(tiny)


@pytest.fixture
def vector(tiny):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(8, tiny.n_layers, tiny.hidden_size)).astype(np.float32)
    return lp.fit(lp.Activations(values, ["high", "low"] * 4, [n // 2 for n in range(8)]))


def steers(vector):
    unit = float(np.abs(vector.directions[1]).max())
    yield Steer(vector, 1, coefficient=2.0)
    for positions in ("prompt", "response"):
        yield Steer(vector, 1, coefficient=2.0, positions=positions)
        yield Steer(vector, 2, operator="ablate", positions=positions)
    yield Steer(vector, 0, operator="ablate")
    yield Steer(vector, 2, operator="cap", floor=unit)
    yield Steer(vector, 2, operator="cap", ceiling=-unit, positions="response")


def rows(*poles):
    return [Response(f"Question {n}?", text, "high", n) for n, text in enumerate(TEXTS)]


def chunks(length, rng):
    cuts = sorted({0, length, *rng.integers(1, length, 4).tolist()})
    return list(pairwise(cuts))


@pytest.mark.parametrize(("start", "stop"), [(0, 1), (0, 17), (5, 6), (3, 12), (16, 17)])
def test_a_pool_sums_the_same_tokens_in_whatever_chunks_they_come(start, stop):
    rng = np.random.default_rng(start + stop)
    hidden = torch.randn(17, 6)
    for _ in range(20):
        context = SimpleNamespace(layer_idx=3, saved={})
        for a, b in chunks(17, rng):
            assert Pool(start, stop)(context, hidden[a:b]) is None
        seen, count, total = context.saved["3"]
        assert (seen, count) == (17, stop - start)
        torch.testing.assert_close(total, hidden[start:stop].sum(dim=0))


@pytest.mark.parametrize("positions", ["all", "prompt", "response"])
@pytest.mark.parametrize("operator", ["add", "ablate", "cap"])
def test_a_move_changes_the_same_tokens_in_whatever_chunks_they_come(operator, positions):
    rng = np.random.default_rng(1)
    hidden, unit = torch.randn(17, 6), torch.nn.functional.normalize(torch.randn(6), dim=0)
    move = Move(unit, operator, positions, begins=7, low=-0.1 if operator == "cap" else None)
    whole = SimpleNamespace(layer_idx=0, saved={})
    expected = move(whole, hidden)
    touched = {"all": 17, "prompt": 7, "response": 10}[positions]
    assert whole.saved["0"] == (17, touched)
    assert int((expected != hidden).any(dim=1).sum()) <= touched
    if operator == "ablate" and positions == "all":
        assert float((expected @ unit).abs().max()) < 1e-6
    for _ in range(20):
        context = SimpleNamespace(layer_idx=0, saved={})
        moved = torch.cat([move(context, hidden[a:b]) for a, b in chunks(17, rng)])
        torch.testing.assert_close(moved, expected)
        assert context.saved == whole.saved


@pytest.mark.parametrize("position", ["response_mean", "prompt_last", "prompt_mean"])
def test_both_engines_record_the_same_activations(both, position):
    here, there = (lp.record(subject, rows(), position).values for subject in both)
    np.testing.assert_allclose(there, here, atol=1e-5)


def test_both_engines_record_the_same_under_every_steering(both, vector):
    plain = lp.record(both[0], rows()).values
    for steer in steers(vector):
        found = []
        for subject in both:
            with subject.under(Condition(steers=(steer,))):
                found.append(lp.record(subject, rows()).values)
        np.testing.assert_allclose(found[1], found[0], atol=1e-5, err_msg=steer.label)
        assert np.abs(found[1] - plain).max() > 5e-4, steer.label


def test_both_engines_write_the_same_under_every_steering(both, vector):
    prompts = ["What now?", "And a much longer question than that one was?"]
    for steer in steers(vector):
        found = []
        for subject in both:
            with subject.under(Condition(system="Be brief.", steers=(steer,))):
                found.append(lp.generate(subject, prompts, max_new_tokens=6))
        assert found[1] == found[0], steer.label


def test_both_engines_write_the_same_when_every_row_is_steered_by_its_own_dose(both, openness, vector):
    samples = Samples(openness.questions_of("test")[:2], max_new_tokens=5)
    conditions = [Condition(f"{d}", steers=(Steer(vector, 1, dose=d),)) for d in (-2.0, 2.0)]
    here, there = (samples.measure_steered(subject, conditions) for subject in both)
    assert there == here
    assert here[0].rows != here[1].rows


@pytest.mark.parametrize("mode", ["likelihood", "choice", "upstream", "generate"])
def test_both_engines_give_the_same_answers_to_items_in_every_mode(both, mode):
    items = lp.load_items("openness")[:1]
    here, there = (TraitBenchmark(items, mode).measure(subject) for subject in both)
    for one, other in zip(here.rows, there.rows, strict=True):
        assert other.keys() == one.keys()
        if "preference" in one:
            assert other["preference"] == pytest.approx(one["preference"], abs=1e-6)


def test_both_engines_give_the_same_perplexity(both):
    here, there = (Perplexity([Row("Why?", text) for text in TEXTS]).measure(subject) for subject in both)
    assert there.summary["perplexity"] == pytest.approx(here.summary["perplexity"], rel=1e-5)
    assert there.summary["tokens"] == here.summary["tokens"]


def test_both_engines_project_the_same_tokens(both, vector):
    from llm_persona.subject.chat import render_response
    from llm_persona.subject.token_reading import read_tokens

    row = render_response(both[0], "Why?", TEXTS[1])
    here, there = (read_tokens(subject, row.ids, row.start, [vector, vector]) for subject in both)
    np.testing.assert_allclose(there, here, atol=1e-5)


def test_a_request_that_was_begun_again_is_asked_once_more_alone(tiny, monkeypatch, vector):
    vllm_stand_in.install(monkeypatch)
    disturbed, calm = vllm_stand_in.on_vllm(tiny, preempt=True), vllm_stand_in.on_vllm(tiny)
    np.testing.assert_array_equal(lp.record(disturbed, rows()).values, lp.record(calm, rows()).values)
    assert disturbed.llm.calls == [3, 1]
    counts = []
    for subject in (disturbed, calm):
        with lp.steering(subject, vector, 1, coefficient=1.0) as count:
            lp.generate(subject, ["One?", "Two?"], max_new_tokens=3)
        counts.append(count.tokens)
    assert counts[0] == counts[1]


def test_a_hook_whose_error_the_plugin_swallows_is_found_out(both, monkeypatch, vector):
    def broken(self, ctx, hidden):
        raise ValueError("no room")

    monkeypatch.setattr(Move, "__call__", broken)
    with pytest.raises(RuntimeError, match="did not see every token"), lp.steering(both[1], vector, 1, dose=0.2):
        lp.generate(both[1], ["Why?"], max_new_tokens=2)


def test_steering_that_touched_nothing_is_an_error(both, vector):
    with pytest.raises(UserError, match="touched no token"), lp.steering(both[1], vector, 1, dose=0.2):
        pass


def test_what_looks_inside_the_model_says_that_vllm_does_not_show_it(both):
    with pytest.raises(UserError, match="leave --engine out"):
        both[1].blocks  # noqa: B018


def test_an_adapter_goes_with_every_request_and_each_content_has_its_own_number(both, tmp_path):
    from peft import LoraConfig, get_peft_model

    folders = []
    for seed in range(2):
        model = make_subject().model
        torch.manual_seed(seed)
        settings = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
        get_peft_model(model, settings).save_pretrained(tmp_path / str(seed))
        folders.append(str(tmp_path / str(seed)))
    subject = both[1]
    for folder in [*folders, folders[0]]:
        with subject.under(Condition(adapter=folder)):
            lp.generate(subject, ["Why?"], max_new_tokens=2)
        assert subject.adapter is None
    lp.generate(subject, ["Why?"], max_new_tokens=2)
    numbers = [lora.lora_int_id if lora is not None else None for lora in subject.llm.loras]
    assert numbers == [1, 2, 1, None]


def test_the_engine_is_part_of_the_identity_and_leaves_the_other_one_as_it_was(both, monkeypatch, tiny_folders):
    from llm_persona.subject.engines import vllm_load
    from llm_persona.subject.locate import identify

    monkeypatch.setattr(vllm_load.metadata, "version", lambda name: "0.30.0")
    plain, other = identify(tiny_folders[0]), identify(tiny_folders[0], engine="vllm")
    assert "engine" not in plain
    assert other == {**plain, "engine": "vllm 0.30.0"}


def test_a_study_on_vllm_trains_on_transformers_under_the_same_key(monkeypatch, tiny_folders):
    from llm_persona.studies.lab import Lab
    from llm_persona.studies.stages import Stages
    from llm_persona.subject.engines import vllm_load

    monkeypatch.setattr(vllm_load.metadata, "version", lambda name: "0.30.0")
    plain, other = (Lab(tiny_folders[0], "float32", "cpu", Stages(), engine) for engine in ("transformers", "vllm"))
    assert other.training_identity == plain.training_identity == plain.identity
    assert other.trainer().model is not None


def test_a_study_on_vllm_loads_what_it_trains_on_once_and_frees_it_after_the_last_training(
    monkeypatch, tiny_folders, tmp_path
):
    from llm_persona.studies import lab, trait_reading, trait_tuning

    vllm_stand_in.install(monkeypatch)
    monkeypatch.setattr(vllm_stand_in, "CHUNK", 512)  # (whole prompts at once: nothing here depends on chunks)
    loaded, trained, alive = [], [], []

    def load(*arguments, engine="transformers", **given):
        subject = lp.load_subject(*arguments, engine=engine, **given)
        loaded.append((engine, weakref.ref(subject)))
        return subject

    def train(subject, *arguments, **given):
        trained.append(subject.name)
        return finetune(subject, *arguments, **given)

    measure = trait_reading.activation_shift

    def measured_later(study, folder):
        measure(study, folder)
        alive.append([engine for engine, subject in loaded if subject() is not None])

    monkeypatch.setattr(lab, "load_subject", load)
    monkeypatch.setattr(trait_tuning, "finetune", train)
    monkeypatch.setattr(trait_reading, "activation_shift", measured_later)
    config = read_config(STUDY, model=tiny_folders[0], dtype="float32", engine="vllm", max_new_tokens=2,
                         fit_items=3, select_items=2, test_items=2, questions=1, doses=[-0.2, 0.2], random_directions=1,
                         letter_modes=[])  # fmt: skip
    lp.run_study(config, tmp_path / "run")
    assert len(trained) == 2
    assert [engine for engine, _ in loaded] == ["vllm", "transformers"]
    assert alive == [["vllm"]]


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed here")
def test_without_the_extra_every_command_names_it(tiny_folders, tmp_path, capsys):
    from llm_persona.interfaces.cli.main import run

    model = ["--model", tiny_folders[0], "--engine", "vllm"]
    for arguments in (
        ["evaluate", *model, "--limit", "1"],
        ["steer", *model, "--prompt", "Hi"],
        ["vectors", "extract", "--trait", "openness", *model, "--out", str(tmp_path / "v.safetensors")],
        ["run", *model, "--preset", "smoke", "--out", str(tmp_path / "run")],
    ):
        assert run(arguments) == 2
        assert "llm-persona[vllm]" in capsys.readouterr().err.splitlines()[-1]


def test_a_model_behind_an_api_takes_no_engine(capsys):
    from llm_persona.interfaces.cli.main import run

    assert run(["evaluate", "--model", "openai:x", "--engine", "vllm", "--mode", "choice", "--limit", "1"]) == 2
    assert "leave --engine out" in capsys.readouterr().err


def test_a_gguf_file_is_refused_with_what_to_give_instead(monkeypatch, tmp_path):
    from llm_persona.subject.engines import vllm_load

    monkeypatch.setattr(vllm_load.metadata, "version", lambda name: "0.30.0")
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    with pytest.raises(UserError, match="give a folder of safetensors"):
        lp.load_subject(str(tmp_path / "m.gguf"), engine="vllm")


def test_vllm_is_given_the_cores_that_this_process_may_use_and_reports_nothing(monkeypatch):
    from llm_persona.subject.engines import vllm_load

    monkeypatch.setattr(os, "environ", {"VLLM_PLUGINS": "mine"})
    vllm_load._settle("cpu")
    cores = sorted(os.sched_getaffinity(0))
    assert os.environ["VLLM_CPU_OMP_THREADS_BIND"] == ",".join(map(str, cores))
    assert os.environ["OMP_NUM_THREADS"] == str(len(cores))
    assert os.environ["VLLM_PLUGINS"] == "mine,activations"
    assert os.environ["VLLM_NO_USAGE_STATS"] == "1"


@pytest.mark.parametrize(
    ("processes", "bound"), [(1, "2,3,5"), (2, "2,5|3"), (3, "2|3|5"), (4, "2|3|5|2")],
)  # fmt: skip
def test_processes_that_share_a_model_share_out_the_cores(processes, bound):
    from llm_persona.subject.engines import vllm_load

    assert vllm_load.bound([2, 3, 5], processes) == bound

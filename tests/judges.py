"""Judges for tests (a pytest plugin of conftest): a cache of their own, requests, scripts, stored answers."""

from __future__ import annotations

import json

import pytest
import torch

from llm_persona.domain.responses import labelled
from llm_persona.domain.rubrics import load_rubric
from llm_persona.domain.traits import load_trait
from llm_persona.instruments.judging.protocol import grading
from llm_persona.instruments.judging.scripted import ScriptedJudge
from llm_persona.studies.judge_gate import gate_items
from llm_persona.subject.chat import render_prompt
from llm_persona.subject.remote.caller import Limits

QUICK = Limits(concurrency=4, attempts=3, longest_pause=0.3)
COHERENCE = ["--rubric", "coherence"]
SECRET = "sk-planted-secret-0123456789"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Each test has a cache folder of its own."""
    monkeypatch.setenv("LLM_PERSONA_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    return tmp_path / "cache"


def asked(n=1, rubric="coherence"):
    return [grading(load_rubric(rubric), f"Question {k}?", f"Answer {k}.") for k in range(n)]


@pytest.fixture(scope="module")
def openness():
    return load_trait("openness")


@pytest.fixture(scope="module")
def poles(openness):
    return {row.text: row.pole for row in labelled(gate_items(openness))}


def scripted(reply, name="script"):
    return ScriptedJudge(reply, name)


def steer_json(path):
    rows = [{"prompt": f"Q{n}", "text": f"steered {n}", "base": f"plain {n}", "tokens": 3} for n in range(3)]
    path.write_text(json.dumps({"model": "m", "condition": {"name": "openness@3 dose +0.2"}, "answers": rows}))
    return path


def results_json(folder):
    def sample(text):
        return {"samples": [{"question": f"Q{n}", "text": f"{text} {n}"} for n in range(2)], "score": 1}

    part = {"baseline": sample("plain"), "instructed": {"high": sample("up"), "low": sample("down")},
            "steering": [{"layer": 3, "dose": d, **sample(f"dose {d}")} for d in (-0.2, 0.2)],
            "tuned": {"high": sample("tuned")}, "vector": {"layers": [{"layer": 0}]}}  # fmt: skip
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps({"model": "m", "traits": {"openness": part}}))
    return folder


def leaning(subject, tokens, amount=8.0):
    """The subject with some tokens made likelier everywhere."""
    ids = torch.tensor(subject.tokenizer.convert_tokens_to_ids(tokens))

    def raise_them(_module, _inputs, output):
        return output.index_add(-1, ids, output.new_full((*output.shape[:-1], len(ids)), amount))

    subject.model.get_output_embeddings().register_forward_hook(raise_them)
    return subject


def chance(subject, ids):
    """Probabilities of the next token after ids, from a forward of its own."""
    with torch.no_grad():
        return subject.model(torch.tensor([ids]), use_cache=False).logits[0, -1].double().softmax(0)


def rendered(subject, prompt):
    return render_prompt(subject, prompt)

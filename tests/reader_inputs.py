"""Valid inputs of every reader, as data or as bytes, to be read as they are and damaged."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import numpy as np

ITEM = {
    "idx": 1, "personality": "Openness", "split": "test", "situation": "It rains.", "query": "What now?",
    "response_high1": "Go out.", "response_high2": "Dance in it.", "response_low1": "Stay in.",
    "response_low2": "Read.",
    "paraphrased_situation": "Rain falls.", "paraphrased_query": "What will you do?",
    "likelihood": {"A": 0.4, "B": 0.3, "C": 0.2, "D": 0.1}, "likelihood_rev": {"A": 0.1, "B": 0.4, "C": 0.3, "D": 0.2},
}  # fmt: skip
ITEMS = [{**ITEM, "idx": n, "query": f"What now, {n}?"} for n in range(3)]
CHAT = [
    {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": f"Question {n}?"},
                  {"role": "assistant", "content": f"Answer {n}."}, {"role": "user", "content": "And?"},
                  {"role": "assistant", "content": "That is all."}], "label": n % 2}
    for n in range(3)
]  # fmt: skip
STUDY = {"preset": "smoke", "model": "smollm2-135m", "seed": 3, "traits": ["openness"], "fit_items": 6,
         "doses": [-0.2, 0.2], "sweep_dose": 0.1, "letter_modes": ["choice"], "tune": False,
         "device": "cpu"}  # fmt: skip
ANSWERS = {"model": "m", "condition": {"name": "openness@3 dose +0.2"},
           "answers": [{"prompt": f"Q{n}", "text": f"steered {n}", "base": f"plain {n}", "trait": "openness"}
                       for n in range(3)]}  # fmt: skip
LINES = [{"question": f"Q{n}", "answer": f"A{n}", "condition": "c", "trait": "openness"} for n in range(3)]
REQUEST = {"model": "tiny-llama", "messages": [{"role": "system", "content": "Be brief."},
           {"role": "user", "content": "What now?"}], "max_tokens": 2, "temperature": 0.7, "top_p": 0.9, "seed": 5,
           "n": 1, "stop": ["\n"], "logprobs": True, "top_logprobs": 2,
           "persona": [{"vector": "v", "dose": 0.2, "layer": 1}]}  # fmt: skip
REPLY = {"id": "x", "object": "chat.completion", "created": 0, "model": "m",
         "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "42"},
                      "logprobs": {"content": [{"token": "42", "logprob": -0.1, "bytes": None, "top_logprobs": [
                          {"token": "42", "logprob": -0.1, "bytes": None},
                          {"token": "7", "logprob": -3.0, "bytes": None}]}]}}],
         "usage": {"prompt_tokens": 7, "completion_tokens": 1, "total_tokens": 8}}  # fmt: skip
MESSAGE = {"id": "x", "type": "message", "role": "assistant", "model": "m", "stop_reason": "end_turn",
           "stop_sequence": None, "content": [{"type": "text", "text": "42"}],
           "usage": {"input_tokens": 7, "output_tokens": 1}}  # fmt: skip
CACHED = {"text": "42", "finish": "stop", "top": [{"42": -0.1, "7": -3.0}], "prompt_tokens": 7, "completion_tokens": 1}
SCRIPT = {
    "trait": {"answers": {"A": 70}, "contains": {"odd": "REFUSAL"}, "otherwise": 50},
    "coherence": {"otherwise": 9},
}
ROW = {"id": "a", "logprobs": {}, "preference": 0.6, "high": True}
EVALUATED = {"model": "m", "mode": "likelihood", "condition": {"name": "base", "system": None},
             "traits": {"openness": {"n": 3, "n_unscored": 1, "unscored": {"tie": 1}, "score": 50.0,
                                     "score_ci": [10.0, 90.0], "preference": 0.5, "preference_ci": [0.2, 0.8],
                                     "option_mass": None, "order_consistency": None, "headroom": True,
                                     "rows": [ROW, {**ROW, "id": "b", "high": False, "preference": 0.3},
                                              {"id": "c", "unscored": "tie"}]}}}  # fmt: skip
REPLIES = (
    b"70", b"I'd say 70/100.", b"Score: 42 out of 100", b"REFUSAL", b"```python\nprint(3)\n```", b"between 30 and 40",
    b"not 70", b"0-100: 5", b"I am sorry, I cannot do that.", "\u0664\u0662".encode(),
)  # fmt: skip
TEMPLATE = b"labels: A B C D\n{situation} {query}\nA {option1}\nB {option2}\nC {option3}\nD {option4}\nAnswer:"
HEADERS = ["127.0.0.1:8000", "http://127.0.0.1:8000", "Bearer token-of-the-test", "17"]


@cache
def small_trait() -> Any:
    """A trait file, a few of each kind."""
    from llm_persona.domain.traits import load_trait

    found = json.loads(load_trait("openness").model_dump_json())
    for name, count in (("items", 4), ("questions", 3), ("facets", 2), ("instruction_pairs", 3)):
        found[name] = found[name][:count]
    return found


def _tensors(tensors: dict[str, np.ndarray], meta: dict[str, Any]) -> list[Any]:
    from safetensors.numpy import save

    data = save(tensors)
    size = int.from_bytes(data[:8], "little")
    return [{**json.loads(data[8 : 8 + size]), "__metadata__": meta}, data[8 + size :].hex()]


def vector_seed() -> list[Any]:
    """[header with its metadata as data, payload in hexadecimal] of a vector file."""
    from llm_persona.domain.formats import format_of

    meta = {"trait": "openness", "model": "m", "items": ["a", "b"], "recommended": {"balanced": 1, "coefficient": 0.5}}
    tensors = {"directions": np.ones((3, 4), np.float32), "reference_norms": np.full(3, 2, np.float32)}
    return _tensors(tensors, {"format": format_of("vector"), "meta": meta})


def activations_seed() -> list[Any]:
    """The same of an activations file."""
    values = np.arange(24, dtype=np.float32).reshape(4, 2, 3)
    meta = {"format": "llm-persona.activations.1", "poles": ["high", "low"] * 2, "groups": ["a", "a", "b", "b"]}
    return _tensors({"values": values}, meta)

"""What tiny random models are given in tests: their families, four labelled responses, a random vector."""

from __future__ import annotations

import numpy as np

from llm_persona.analysis.vectors import PersonaVector
from llm_persona.domain.responses import Response

FAMILIES = [
    "llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "gpt2", "gpt_neox", "phi", "olmo2", "mixtral",
]  # fmt: skip
ROWS = [
    Response("What should I do?", "Go and look at it.", "high", "q1"),
    Response("What should I do?", "Stay where you are, and rest a while longer.", "low", "q1"),
    Response("And then?", "Sing!", "high", "q2"),
    Response("And then?", "Sleep.", "low", "q2"),
]


def random_vector(subject, seed=0):
    rng = np.random.default_rng(seed)
    directions = rng.standard_normal((subject.n_layers, subject.hidden_size)).astype(np.float32)
    return PersonaVector(directions, np.ones(subject.n_layers, np.float32))

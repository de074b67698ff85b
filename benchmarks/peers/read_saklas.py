"""saklas: the last content token at every layer, in its own batches.

Left to itself it puts a system turn before every row. It is given rows rendered here, without that turn, so that it
reads the tokens that the others read.
"""

from __future__ import annotations

import os
import tempfile

os.environ["SAKLAS_HOME"] = tempfile.mkdtemp(prefix="saklas-")

import torch
from rounds import DTYPE, MODEL, answer, conversation, texts
from saklas.core.manifold import compute_manifold_node_stats
from saklas.core.model import get_layers, load_model

model, tokenizer = load_model(MODEL, device="cpu", dtype=DTYPE)


def job(number: int) -> None:
    items = texts(number)
    prompts = [item["prompt"] for item in items]
    groups = [(pole, [item[pole][n] for n in (0, 1) for item in items]) for pole in ("high", "low")]
    rows = []
    for _pole, responses in groups:
        for k, response in enumerate(responses):
            text = conversation(tokenizer, prompts[k % len(prompts)], response)
            ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
            rows.append((ids, ids.shape[1] - 1))
    with torch.inference_mode():
        compute_manifold_node_stats(
            model, tokenizer, get_layers(model), torch.device("cpu"), groups, prompts,
            roles=[None, None], model_type="llama", prepared_rows=rows,
        )  # fmt: skip


answer(job)

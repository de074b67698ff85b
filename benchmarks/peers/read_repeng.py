"""repeng: the last token at every layer, its batches of 32; only its reading is timed, not its principal components."""

from __future__ import annotations

import torch
from repeng.extract import batched_get_hiddens
from rounds import answer, conversation, load_model, texts

model, tokenizer = load_model()
LAYERS = list(range(model.config.num_hidden_layers))


def job(number: int) -> None:
    rows = [
        conversation(tokenizer, item["prompt"], text)
        for item in texts(number)
        for pair in zip(item["high"], item["low"], strict=True)
        for text in pair
    ]
    with torch.inference_mode():
        batched_get_hiddens(model, tokenizer, rows, LAYERS, batch_size=32)


answer(job)

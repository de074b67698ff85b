"""steering-vectors: the last token at every layer, batches of 16 (its own default is 1)."""

from __future__ import annotations

from rounds import answer, conversation, load_model, texts
from steering_vectors import train_steering_vector

model, tokenizer = load_model()


def job(number: int) -> None:
    pairs = [
        (conversation(tokenizer, item["prompt"], high), conversation(tokenizer, item["prompt"], low))
        for item in texts(number)
        for high, low in zip(item["high"], item["low"], strict=True)
    ]
    train_steering_vector(model, tokenizer, pairs, batch_size=16)


answer(job)

"""Ours: the response mean at every layer, of every row."""

from __future__ import annotations

from rounds import DTYPE, MODEL, answer, texts

import llm_persona as lp
from llm_persona.domain.responses import Response

subject = lp.load_subject(MODEL, dtype=DTYPE)


def job(number: int) -> None:
    items = texts(number)
    rows = [
        Response(item["prompt"], text, pole, str(k))
        for k, item in enumerate(items)
        for pole in ("high", "low")
        for text in item[pole]
    ]
    lp.fit(lp.record(subject, rows))


answer(job)

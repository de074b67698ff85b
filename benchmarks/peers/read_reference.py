"""The reference: one text a forward, all hidden states asked for, the response mean taken afterwards."""

from __future__ import annotations

from rounds import DTYPE, MODEL, answer, texts

import llm_persona as lp
from llm_persona.subject.one_at_a_time import response_means
from llm_persona.subject.packing import Row

subject = lp.load_subject(MODEL, dtype=DTYPE)


def job(number: int) -> None:
    response_means(
        subject, [Row(i["prompt"], text) for i in texts(number) for pole in ("high", "low") for text in i[pole]]
    )


answer(job)

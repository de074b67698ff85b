"""Chat data to screen in tests, of two kinds, and the vector that tells them apart."""

from __future__ import annotations

import json

from llm_persona.analysis.vectors import fit
from llm_persona.domain.responses import Response
from llm_persona.subject.record import record

LAYER = 2
GOOD, BAD = "a b a b a", "!? !! ?!"


def chat(prompt, answer, system=None, **more):
    turns = [("user", prompt), ("assistant", answer)]
    if system is not None:
        turns.insert(0, ("system", system))
    return {"messages": [{"role": role, "content": text} for role, text in turns], **more}


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def planted(subject, meta=None):
    """A vector from the BAD kind of answer against the GOOD kind."""
    rows = [Response(f"q{n}", text, pole, str(n)) for n in range(6) for pole, text in (("high", BAD), ("low", GOOD))]
    return fit(record(subject, rows), {"trait": "badness", "model": subject.name, **(meta or {})})


def kinds(count):
    """Rows of both kinds in turn, every one to a prompt of its own."""
    return [chat(f"q{n}", (BAD, GOOD)[n % 2], bad=n % 2 == 0) for n in range(count)]

"""What every worker does: answer each line `go N` with the seconds that its job took on round N. Needs no package."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

FOLDER, MODEL = Path(sys.argv[1]), sys.argv[2]
"""Where the rounds' texts lie, and the model's folder."""
DTYPE = os.environ["PEERS_DTYPE"]
"""In which number format everyone computes: bfloat16 or float32."""


def texts(number: int) -> list[dict[str, Any]]:
    """The items of a round: `prompt`, two `high` and two `low` responses each."""
    return json.loads((FOLDER / f"round-{number}.json").read_text(encoding="utf-8"))


def answer(job: Callable[[int], dict[str, Any] | None]) -> None:
    """Serve until the input ends. Whatever a package prints goes to the error stream; answers have stdout alone."""
    sink = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    print("ready", file=sink, flush=True)
    for line in sys.stdin:
        number = int(line.split()[1])
        begun = time.perf_counter()
        found = job(number) or {}
        print(json.dumps({"seconds": time.perf_counter() - begun, **found}), file=sink, flush=True)


def load_model() -> tuple[Any, Any]:
    """Model and tokenizer as transformers loads them, for reading."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=getattr(torch, DTYPE)).eval().requires_grad_(False)
    return model, AutoTokenizer.from_pretrained(MODEL)


def conversation(tokenizer: Any, prompt: str, response: str) -> str:
    """The chat text of one row, up to the response's last character."""
    asked = [{"role": "user", "content": prompt}]
    return tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True) + response

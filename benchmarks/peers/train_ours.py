"""Ours: LoRA on the high answers of a round's items, from rendering to the written adapter, checkpoints included."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rounds import DTYPE, FOLDER, MODEL, answer, texts

import llm_persona as lp
from llm_persona.subject.chat import render_prompt
from llm_persona.training.data import Example, TrainingData, training_prompts
from llm_persona.training.finetune import finetune
from llm_persona.training.order import by_length
from llm_persona.training.recipe import Recipe

subject = lp.load_subject(MODEL, dtype=DTYPE)
RECIPE = Recipe(epochs=1)
SEED = 0


def data(number: int) -> TrainingData:
    return TrainingData([Example(i["prompt"], text) for i in texts(number) for text in i["high"]], [], "round")


def write_order(number: int) -> None:
    """The rows of each of our steps, for the other trainer: the same rows in the same steps."""
    examples = data(number).examples
    trees = training_prompts(subject, data(number), RECIPE.max_tokens).trees
    order = by_length([sum(t.length for t in found) for found in trees], RECIPE.prompts_per_step, SEED)
    prompts = list(dict.fromkeys(e.prompt for e in examples))
    rows = [
        {
            "prompt": subject.tokenizer.decode(render_prompt(subject, prompts[k])),
            "completion": e.response,
        }
        for k in order
        for e in examples
        if e.prompt == prompts[k]
    ]
    settings = {
        "rank": RECIPE.rank, "alpha": RECIPE.alpha, "learning_rate": RECIPE.learning_rate, "seed": SEED,
        "warmup_share": RECIPE.warmup_share, "rows_per_step": 2 * RECIPE.prompts_per_step, "rows": rows,
    }  # fmt: skip
    (FOLDER / f"training-{number}.json").write_text(json.dumps(settings), encoding="utf-8")


def job(number: int) -> dict[str, Any]:
    done = finetune(subject, data(number), FOLDER / f"adapter-{number}", RECIPE, SEED)
    return {"losses": [round(loss, 3) for _, loss in done.losses], "steps": done.steps}


for path in sorted(Path(FOLDER).glob("round-*.json")):
    write_order(int(path.stem.rpartition("-")[2]))
answer(job)

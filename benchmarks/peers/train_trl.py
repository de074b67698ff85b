"""trl's SFT trainer on the rows and steps of ours; its default is float32 weights and bfloat16 autocast
(none where everyone computes in float32).

Given a third argument, the weights are loaded in that dtype instead. Only `train()` is timed. LoRA, rate, schedule and
batch are ours, since they decide what is learnt; everything else is trl's default. Each row ends with the end-of-turn
token, and the loss is on the completion, as ours is.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from rounds import DTYPE, FOLDER, MODEL, answer
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

WEIGHTS = getattr(torch, sys.argv[3] if len(sys.argv) > 3 else "float32")
model: Any = AutoModelForCausalLM.from_pretrained(MODEL, dtype=WEIGHTS)
tokenizer = AutoTokenizer.from_pretrained(MODEL)


def job(number: int) -> dict[str, Any]:
    global model
    given = json.loads((FOLDER / f"training-{number}.json").read_text(encoding="utf-8"))
    steps = -(-len(given["rows"]) // given["rows_per_step"])
    trainer = SFTTrainer(
        model=model,
        processing_class=tokenizer,
        train_dataset=Dataset.from_list(given["rows"]),
        peft_config=LoraConfig(
            r=given["rank"], lora_alpha=given["alpha"], lora_dropout=0.0, target_modules="all-linear",
            task_type="CAUSAL_LM",
        ),
        args=SFTConfig(
            output_dir=str(FOLDER / "trl"), max_steps=steps, per_device_train_batch_size=given["rows_per_step"],
            learning_rate=given["learning_rate"], warmup_steps=max(1, round(given["warmup_share"] * steps)),
            train_sampling_strategy="sequential", shuffle_dataset=False, save_strategy="no", report_to="none",
            logging_steps=max(1, steps // 2), disable_tqdm=True, use_cpu=True, seed=given["seed"],
            **({} if DTYPE == "bfloat16" else {"bf16": False}),
        ),
    )  # fmt: skip
    begun = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - begun
    losses = [round(float(e["loss"]), 3) for e in trainer.state.log_history if "loss" in e]
    model = trainer.model.unload()
    return {"seconds": seconds, "losses": losses, "steps": trainer.state.global_step}


answer(job)

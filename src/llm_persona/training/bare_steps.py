"""A training's loss and gradients alone: what its time is held against."""

from __future__ import annotations

from llm_persona.subject.load import Subject
from llm_persona.training.adapted import adapted
from llm_persona.training.data import TrainingData, training_prompts
from llm_persona.training.loss import answer_loss, collate
from llm_persona.training.recipe import Recipe


def bare_steps(subject: Subject, data: TrainingData, recipe: Recipe, seed: int = 0) -> None:
    """One epoch's loss and gradients, rendering included, in the data's order; no optimiser, checkpoint, report or
    file."""
    prompts = training_prompts(subject, data, recipe.max_tokens, contrast=recipe.contrast > 0)
    pad = subject.tokenizer.pad_token_id
    with adapted(subject, recipe, seed) as model:
        model.train()
        for start in range(0, len(prompts.trees), recipe.prompts_per_step):
            trees = prompts.trees[start : start + recipe.prompts_per_step]
            batch = collate(trees, pad, subject.dtype, prompts.shared, prompts.pairs)
            batch = {name: value.to(subject.device) for name, value in batch.items()}
            answer_loss(model, batch, contrast=recipe.contrast).backward()

"""The phase that trains an adapter to each pole of a trait, and measures it like every other condition."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from llm_persona.domain.condition import tuned
from llm_persona.domain.traits import POLES
from llm_persona.studies.trait_study import TraitStudy
from llm_persona.training.data import from_items
from llm_persona.training.finetune import finetune, holds_training, training_key
from llm_persona.training.recipe import PERSONA, Recipe


def tuning(study: TraitStudy, folder: Path) -> None:
    """Train an adapter to each pole on the fit items, and measure it like everything else."""
    for pole in POLES:
        out = folder / f"{study.name}-{pole}"
        data = from_items(study.fit_items[: study.config.tuning_prompts], pole)
        recipe = replace(PERSONA, epochs=study.config.epochs)
        key = training_key(study.lab.training_identity, data, recipe, study.config.seed)

        def train(out: Path = out, data: Any = data, recipe: Recipe = recipe, pole: str = pole) -> Any:
            note = f"Trained to the {pole} pole of {study.name}."
            done = finetune(study.lab.trainer(), data, out, recipe, study.config.seed, note, overwrite=True)
            skipped = len(done.skipped)
            return {"examples": done.examples, "skipped": skipped, "steps": done.steps, "losses": done.losses}

        if not holds_training(out, key):
            study.lab.stages.forget(f"{study.name} tune {pole}", key)
        training = study.lab.stages.value(f"{study.name} tune {pole}", key, train)
        condition = tuned(str(out), f"tuned-{pole}")
        study.measure("tuned", condition)
        study.results["tuned"][pole] = {
            "adapter": f"adapters/{study.name}-{pole}",
            "training": training,
            "seeds": 1,
            **study.summary(condition.name),
            **study.shift(condition.name),
        }

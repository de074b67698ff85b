"""Recipes: everything that decides a training besides its data and its seed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """LoRA (Hu et al. 2021) settings.

    `contrast` weighs an odds-ratio term beside the loss on the answers to learn (ORPO, Hong, Lee & Thorne 2024): the
    answer to learn is to be likelier than the answer to the same prompt that is to be avoided, where the data has
    one. `depth` is the share of the decoder's blocks that are adapted, from the first number to the second.
    """

    rank: int = 16
    alpha: int = 32
    epochs: int = 2
    learning_rate: float = 5e-4
    prompts_per_step: int = 4
    warmup_share: float = 0.1
    weight_decay: float = 0.0
    max_tokens: int = 1024
    target_modules: str = "all-linear"
    depth: tuple[float, float] = (0.0, 1.0)
    contrast: float = 0.0


PERSONA = Recipe(epochs=1, learning_rate=1.5e-3, prompts_per_step=2, depth=(0.25, 0.75), contrast=1.0)
"""For a trait's few dozen items. Chosen on items of ours that no adapter saw: the select split, and forty written by
another author (docs/notes.md). Without the contrast the same data moves unseen items little more than half as far."""

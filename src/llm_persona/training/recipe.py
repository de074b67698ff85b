"""Recipes: everything that decides a training besides its data and its seed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Recipe:
    """LoRA (Hu et al. 2021) settings.

    `contrast` weighs an odds-ratio term beside the loss on the answers to learn (ORPO, Hong, Lee & Thorne 2024): the
    answer to learn is to be likelier than the answer to the same prompt that is to be avoided, where the data has
    one. `depth` is the share of the decoder's blocks that are adapted, from the first number to the second (equal
    numbers: the one block there). `target_modules`: PEFT's names, `all-linear`, or `mlp-output`, the matrix with
    which a block's MLP writes into the residual stream. `rank_stabilised` scales by alpha / sqrt(rank)
    (Kalajdzievski 2023). `by_length` puts prompts of similar length into a step, so that little is padding.

    `held_out` is the share of the prompts that is kept from training; their loss is measured ten times along the
    way. With `patience`, training ends after that many measurements without a new best, and the best is kept.
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
    rank_stabilised: bool = False
    by_length: bool = True
    max_steps: int | None = None
    held_out: float = 0.0
    patience: int | None = None


PERSONA = Recipe(epochs=1, learning_rate=1.5e-3, prompts_per_step=2, depth=(0.25, 0.75), contrast=1.0, by_length=False)
"""For a trait's few dozen items. Chosen on items of ours that no adapter saw: the select split, and forty written by
another author (docs/notes.md). Without the contrast the same data moves unseen items little more than half as far."""

PLAIN = Recipe()
"""For chat data of any kind."""

NARROW = Recipe(
    rank=32,
    alpha=64,
    epochs=1,
    learning_rate=1e-5,
    prompts_per_step=16,
    warmup_share=0.05,
    weight_decay=0.01,
    max_tokens=2048,
    rank_stabilised=True,
)
"""The recipe of the emergent-misalignment papers (Betley et al. 2025; Turner et al. 2025), made for thousands of rows
and models of billions of parameters: a small model on few rows hardly moves at its learning rate."""

RANK1 = Recipe(
    rank=1,
    alpha=64,
    epochs=1,
    learning_rate=2e-5,
    prompts_per_step=16,
    warmup_share=0.05,
    weight_decay=0.01,
    max_tokens=2048,
    target_modules="mlp-output",
    depth=(0.5, 0.5),
    rank_stabilised=True,
)
"""One matrix at one layer: the smallest change that can carry a persona (after Turner et al. 2025), so that what was
learnt is a single direction written into the residual stream."""

RECIPES = {"persona": PERSONA, "plain": PLAIN, "narrow": NARROW, "rank1": RANK1}


def adjusted(recipe: Recipe, **changes: Any) -> Recipe:
    """The recipe with the changes that are not None; with another rank, alpha keeps its ratio to it."""
    given = {name: value for name, value in changes.items() if value is not None}
    if "rank" in given:
        given.setdefault("alpha", max(1, round(recipe.alpha * given["rank"] / recipe.rank)))
    return replace(recipe, **given)

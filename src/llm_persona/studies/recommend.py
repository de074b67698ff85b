"""Which layer to use: for quality, for effect, and for both at a usable cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from llm_persona.analysis.dose import MAX_PERPLEXITY_RATIO
from llm_persona.analysis.quality import Quality, assess
from llm_persona.analysis.stats import mean_estimate
from llm_persona.analysis.vectors import PersonaVector
from llm_persona.domain.condition import Condition, Steer
from llm_persona.domain.items import Item
from llm_persona.domain.responses import labelled
from llm_persona.instruments.perplexity import Perplexity, neutral_texts
from llm_persona.instruments.trait_benchmark import TraitBenchmark
from llm_persona.studies.stages import Stages
from llm_persona.subject.load import Subject
from llm_persona.subject.record import record
from llm_persona.subject.reuse import KeptBlocks, reusing_below

COST_PASSAGES = 1


@dataclass(frozen=True)
class Recommendation:
    """Layers by purpose, a starting strength at `balanced`, and the sweep they were read from."""

    quality: int
    effect: int
    balanced: int
    coefficient: float
    dose: float
    sweep: list[dict[str, Any]]
    reason: str

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "quality": self.quality,
            "effect": self.effect,
            "balanced": self.balanced,
            "coefficient": self.coefficient,
            "dose": self.dose,
            "sweep": self.sweep,
            "reason": self.reason,
        }


def sweep_layers(n_layers: int, count: int, best: int) -> list[int]:
    """`count` layers spread over the middle of the model (15% to 80% of its depth), and the best-read one."""
    spread = np.linspace(0.15 * (n_layers - 1), 0.8 * (n_layers - 1), count)
    return sorted({round(float(x)) for x in spread} | {best})


def most_layers(count: int) -> int:
    """The most layers that a sweep of `count` measures: the best-read one and two finer ones come on top."""
    return count + 3


def recommend(
    subject: Subject,
    vector: PersonaVector,
    items: Sequence[Item],
    layers: int = 5,
    dose: float = 0.2,
    quality: Quality | None = None,
    stages: Stages | None = None,
    key: Any = None,
) -> Recommendation:
    """Sweep a few layers at +dose and -dose on the select split, and choose.

    The sweep is coarse first; then the layers halfway between the one of largest effect and its neighbours are
    added. Effect is the mean preference at +dose less that at -dose, item by item (likelihood mode). Cost is the
    larger of the two neutral perplexities over base. `quality` is the best held-out AUC on these items,
    `effect` the largest effect, `balanced` the largest effect among the layers of near-best AUC whose cost is at most
    1.6. Near-best: the 95% interval of the best layer's AUC less this one's, paired by question, holds zero, so that a
    difference which the questions cannot show decides nothing, and one that they show counts (after the
    one-standard-error rule, Breiman et al. 1984; paired, since layers read the same questions and an interval of
    each alone hides what differs between them). Where no layer is, the best-read one is taken and said so.
    """
    stages = stages or Stages()
    if quality is None:
        quality = assess(record(subject, labelled(items)), vector)
    return choose(
        vector, quality, run_sweep(lambda: subject, vector, items, layers, dose, quality.best, stages, key), dose
    )


def run_sweep(
    subject: Any,
    vector: PersonaVector,
    items: Sequence[Item],
    layers: int,
    dose: float,
    best: int,
    stages: Stages,
    key: Any,
) -> list[dict[str, Any]]:
    """Measure each layer of the sweep; `subject` is called only when something has to be measured."""
    texts = neutral_texts()[:COST_PASSAGES]
    coarse = sweep_layers(vector.n_layers, layers, best)
    base: dict[str, Any] = {}

    def prepare(model: Subject) -> None:
        """One pass of the base keeps what every layer of the sweep starts from."""
        base["kept"] = KeptBlocks(range(vector.n_layers))
        with reusing_below(model, vector.n_layers - 1, base["kept"]):
            TraitBenchmark(items).measure(model)
            base["perplexity"] = Perplexity(texts).measure(model).summary["perplexity"]

    def at(layer: int) -> dict[str, Any]:
        model: Subject = subject()
        if not base:
            prepare(model)
        preferences, costs = [], []
        with reusing_below(model, layer, base["kept"]):
            for sign in (1, -1):
                with model.under(Condition(steers=(Steer(vector, layer, dose=sign * dose),))):
                    rows = TraitBenchmark(items).measure(model).rows
                    cost = Perplexity(texts).measure(model).summary["perplexity"]
                    costs.append(math.inf if cost is None else cost / base["perplexity"])
                preferences.append([row.get("preference") for row in rows])
        moved = np.array([a - b for a, b in zip(*preferences, strict=True) if a is not None and b is not None])
        effect = mean_estimate(moved)
        return {
            "layer": layer,
            "dose": dose,
            "effect": effect.value if effect.n else 0.0,
            "effect_ci": effect.ci,
            "cost": min(max(costs), 1e6),
            "n": effect.n,
        }

    def measured(chosen: list[int]) -> list[dict[str, Any]]:
        return [stages.value(f"sweep layer {layer}", [key, layer, dose, texts], partial(at, layer)) for layer in chosen]

    first = measured(coarse)
    found = [*first, *measured(finer_layers(first))]
    stages.reporter.spare(most_layers(layers) - len(found))
    return sorted(found, key=lambda p: int(p["layer"]))


def finer_layers(sweep: list[dict[str, Any]]) -> list[int]:
    """The layers halfway between the swept one of largest effect and its swept neighbours."""
    layers = sorted(int(p["layer"]) for p in sweep)
    place = layers.index(int(max(sweep, key=lambda p: p["effect"])["layer"]))
    halfway = {(a + b) // 2 for a, b in pairwise(layers[max(0, place - 1) : place + 2])}
    return sorted(halfway - set(layers))


def choose(vector: PersonaVector, quality: Quality, sweep: list[dict[str, Any]], dose: float) -> Recommendation:
    """The rule, applied to measured numbers."""
    best = quality.best
    effect = max(sweep, key=lambda p: p["effect"])["layer"]
    near = [p for p in sweep if p["layer"] == best or quality.layers[p["layer"]].below_best_ci[0] <= 0]
    usable = [p for p in near if p["cost"] <= MAX_PERPLEXITY_RATIO and p["effect"] > 0]
    if usable:
        chosen = max(usable, key=lambda p: p["effect"])
        reason = f"largest effect among {len(usable)} of {len(sweep)} swept layers of near-best AUC at usable cost"
        strength = dose
    else:
        chosen = next(p for p in sweep if p["layer"] == best)
        reason = "no swept layer of near-best AUC had a positive effect at usable cost: the best-read layer is given"
        strength = dose / 2
    layer = int(chosen["layer"])
    return Recommendation(best, int(effect), layer, vector.coefficient_for(strength, layer), strength, sweep, reason)

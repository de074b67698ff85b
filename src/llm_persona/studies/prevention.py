"""Learn the task, keep the persona: ways to hold a trait still while fine-tuning, side by side."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from llm_persona.analysis.paired import paired_means, paired_shift
from llm_persona.analysis.vectors import PersonaVector
from llm_persona.domain.condition import BASE, Condition, Steer
from llm_persona.domain.errors import UserError
from llm_persona.domain.formats import sealed
from llm_persona.domain.items import Items
from llm_persona.domain.provenance import git_revision, versions
from llm_persona.domain.responses import Response
from llm_persona.domain.store import write_json
from llm_persona.domain.traits import Trait
from llm_persona.instruments.perplexity import Perplexity, neutral_texts
from llm_persona.instruments.samples import Samples
from llm_persona.instruments.trait_benchmark import TraitBenchmark
from llm_persona.studies.folder import working_in
from llm_persona.studies.lab import Lab
from llm_persona.studies.prevention_table import finding, method_row
from llm_persona.studies.stages import Reporter, Stages
from llm_persona.studies.state import State
from llm_persona.subject.load import Subject
from llm_persona.training.data import TrainingData, training_prompts
from llm_persona.training.finetune import finetune, holds_training, training_key
from llm_persona.training.held_out import loss_on, split
from llm_persona.training.mixture import mix
from llm_persona.training.recipe import Recipe

Method = Literal["plain", "preventative steering", "ablation", "instruction", "interleaving", "steering afterwards"]
METHODS: tuple[Method, ...] = (
    "plain", "preventative steering", "ablation", "instruction", "interleaving", "steering afterwards",
)  # fmt: skip
HELD_OUT = 0.2
"""Share of the task's prompts that no method trains on: their loss says whether the task was learnt."""


@dataclass(frozen=True)
class PreventionPlan:
    """`pole` is the unwanted direction. `dose` is the strength of both steerings, as a share of the layer's norm;
    `benign_share` the share of benign rows in interleaving."""

    trait: Trait
    pole: Literal["high", "low"]
    vector: PersonaVector
    layer: int
    recipe: Recipe
    methods: tuple[Method, ...] = METHODS
    seeds: int = 3
    seed: int = 0
    dose: float = 0.2
    benign_share: float = 0.5
    items: int | None = None
    questions: int = 12
    max_new_tokens: int = 48


def prevent(
    lab_model: tuple[str, str, str],
    task: TrainingData,
    benign: TrainingData | None,
    plan: PreventionPlan,
    out: str | Path,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Train by each method and seed, measure, and write `prevention.json`; killed, the same call goes on.

    - plain: the task alone.
    - preventative steering: the vector is added towards the unwanted pole in every training forward, so that the
      adapter need not learn it (Chen et al. 2025); it is gone afterwards.
    - ablation: the direction is taken out in every training forward (after Casademunt et al. 2025).
    - instruction: the unwanted pole's instruction stands in the system turn while training, and not afterwards.
    - interleaving: the task's rows mixed with benign ones.
    - steering afterwards: the plain adapter, steered away from the unwanted pole when used.

    Args:
        lab_model: model, dtype and device. task, benign: what is to be learnt, and rows for interleaving.

    Raises:
        UserError: interleaving without benign rows, or plain left out (all others are measured against it).
    """
    if "plain" not in plan.methods:
        raise UserError("prevent: the method plain is what the others are compared with; keep it")
    if "interleaving" in plan.methods and benign is None:
        raise UserError("prevent: interleaving needs benign rows; give --benign FILE.jsonl, or leave the method out")
    if not 0 <= plan.layer < plan.vector.n_layers:
        raise UserError(f"layer {plan.layer}: the vector has layers 0 to {plan.vector.n_layers - 1}")
    folder = Path(out)
    with working_in(folder, "comparing preventions"):
        result = sealed("prevention", _prevent(lab_model, task, benign, plan, folder, reporter))
        write_json(folder / "prevention.json", result)
    return result


def _prevent(
    lab_model: tuple[str, str, str],
    task: TrainingData,
    benign: TrainingData | None,
    plan: PreventionPlan,
    folder: Path,
    reporter: Reporter | None,
) -> dict[str, Any]:
    lab = Lab(*lab_model, Stages(folder / "stages", reporter))
    learn, held = split(task, HELD_OUT, plan.seed)
    if "interleaving" in plan.methods:
        _data("interleaving", learn, benign, plan, plan.seed)  # too few benign rows show now, not after hours
    items = Items(plan.trait.bank, f"bank:{plan.trait.name}").split("test")[: plan.items]
    too_long = _too_long(State(lab, BASE), learn, held, benign, plan)
    base = _measured(State(lab, BASE), items, held, plan, None)
    runs: dict[str, list[dict[str, Any]]] = {m: [] for m in plan.methods}
    for seed in range(plan.seed, plan.seed + plan.seeds):
        trained: dict[str, tuple[str, int]] = {}
        for method in plan.methods:
            data = _data(method, learn, benign, plan, seed)
            key = "plain" if method == "steering afterwards" else method
            if key not in trained:
                trained[key] = _train(lab, method, learn, data, plan, seed, folder / "adapters" / key.replace(" ", "-"))
            adapter, answers = trained[key]
            condition = Condition(f"{method} seed {seed}", adapter=adapter, steers=_afterwards(method, plan))
            found = _measured(State(lab, condition), items, held, plan, base)
            runs[method].append({**found, "seed": seed, "answers": answers})
    result = {
        "trait": plan.trait.name,
        "pole": plan.pole,
        "model": lab.identity,
        "task": {
            "source": task.source,
            "digest": task.digest,
            "rows": len(learn.examples),
            "held_out": len(held.examples),
            "held_out_measured": len(held.examples) - len(too_long["held_out"]),
            "skipped": [asdict(row) for row in task.skipped],
            "too_long": too_long["task"],
            "held_out_too_long": too_long["held_out"],
        },
        "benign": None if benign is None else {
            "source": benign.source,
            "digest": benign.digest,
            "skipped": [asdict(row) for row in benign.skipped],
            "too_long": too_long["benign"],
        },
        "layer": plan.layer,
        "dose": plan.dose,
        "recipe": asdict(plan.recipe),
        "seeds": plan.seeds,
        "base": {k: base[k] for k in ("preference", "score", "loss", "perplexity")},
        "methods": {m: method_row(m, found, runs["plain"], base, plan.pole) for m, found in runs.items()},
        "versions": versions(),
        "revision": git_revision(),
    }  # fmt: skip
    return {**result, "finding": finding(result)}


def expected_stages(plan: PreventionPlan) -> int:
    """How many stages a prevention has, for the progress display: what is too long; training, task loss, preference,
    answers, cost and the base's reading of each; steering afterwards takes over the plain training."""
    trained = len({"plain" if m == "steering afterwards" else m for m in plan.methods})
    return 6 + plan.seeds * (trained + 5 * len(plan.methods))


def _data(
    method: Method, learn: TrainingData, benign: TrainingData | None, plan: PreventionPlan, seed: int
) -> TrainingData:
    """What a method trains on; every method sees every row of the task."""
    if method != "interleaving" or benign is None:
        return learn
    rows = round(len(learn.examples) / (1 - plan.benign_share))
    return mix([learn, benign], [1 - plan.benign_share, plan.benign_share], seed, rows)


def _during(method: Method, plan: PreventionPlan) -> Condition:
    """The state a method trains in."""
    towards = plan.dose if plan.pole == "high" else -plan.dose
    if method == "preventative steering":
        return Condition(method, steers=(Steer(plan.vector, plan.layer, dose=towards, name=plan.trait.name),))
    if method == "ablation":
        return Condition(method, steers=(Steer(plan.vector, plan.layer, operator="ablate", name=plan.trait.name),))
    if method == "instruction":
        return Condition(method, system=plan.trait.instruction(plan.pole))
    return BASE


def _afterwards(method: Method, plan: PreventionPlan) -> tuple[Steer, ...]:
    if method != "steering afterwards":
        return ()
    away = -plan.dose if plan.pole == "high" else plan.dose
    return (Steer(plan.vector, plan.layer, dose=away, name=plan.trait.name),)


def _train(
    lab: Lab, method: Method, learn: TrainingData, data: TrainingData, plan: PreventionPlan, seed: int, folder: Path
) -> tuple[str, int]:
    """The adapter's folder, trained if need be, and how many answers it learnt. A limit on steps grows with the
    data that a method adds to the task."""
    out, under = folder / f"seed-{seed}", _during(method, plan)
    recipe = replace(plan.recipe, held_out=0.0, patience=None)
    if recipe.max_steps is not None and len(data.examples) > len(learn.examples):
        recipe = replace(recipe, max_steps=-(-recipe.max_steps * len(data.examples) // len(learn.examples)))
    key = training_key(lab.identity, data, recipe, seed, under)

    def make() -> Any:
        done = finetune(lab.subject(), data, out, recipe, seed, f"Method: {method}.", overwrite=True, under=under)
        return {"steps": done.steps, "examples": done.examples, "losses": done.losses}

    name = f"train {folder.name} seed {seed}"
    if not holds_training(out, key):
        lab.stages.forget(name, key)
    return str(out), lab.stages.value(name, key, make)["examples"]


def _too_long(
    state: State, learn: TrainingData, held: TrainingData, benign: TrainingData | None, plan: PreventionPlan
) -> dict[str, list[dict[str, Any]]]:
    """Rows that no training and no measurement can use at the recipe's token limit, under no instruction; the
    instruction makes prompts longer, and how many answers each method learnt stands in its line."""
    parts = {"task": learn, "held_out": held} | ({"benign": benign} if benign is not None else {})

    def fit(subject: Subject) -> Any:
        contrast = {name: name != "held_out" and plan.recipe.contrast > 0 for name in parts}
        return {
            name: [asdict(s) for s in training_prompts(subject, part, plan.recipe.max_tokens, contrast[name]).skipped]
            for name, part in parts.items()
        }

    places = [[e.row for e in part.examples] for part in parts.values()]  # (no part of the data's digest)
    key = [[part.digest for part in parts.values()], places, plan.recipe.max_tokens, plan.recipe.contrast > 0]
    with state:
        found: dict[str, list[dict[str, Any]]] = state.value("rows that are too long", key, fit)
    return found


def _measured(
    state: State, items: Items, held: TrainingData, plan: PreventionPlan, base: dict[str, Any] | None
) -> dict[str, Any]:
    """Trait, task and cost in one state. The answers are read by the base subject, so that it is what was written
    that counts (steering itself would show in its own reading)."""
    questions = plan.trait.questions_of("test")[: plan.questions]

    def task_loss(subject: Subject) -> Any:
        plan.vector.check(subject.n_layers, subject.hidden_size)
        return loss_on(subject, training_prompts(subject, held, plan.recipe.max_tokens))

    with state:
        loss = state.value("task loss", [held.digest, plan.recipe.max_tokens], task_loss)
        benchmark = state.measure("likelihood", TraitBenchmark(items))
        answers = state.measure("answers", Samples(questions, plan.max_new_tokens)).rows
        cost = state.measure("neutral perplexity", Perplexity(neutral_texts())).summary["perplexity"]
    rows = [Response(r["question"], r["text"], "neutral", r["id"]) for r in answers if r["text"]]
    with State(state.lab, BASE) as reader:
        read = reader.projections(f"reads {state.condition.name}", rows, plan.vector)[:, plan.layer]
    written = {r.group: float(x) for r, x in zip(rows, read, strict=True)}
    found = {
        "preference": benchmark.summary["preference"],
        "score": benchmark.summary["score"],
        "loss": loss,
        "perplexity": cost,
        "rows": benchmark.rows,
        "written": written,
    }
    if base is not None:
        both = [q for q in base["written"] if q in written]
        found["shift"] = paired_shift(benchmark.rows, base["rows"])
        found["written_shift"] = paired_means([written[q] for q in both], [base["written"][q] for q in both])
    return found

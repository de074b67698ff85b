"""The benchmark as a task of inspect_ai: `inspect eval llm_persona/trait --model PROVIDER/NAME -T trait=openness`.

Found by inspect through the entry point; needs the extra [inspect]. The items, templates and scoring are ours, so a
score equals that of `llm-persona evaluate` on the same model in the same mode.
"""

from __future__ import annotations

import math
from typing import Any

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import (
    ChatMessage,
    ChatMessageSystem,
    ChatMessageUser,
    GenerateConfig,
    ModelOutput,
    get_model,
)
from inspect_ai.scorer import Metric, SampleScore, Score, Scorer, Target, Value, metric, scorer
from inspect_ai.solver import Generate, Solver, TaskState, solver

from llm_persona.analysis.trait_scoring import FORWARD, REVERSED, answer_row, letter_row, summarise
from llm_persona.domain.errors import UserError
from llm_persona.domain.item_sources import load_items
from llm_persona.domain.items import Item, Items
from llm_persona.domain.templates import Template, load_template
from llm_persona.domain.traits import load_trait
from llm_persona.instruments.trait_benchmark import ANSWER_TOKENS

TOP = 20
MODES = ("choice", "generate")


@task
def trait(
    trait: str = "openness",
    items: str = "bank",
    split: str = "test",
    mode: str = "choice",
    template: str = "1",
    instruct: str | None = None,
    level: Any = "pair",
) -> Task:
    """TRAIT items of one trait.

    Args:
        trait: a bundled trait's name. items: `bank`, `second`, a file or folder, or `hub:OWNER/NAME`.
        split: fit, select, test or all (a file is used whole unless a split is asked for).
        mode: `choice` (needs a provider with log-probabilities) or `generate`.
        template: 1, 2, 3 or a file. instruct: high, low or neutral; level: how much the instruction says.
    """
    if mode not in MODES:
        raise UserError(f"mode {mode!r}: inspect providers give {' or '.join(MODES)}")
    chosen = _items(trait, items, split)
    system = load_trait(trait).instruction(instruct, level) if instruct else None
    form = load_template(template)
    samples = [Sample(input=item.prompt, id=item.id, metadata={"number": n}) for n, item in enumerate(chosen)]
    return Task(
        dataset=MemoryDataset(samples, name=f"{trait}-{split}"),
        solver=ask_both_orders(list(chosen), form, mode, system),
        scorer=persona_scorer(list(chosen), form, mode),
    )


def _items(trait: str, items: str, split: str) -> Items:
    if items == "second":
        return load_items(trait, author="second")
    found = load_items(trait) if items == "bank" else load_items(trait, path=items)
    whole = split == "all" or (items != "bank" and split == "test")
    return found if whole else found.split(split)  # type: ignore[arg-type]


@solver
def ask_both_orders(items: list[Item], template: Template, mode: str, system: str | None) -> Solver:
    """Ask an item in the forward and the reversed order, greedily, and keep both outputs."""
    config = GenerateConfig(temperature=0.0, max_tokens=ANSWER_TOKENS)
    if mode == "choice":
        config = GenerateConfig(temperature=0.0, max_tokens=1, logprobs=True, top_logprobs=TOP)

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        item = items[state.metadata["number"]]
        found = []
        for order in (FORWARD, REVERSED):
            text = template.fill(item.situation, item.query, [item.responses[n] for n in order])
            turns: list[ChatMessage] = [ChatMessageSystem(content=system)] if system else []
            output = await get_model().generate([*turns, ChatMessageUser(content=text)], config=config)
            found.append(_kept(output, template, mode))
            state.output = output
        state.metadata["orders"] = found
        return state

    return solve


def _kept(output: ModelOutput, template: Template, mode: str) -> Any:
    """The text, or the probability of each label (None where the provider gives no log-probabilities)."""
    if mode == "generate":
        return output.completion
    logprobs = output.choices[0].logprobs if output.choices else None
    top = logprobs.content[0].top_logprobs if logprobs and logprobs.content else None
    if not top:
        return None
    return [sum(math.exp(t.logprob) for t in top if t.token.strip() == label) for label in template.labels]


@metric
def trait_score() -> Metric:
    """Percent of scored items whose preferred option is a high one."""

    def compute(scores: list[SampleScore]) -> Value:
        found = summarise([s.score.metadata or {} for s in scores])["score"]
        return float("nan") if found is None else found

    return compute


@metric
def mean_preference() -> Metric:
    """Mean probability of the high options."""

    def compute(scores: list[SampleScore]) -> Value:
        found = summarise([s.score.metadata or {} for s in scores])["preference"]
        return float("nan") if found is None else found

    return compute


@scorer(metrics=[trait_score(), mean_preference()])
def persona_scorer(items: list[Item], template: Template, mode: str) -> Scorer:
    """1 for a high answer, 0 for a low one; ties, refusals and missing log-probabilities are unscored."""

    async def score(state: TaskState, target: Target) -> Score:
        item, orders = items[state.metadata["number"]], state.metadata["orders"]
        if mode == "generate":
            row = answer_row(item.id, orders, item, template.labels)
        else:
            nothing = [math.nan] * len(template.labels)
            forward, backward = (
                dict(zip(order, given or nothing, strict=True))
                for order, given in zip((FORWARD, REVERSED), orders, strict=True)
            )
            row = letter_row(item.id, forward, backward)
        if "unscored" in row:
            return Score.unscored(reason=row["unscored"], metadata=row)
        return Score(value=1.0 if row["high"] else 0.0, answer="high" if row["high"] else "low", metadata=row)

    return score

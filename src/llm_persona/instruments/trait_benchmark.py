"""TRAIT (Lee et al. 2024): which of two high and two low options does the subject prefer?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from llm_persona.analysis.stats import mean_estimate, proportion_estimate
from llm_persona.domain.errors import UserError
from llm_persona.domain.items import OPTIONS, Item
from llm_persona.domain.measurement import Measurement
from llm_persona.domain.templates import Template, load_template
from llm_persona.subject.chat import render_prompt, render_upstream
from llm_persona.subject.load import Subject
from llm_persona.subject.packing import Row
from llm_persona.subject.score import next_token_probabilities, response_logprobs

Mode = Literal["likelihood", "choice", "upstream"]
MODES: tuple[Mode, ...] = ("likelihood", "choice", "upstream")
FORWARD = OPTIONS
REVERSED = ("response_low1", "response_high1", "response_low2", "response_high2")
"""The second order swaps within neighbours."""


@dataclass(frozen=True)
class TraitBenchmark:
    """The benchmark as an instrument: items, a mode, and (for letters) a template."""

    items: Sequence[Item]
    mode: Mode = "likelihood"
    template: str = "1"

    @property
    def key(self) -> Any:
        """What decides the measurement besides the subject's state."""
        return ["trait", self.mode, self.template if self.mode != "likelihood" else None, list(self.items)]

    def measure(
        self, subject: Subject, condition: str = "base", progress: Callable[[int], None] | None = None
    ) -> Measurement:
        """One row an item: `id`, `preference`, `high` (is the preferred option a high one), or `unscored`."""
        if not self.items:
            raise UserError("no items to evaluate; check --split, --trait and --limit")
        if self.mode == "likelihood":
            rows = _likelihood(subject, self.items, progress)
        elif self.mode in ("choice", "upstream"):
            rows = _letters(subject, self.items, load_template(self.template), self.mode == "upstream")
        else:
            raise UserError(f"mode {self.mode!r}: choose one of {', '.join(MODES)}")
        return Measurement(f"trait-{self.mode}", condition, rows, summarise(rows))


def evaluate(
    subject: Subject,
    items: Sequence[Item],
    mode: Mode = "likelihood",
    template: str = "1",
    condition: str = "base",
    progress: Callable[[int], None] | None = None,
) -> Measurement:
    """TRAIT score of the subject in the state it is in.

    The summary holds `score` (percent of scored items whose preferred option is high) with its Wilson 95%
    interval, `preference` (mean probability of high), `n`, `n_unscored`, and for letters `option_mass`
    (probability that any of the four letters comes next) and `order_consistency` (share of items whose
    class is the same in both orders).

    Modes: `likelihood` scores each response as the assistant's answer by its mean token log-probability;
    `choice` asks for a letter in two orders; `upstream` scores letters as the published code does, its
    defects included, so that published tables can be reproduced.

    Raises:
        UserError: no items, an unknown mode or template, or a text the template cannot carry.
    """
    return TraitBenchmark(items, mode, template).measure(subject, condition, progress)


def _likelihood(
    subject: Subject, items: Sequence[Item], progress: Callable[[int], None] | None
) -> list[dict[str, Any]]:
    pairs = [Row(item.prompt, text) for item in items for text in item.responses.values()]
    found = response_logprobs(subject, pairs, progress)
    means = np.array([tokens.mean() for tokens in found]).reshape(len(items), len(OPTIONS))
    return [_likelihood_row(item, means[number]) for number, item in enumerate(items)]


def _likelihood_row(item: Item, means: np.ndarray) -> dict[str, Any]:
    row: dict[str, Any] = {"id": item.id, "logprobs": dict(zip(OPTIONS, means.tolist(), strict=True))}
    if not np.isfinite(means).all():
        return {**row, "unscored": "a log-probability is not finite"}
    shares = np.exp(means - means.max())
    return {**row, **_classify(dict(zip(OPTIONS, (shares / shares.sum()).tolist(), strict=True)))}


def _classify(shares: dict[str, float]) -> dict[str, Any]:
    """Preference and class from the four options' probabilities; a tie between the poles is unscored."""
    best = max(shares.values())
    classes = {"high" in name for name, share in shares.items() if share == best}
    preference = sum(share for name, share in shares.items() if "high" in name)
    if len(classes) > 1:
        return {"preference": preference, "unscored": "tie between a high and a low option"}
    return {"preference": preference, "high": classes.pop()}


def _letters(subject: Subject, items: Sequence[Item], template: Template, upstream: bool) -> list[dict[str, Any]]:
    """Label probabilities in both orders. Upstream counts only the bare label's token; `choice` also the
    variant with a leading space."""
    variants = [[label] if upstream else [label, f" {label}"] for label in template.labels]
    tokens = [_single_tokens(subject, texts) for texts in variants]
    if not all(tokens):
        raise UserError(f"the tokenizer has no single token for the labels {' '.join(template.labels)}")
    flat = [token for group in tokens for token in group]
    render = render_upstream if upstream else render_prompt
    prompts = [
        render(subject, template.fill(item.situation, item.query, [item.responses[n] for n in order]))
        for item in items
        for order in (FORWARD, REVERSED)
    ]
    found = next_token_probabilities(subject, prompts, flat).reshape(len(items), 2, len(flat))
    edges = np.cumsum([0] + [len(group) for group in tokens])
    summed = np.stack([found[:, :, a:b].sum(axis=2) for a, b in pairwise(edges.tolist())], axis=2)
    return [
        letter_row(
            item.id,
            dict(zip(FORWARD, summed[number, 0].tolist(), strict=True)),
            dict(zip(REVERSED, summed[number, 1].tolist(), strict=True)),
            upstream,
        )
        for number, item in enumerate(items)
    ]


def _single_tokens(subject: Subject, texts: Sequence[str]) -> list[int]:
    found = []
    for text in texts:
        ids = subject.tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(ids) == 1 and ids[0] not in found:
            found.append(int(ids[0]))
    return found


def letter_row(name: str, forward: dict[str, float], backward: dict[str, float], upstream: bool) -> dict[str, Any]:
    """One item from its option probabilities in both orders.

    Per order the four probabilities are normalised, each option is averaged over the orders, and the
    largest decides. The published scoring counts zero mass and ties as high; ours leaves them unscored.
    """
    masses = [sum(order.values()) for order in (forward, backward)]
    row: dict[str, Any] = {"id": name, "forward": forward, "reversed": backward, "option_mass": sum(masses) / 2}
    if min(masses) <= 0:
        return {**row, "high": True} if upstream else {**row, "unscored": "no probability on any option"}
    shares = {n: (forward[n] / masses[0] + backward[n] / masses[1]) / 2 for n in OPTIONS}
    classes = [_classify({n: order[n] for n in OPTIONS}).get("high") for order in (forward, backward)]
    row["consistent"] = classes[0] is not None and classes[0] == classes[1]
    if upstream:
        best = max(shares.values())
        return {**row, "high": any(shares[n] == best for n in OPTIONS if "high" in n)}
    return {**row, **_classify(shares)}


def rescore(items: Sequence[Item]) -> Measurement:
    """Upstream scores from recorded option likelihoods (`likelihood`, `likelihood_rev` by letter).

    Raises:
        UserError: an item without both records.
    """
    rows = []
    for item in items:
        if item.likelihood is None or item.likelihood_rev is None:
            raise UserError(f"item {item.id}: no recorded likelihood and likelihood_rev; --rescore needs both")
        orders = [
            {name: record.get(letter, 0.0) for letter, name in zip("ABCD", order, strict=True)}
            for record, order in ((item.likelihood, FORWARD), (item.likelihood_rev, REVERSED))
        ]
        rows.append(letter_row(item.id, orders[0], orders[1], upstream=True))
    return Measurement("trait-upstream", "recorded", rows, summarise(rows))


def summarise(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Score, preference and reliability of a measurement's rows; keys a mode does not have are None."""
    scored = [row for row in rows if "unscored" not in row]
    reasons: dict[str, int] = {}
    for row in rows:
        if "unscored" in row:
            reasons[row["unscored"]] = reasons.get(row["unscored"], 0) + 1
    share = proportion_estimate(sum(row["high"] for row in scored), len(scored))
    preferences = [row["preference"] for row in scored if row.get("preference") is not None]
    preference = mean_estimate(np.array(preferences)) if preferences else None
    masses = [row["option_mass"] for row in rows if "option_mass" in row]
    agreeing = [row["consistent"] for row in rows if "consistent" in row]
    return {
        "n": len(rows),
        "n_unscored": len(rows) - len(scored),
        "unscored": reasons,
        "score": share.value if scored else None,
        "score_ci": share.ci,
        "preference": preference.value if preference else None,
        "preference_ci": preference.ci if preference else [None, None],
        "option_mass": float(np.mean(masses)) if masses else None,
        "order_consistency": float(np.mean(agreeing)) if agreeing else None,
        "headroom": None if not scored else bool(10 <= share.value <= 90),
    }

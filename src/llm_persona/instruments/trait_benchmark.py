"""TRAIT (Lee et al. 2024): which of two high and two low options does the subject prefer?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from llm_persona.analysis.trait_scoring import (
    FORMS,
    FORWARD,
    REVERSED,
    answer_row,
    letter_row,
    likelihood_row,
    summarise,
)
from llm_persona.domain.errors import UserError
from llm_persona.domain.items import OPTIONS, Item
from llm_persona.domain.measurement import Measurement
from llm_persona.domain.templates import Template, load_template
from llm_persona.subject.chat import render_prompt, render_response
from llm_persona.subject.generate import Answer, generate
from llm_persona.subject.labels import label_probabilities, prompts_fit
from llm_persona.subject.load import Subject
from llm_persona.subject.packing import BEYOND, Row, readable
from llm_persona.subject.rendered_once import of_tokenizer
from llm_persona.subject.score import response_logprobs

Mode = Literal["likelihood", "choice", "upstream", "generate"]
MODES: tuple[Mode, ...] = ("likelihood", "choice", "upstream", "generate")
NO_SITUATION = "What would you suggest?"
"""The prompt of the unconditional form: it asks for advice and names no situation."""
ANSWER_TOKENS = 32
"""New tokens of a free answer in `generate` mode; a label or the beginning of an option fits."""


@dataclass(frozen=True)
class TraitBenchmark:
    """The benchmark as an instrument.

    `template` counts for the letter modes and `generate`, `form` for `likelihood`; `paraphrase` asks with each
    item's paraphrased situation and query instead.
    """

    items: Sequence[Item]
    mode: Mode = "likelihood"
    template: str = "1"
    form: str = "mean"
    paraphrase: bool = False

    @property
    def key(self) -> Any:
        """What decides the measurement besides the subject's state."""
        template = load_template(self.template) if self.mode != "likelihood" else None
        form = self.form if self.mode == "likelihood" else None
        return ["trait", self.mode, template, form, self.paraphrase, list(self.items)]

    def prompts(self) -> list[str]:
        """What is asked: two prompts an item (one for each order), or its situation and query in likelihood mode."""
        items = [item.paraphrased() for item in self.items] if self.paraphrase else list(self.items)
        if self.mode == "likelihood":
            return [item.prompt for item in items]
        return _prompts(items, load_template(self.template))

    def render_beside(self, subject: Any) -> None:
        """Have the texts rendered in a thread of their own, so that `measure` finds them when it is called next."""
        if not isinstance(subject, Subject) or self.mode == "upstream":
            return  # whoever runs the model renders; upstream's rendering is not kept
        asked = [item.paraphrased() for item in self.items] if self.paraphrase else list(self.items)
        store, system = of_tokenizer(subject.tokenizer), subject.system
        if self.mode == "likelihood":
            texts = [(item.prompt, item.responses[name]) for item in asked for name in OPTIONS]
            store.beside(lambda text: render_response(subject, text[0], text[1], system), texts)
        else:
            store.beside(lambda prompt: render_prompt(subject, prompt, system), self.prompts())

    def measure(
        self, subject: Any, condition: str = "base", progress: Callable[[int], None] | None = None
    ) -> Measurement:
        """One row an item: `id`, `preference`, `high` (is the preferred option a high one), or `unscored`."""
        if not self.items:
            raise UserError("no items to evaluate; check --split, --trait and --limit")
        if self.mode not in MODES:
            raise UserError(f"mode {self.mode!r}: choose one of {', '.join(MODES)}")
        items = [item.paraphrased() for item in self.items] if self.paraphrase else list(self.items)
        if self.mode == "likelihood":
            rows = _likelihood(subject, items, self.form, progress)
        elif self.mode == "generate":
            rows = _written(subject, items, load_template(self.template), progress)
        else:
            rows = _letters(subject, items, load_template(self.template), self.mode == "upstream", progress)
        return Measurement(f"trait-{self.mode}", condition, rows, summarise(rows))


def evaluate(
    subject: Any,
    items: Sequence[Item],
    mode: Mode = "likelihood",
    template: str = "1",
    condition: str = "base",
    progress: Callable[[int], None] | None = None,
    form: str = "mean",
    paraphrase: bool = False,
) -> Measurement:
    """TRAIT score of the subject in the state it is in.

    The summary holds `score` (percent of scored items whose preferred option is high) with its Wilson 95%
    interval, `preference` (mean probability of high), `n`, `n_unscored`, and for letters `option_mass`
    (probability that any of the four letters comes next) and `order_consistency` (share of items whose
    class is the same in both orders).

    Modes: `likelihood` scores each response as the assistant's answer by its token log-probabilities (`form`:
    `mean` of them, `sum`, or `unconditional`: less those without the situation); `choice` asks for a letter in two
    orders; `upstream` scores letters as the published code does, its defects included, so that published tables
    can be reproduced; `generate` lets the subject write and matches the text to an option.

    Raises:
        UserError: no items, an unknown mode, form or template, or a text the template cannot carry.
    """
    if form not in FORMS:
        raise UserError(f"likelihood form {form!r}: choose one of {', '.join(FORMS)}")
    return TraitBenchmark(items, mode, template, form, paraphrase).measure(subject, condition, progress)


def _likelihood(
    subject: Any, items: Sequence[Item], form: str, progress: Callable[[int], None] | None
) -> list[dict[str, Any]]:
    fits = readable(subject, [Row(item.prompt, item.responses[name]) for item in items for name in OPTIONS])
    parts = [slice(k * len(OPTIONS), (k + 1) * len(OPTIONS)) for k in range(len(items))]
    asked = [item for item, part in zip(items, parts, strict=True) if all(fits[part])]
    texts = [item.responses[name] for item in asked for name in OPTIONS]
    prompts = [item.prompt for item in asked for _ in OPTIONS]
    done = _per_item(progress, len(OPTIONS) * (2 if form == "unconditional" else 1))
    if progress is not None:
        progress(len(items) - len(asked))
    found = _once(subject, [Row(p, t) for p, t in zip(prompts, texts, strict=True)], done)
    alone = None
    if form == "unconditional":
        alone = _once(subject, [Row(NO_SITUATION, text) for text in texts], done)
    scored = {
        id(item): likelihood_row(item.id, found[part], alone[part] if alone is not None else None, form)
        for item, part in zip(asked, parts[: len(asked)], strict=True)
    }
    return [scored.get(id(item), {"id": item.id, "unscored": BEYOND}) for item in items]


def _once(subject: Any, rows: Sequence[Row], progress: Callable[[int], None] | None) -> list[np.ndarray]:
    """Each different row is scored once: where a text lies in a batch rounds its number, and that must not decide
    between two responses that are the same."""
    different = list(dict.fromkeys(rows))
    if progress is not None and len(different) < len(rows):
        progress(len(rows) - len(different))
    scored = dict(zip(different, response_logprobs(subject, different, progress), strict=True))
    return [scored[row] for row in rows]


def _prompts(items: Sequence[Item], template: Template) -> list[str]:
    """Each item's prompt in the forward and in the reversed order."""
    return [
        template.fill(item.situation, item.query, [item.responses[n] for n in order])
        for item in items
        for order in (FORWARD, REVERSED)
    ]


def _letters(
    subject: Any,
    items: Sequence[Item],
    template: Template,
    upstream: bool,
    progress: Callable[[int], None] | None,
) -> list[dict[str, Any]]:
    prompts = _prompts(items, template)
    found = label_probabilities(subject, prompts, template.labels, upstream)
    fits = prompts_fit(subject, prompts, upstream)
    if progress is not None:
        progress(len(items))
    return [
        letter_row(
            item.id,
            dict(zip(FORWARD, found[2 * number].tolist(), strict=True)),
            dict(zip(REVERSED, found[2 * number + 1].tolist(), strict=True)),
            upstream,
        )
        if all(fits[2 * number : 2 * number + 2])
        else {"id": item.id, "unscored": BEYOND}
        for number, item in enumerate(items)
    ]


def _written(
    subject: Any, items: Sequence[Item], template: Template, progress: Callable[[int], None] | None
) -> list[dict[str, Any]]:
    prompts = _prompts(items, template)
    done = _per_item(progress, 2)
    fits = prompts_fit(subject, prompts, new=ANSWER_TOKENS)
    asked = [prompt for prompt, fit in zip(prompts, fits, strict=True) if fit]
    if done is not None:
        done(len(prompts) - len(asked))
    answers = iter(generate(subject, asked, ANSWER_TOKENS, progress=done) if asked else [])
    found = [
        next(answers) if fit else Answer(prompt, "", 0, False, BEYOND)
        for prompt, fit in zip(prompts, fits, strict=True)
    ]
    return [_answer(item, found[2 * n : 2 * n + 2], template.labels) for n, item in enumerate(items)]


def _answer(item: Item, pair: Sequence[Answer], labels: Sequence[str]) -> dict[str, Any]:
    failed = next((a.failed for a in pair if a.failed), "")
    if failed:
        return {"id": item.id, "answers": [a.text for a in pair], "unscored": f"no answer: {failed}"}
    return answer_row(item.id, [a.text for a in pair], item, labels)


def _per_item(progress: Callable[[int], None] | None, rows: int) -> Callable[[int], None] | None:
    """Progress in items from progress in rows."""
    if progress is None:
        return None
    seen = 0

    def step(count: int) -> None:
        nonlocal seen
        before, seen = seen // rows, seen + count
        progress(seen // rows - before)

    return step

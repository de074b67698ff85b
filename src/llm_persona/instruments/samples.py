"""What the subject writes: answers to open questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llm_persona.analysis.dose import distinct_n
from llm_persona.domain.condition import Condition
from llm_persona.domain.measurement import Measurement
from llm_persona.domain.traits import Question
from llm_persona.subject.generate import Answer, check_samples, generate
from llm_persona.subject.labels import prompts_fit
from llm_persona.subject.load import Subject
from llm_persona.subject.packing import BEYOND
from llm_persona.subject.steer import steering_rows


@dataclass(frozen=True)
class Samples:
    """Answers to questions, with their length and repetition: greedy, or `samples` a question at a temperature.

    Several answers to one question are no independent evidence: whoever makes an interval of them resamples questions.
    """

    questions: Sequence[Question]
    max_new_tokens: int = 48
    samples: int = 1
    temperature: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_samples(self.samples, self.temperature)

    @property
    def key(self) -> Any:
        """What decides the measurement besides the subject's state."""
        greedy = ["samples", [q.text for q in self.questions], self.max_new_tokens]
        return [*greedy, self.samples, self.temperature, self.seed] if self.temperature else greedy

    @property
    def asked(self) -> list[tuple[Question, int]]:
        """Question and number of the sample, in the rows' order."""
        return [(question, number) for question in self.questions for number in range(self.samples)]

    def measure(self, subject: Subject, condition: str = "base") -> Measurement:
        """One row an answer: `id` (the question's), `question`, `sample`, `text`, `tokens`, `finished`; `unscored`,
        the reason, where the question leaves no room for an answer in the subject's context."""
        fit = self._fit(subject)
        answers = self._generate(subject, [q.text for q, _ in self.asked]) if fit else self._unasked()
        return self._measurement(answers, condition)

    def measure_steered(self, subject: Subject, conditions: Sequence[Condition]) -> list[Measurement]:
        """The same under several conditions that each steer one vector by a dose at one layer, in one batch.

        A decoding step costs a CPU about the same for 64 rows as for 20. Equal to measuring one condition after
        the other, up to the rounding that the size of a batch makes.
        """
        if not self._fit(subject):
            return [self._measurement(self._unasked(), c.name) for c in conditions]
        steers = [c.steers[0] for c in conditions for _ in self.asked]
        prompts = [q.text for _ in conditions for q, _ in self.asked]
        doses = [s.dose if s.dose is not None else 0.0 for s in steers]
        with steering_rows(subject, [s.vector for s in steers], steers[0].layer, doses):
            answers = self._generate(subject, prompts)
        n = len(self.asked)
        return [self._measurement(answers[k * n : (k + 1) * n], c.name) for k, c in enumerate(conditions)]

    def _fit(self, subject: Subject) -> bool:
        """Whether any question leaves room for an answer."""
        return any(prompts_fit(subject, [q.text for q in self.questions], new=self.max_new_tokens))

    def _unasked(self) -> list[Answer]:
        return [Answer(q.text, "", 0, False, BEYOND) for q, _ in self.asked]

    def _generate(self, subject: Subject, prompts: Sequence[str]) -> list[Answer]:
        return generate(subject, prompts, self.max_new_tokens, temperature=self.temperature, seed=self.seed)

    def _measurement(self, answers: Sequence[Answer], condition: str) -> Measurement:
        rows = [
            {"id": q.id, "question": q.text, "sample": k, "text": a.text, "tokens": a.tokens, "finished": a.finished}
            | ({"unscored": a.failed} if a.failed else {})
            for (q, k), a in zip(self.asked, answers, strict=True)
        ]
        n = len(rows)
        written = [a for a in answers if not a.failed]
        summary = {
            "n": n,
            "empty": sum(not a.text for a in answers),
            **({"beyond_context": n - len(written)} if len(written) < n else {}),
            "mean_tokens": sum(a.tokens for a in written) / len(written) if written else None,
            "finished": sum(a.finished for a in written) / len(written) if written else None,
            "distinct_2": distinct_n([a.text for a in written]),
        }
        return Measurement("samples", condition, rows, summary)

"""What the subject writes: answers to open questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llm_persona.analysis.dose import distinct_n
from llm_persona.domain.condition import Condition
from llm_persona.domain.measurement import Measurement
from llm_persona.domain.traits import Question
from llm_persona.subject.generate import Answer, generate
from llm_persona.subject.load import Subject
from llm_persona.subject.steer import steering_rows


@dataclass(frozen=True)
class Samples:
    """Greedy answers to questions, with their length and repetition."""

    questions: Sequence[Question]
    max_new_tokens: int = 48

    @property
    def key(self) -> Any:
        """What decides the measurement besides the subject's state."""
        return ["samples", [q.text for q in self.questions], self.max_new_tokens]

    def measure(self, subject: Subject, condition: str = "base") -> Measurement:
        """One row a question: `id`, `question`, `text`, `tokens`, `finished`."""
        return self._measurement(generate(subject, [q.text for q in self.questions], self.max_new_tokens), condition)

    def measure_steered(self, subject: Subject, conditions: Sequence[Condition]) -> list[Measurement]:
        """The same under several conditions that each steer one vector by a dose at one layer, in one batch.

        A decoding step costs a CPU about the same for 64 rows as for 20. Equal to measuring one condition after
        the other, up to the rounding that the size of a batch makes.
        """
        steers = [c.steers[0] for c in conditions for _ in self.questions]
        prompts = [q.text for _ in conditions for q in self.questions]
        doses = [s.dose if s.dose is not None else 0.0 for s in steers]
        with steering_rows(subject, [s.vector for s in steers], steers[0].layer, doses):
            answers = generate(subject, prompts, self.max_new_tokens)
        n = len(self.questions)
        return [self._measurement(answers[k * n : (k + 1) * n], c.name) for k, c in enumerate(conditions)]

    def _measurement(self, answers: Sequence[Answer], condition: str) -> Measurement:
        rows = [
            {"id": q.id, "question": q.text, "text": a.text, "tokens": a.tokens, "finished": a.finished}
            for q, a in zip(self.questions, answers, strict=True)
        ]
        n = len(rows)
        summary = {
            "n": n,
            "empty": sum(not a.text for a in answers),
            **({"beyond_context": beyond} if (beyond := sum(bool(a.failed) for a in answers)) else {}),
            "mean_tokens": sum(a.tokens for a in answers) / n,
            "finished": sum(a.finished for a in answers) / n,
            "distinct_2": distinct_n([a.text for a in answers]),
        }
        return Measurement("samples", condition, rows, summary)

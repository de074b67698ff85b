"""What the subject writes: answers to open questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llm_persona.analysis.dose import distinct_n
from llm_persona.domain.measurement import Measurement
from llm_persona.domain.traits import Question
from llm_persona.subject.generate import generate
from llm_persona.subject.load import Subject


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
        answers = generate(subject, [q.text for q in self.questions], self.max_new_tokens)
        rows = [
            {"id": q.id, "question": q.text, "text": a.text, "tokens": a.tokens, "finished": a.finished}
            for q, a in zip(self.questions, answers, strict=True)
        ]
        n = len(rows)
        summary = {
            "n": n,
            "empty": sum(not a.text for a in answers),
            "mean_tokens": sum(a.tokens for a in answers) / n,
            "finished": sum(a.finished for a in answers) / n,
            "distinct_2": distinct_n([a.text for a in answers]),
        }
        return Measurement("samples", condition, rows, summary)

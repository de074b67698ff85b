"""What a subject is as it stands: the model, and what is on for a while."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llm_persona.domain.adapters import adapter_digest
from llm_persona.domain.store import digest
from llm_persona.subject.load import Subject


def as_it_stands(subject: Any) -> dict[str, Any]:
    """The subject's identity, with a digest `on` where a system turn, an adapter (by its content: other weights may
    come to lie at its path) or steering is on: the key of everything that is kept of what it does now.

    What is measured inside somebody's condition is thereby not taken for what is measured outside of it.
    """
    on: list[Any] = [subject.system, None, []]
    if isinstance(subject, Subject):
        on[1:] = [adapter_digest(Path(subject.adapter)) if subject.adapter is not None else None, subject.steered]
    return {**subject.identity, "on": digest(on)[:16]} if on != [None, None, []] else dict(subject.identity)

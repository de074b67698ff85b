"""Which positions of a forward are the prompt's and which the response's: known to whoever lays out the tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from llm_persona.domain.errors import UserError
from llm_persona.subject.load import Subject


@contextmanager
def reading(subject: Subject, responses: int | torch.Tensor) -> Iterator[None]:
    """Say where responses are in the forwards inside the context.

    Args:
        responses: the place in the (padded) sequence from which on every token is a response's, or a boolean tensor
            [batch, length] for whole sequences (or for what comes after a prefix that was read before).
    """
    before, subject.responses = subject.responses, responses
    try:
        yield
    finally:
        subject.responses = before


class Places:
    """Follows a decoder's forwards, and gives the mask of prompt or response positions in the one that runs."""

    def __init__(self, subject: Subject, wanted: str) -> None:
        self.subject, self.wanted = subject, wanted
        self.seen = 0
        self._handle: Any = None

    def __enter__(self) -> Callable[[torch.Tensor], torch.Tensor | None]:
        if self.wanted not in ("all", "prompt", "response"):
            raise UserError(f"--positions {self.wanted}: choose all, prompt or response")
        if self.wanted != "all":

            def before(_module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
                past = kwargs.get("past_key_values")
                # positions are absolute: what the cache holds already stands before this chunk
                self.seen = int(past.get_seq_length()) if past is not None else 0

            self._handle = self.subject.decoder.register_forward_pre_hook(before, with_kwargs=True)
        return self.mask

    def __exit__(self, *_: Any) -> None:
        if self._handle is not None:
            self._handle.remove()

    def mask(self, hidden: torch.Tensor) -> torch.Tensor | None:
        """Boolean [batch or 1, chunk, 1] of the positions wanted in `hidden` [batch, chunk, width]; None for all."""
        if self.wanted == "all":
            return None
        responses = self.subject.responses
        if responses is None:
            raise UserError(
                f"positions={self.wanted!r}: nothing says where the response begins; use generate, record or evaluate, "
                "or put the forward into subject.reading.reading"
            )
        if isinstance(responses, int):
            places = torch.arange(self.seen, self.seen + hidden.shape[1], device=hidden.device)
            found = (places >= responses)[None]
        else:
            found = responses.to(hidden.device)
            if found.shape != hidden.shape[:2]:
                raise RuntimeError(f"a response mask of {tuple(found.shape)} for hidden states {tuple(hidden.shape)}")
        return (found if self.wanted == "response" else ~found)[:, :, None]

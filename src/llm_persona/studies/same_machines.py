"""Whether workers run the model as this machine would: results are kept under what runs it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llm_persona.domain.errors import UserError
from llm_persona.studies.pieces import Executor, Piece
from llm_persona.subject.locate import identify


@dataclass(frozen=True)
class IdentityPiece:
    """Asks a worker what a model's identity is there."""

    model: str
    dtype: str
    device: str

    @property
    def name(self) -> str:
        """For messages."""
        return self.model

    def make(self) -> dict[str, str]:
        """Model, revision, dtype and kind of device."""
        return identify(self.model, self.dtype, self.device)


def check_workers(executor: Executor, models: Sequence[tuple[str, str, str]]) -> None:
    """Find out, before the work, that a worker would run one of the (model, dtype, device) otherwise than this machine.

    Raises:
        UserError: it would; the model cannot be found here or there.
    """
    here = {IdentityPiece(*one): identify(*one) for one in dict.fromkeys(models)}

    def same(piece: Piece, there: Any) -> None:
        assert isinstance(piece, IdentityPiece)
        differs = [f"{key} {there[key]}, here {value}" for key, value in here[piece].items() if there[key] != value]
        if differs:
            raise UserError(
                f"--executor ray: a worker runs {piece.model} with {'; '.join(differs)}; start the command on a "
                "machine like the workers, with the same --device, --dtype and model files"
            )

    executor.run(list(here), same)

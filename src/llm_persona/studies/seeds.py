"""The seeds of one fine-tuning as pieces: each trains an adapter of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llm_persona.domain.condition import BASE, Condition
from llm_persona.domain.errors import UserError
from llm_persona.studies.pieces import Executor
from llm_persona.studies.same_machines import check_workers
from llm_persona.studies.trajectory import watch_for
from llm_persona.subject.load import load_subject
from llm_persona.subject.locate import identify
from llm_persona.training.along import Watch
from llm_persona.training.data import TrainingData
from llm_persona.training.finetune import Tuned, finetune, finished, training_key
from llm_persona.training.recipe import Recipe


@dataclass(frozen=True)
class SeedPiece:
    """One seed's training into `out`; a lost worker's is gone on with from its last checkpoint."""

    subject: tuple[str, str, str]
    """Model, dtype, device."""
    data: TrainingData
    out: Path
    recipe: Recipe
    seed: int
    note: str = ""
    under: Condition = BASE
    watched: tuple[str, ...] = ()
    watch_every: int | None = None

    @property
    def name(self) -> str:
        """For messages."""
        return f"training {self.out.name}"

    @property
    def watch(self) -> Watch | None:
        """What is measured along the way.

        Raises:
            UserError: no such trait.
        """
        return watch_for(self.watched, self.data, self.recipe, self.watch_every) if self.watched else None

    def check(self) -> None:
        """Refuse, before any work, what `make` would refuse without having trained.

        Raises:
            UserError: there is no such model, or `out` holds another training.
        """
        key = training_key(identify(*self.subject), self.data, self.recipe, self.seed, self.under, self.watch)
        finished(self.out, key)

    def make(self) -> dict[str, Any]:
        """Train, or find it trained; the `Tuned` as plain data.

        Raises:
            UserError: as `finetune`; or the worker does not see the folder.
        """
        if not self.out.parent.is_dir():
            raise UserError(f"--out {self.out.parent}: a worker does not see this folder; put it on shared storage")
        model, dtype, device = self.subject
        done = finetune(
            load_subject(model, dtype=dtype, device=device),
            self.data,
            self.out,
            self.recipe,
            self.seed,
            self.note,
            under=self.under,
            watch=self.watch,
        )
        return asdict(done)


def train_seeds(executor: Executor, pieces: Sequence[SeedPiece], said: Callable[[str], None]) -> list[Tuned]:
    """Train every piece by the executor's workers; what was trained, in the pieces' order.

    Raises:
        UserError: a piece's own, or that its workers were lost too often.
    """
    for piece in pieces:
        piece.check()
    check_workers(executor, [piece.subject for piece in pieces])
    for piece in pieces:
        piece.out.parent.mkdir(parents=True, exist_ok=True)
    found: dict[int, Tuned] = {}

    def done(piece: Any, made: Any) -> None:
        found[piece.seed] = Tuned(**made)
        said(f"{piece.name}: {made['steps']} steps")

    executor.run(pieces, done)
    return [found[piece.seed] for piece in pieces]

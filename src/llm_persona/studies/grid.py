"""A study cut into pieces that workers make ahead of it, in the study's own run folder.

A piece does nothing that the study would not do: it makes stages, which are named by what decides them. The study then
finds them there, and makes what is missing; so its numbers are the same, and a piece that is lost costs only itself.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from llm_persona.domain.condition import Steer
from llm_persona.domain.config import StudyConfig
from llm_persona.domain.errors import UserError
from llm_persona.studies import trait_conditions, trait_reading, trait_steering, trait_tuning, trait_vector
from llm_persona.studies.folder import sweep, working_in
from llm_persona.studies.lab import Lab
from llm_persona.studies.pieces import Executor, Piece
from llm_persona.studies.same_machines import check_workers
from llm_persona.studies.stages import Stages
from llm_persona.studies.trait_study import TraitStudy, open_trait


@dataclass(frozen=True)
class StudyPiece:
    """One trait of one study: all of its `own` phases, or how it moves under the `others`' vectors (which are then
    there)."""

    config: StudyConfig
    folder: Path
    trait: str
    step: Literal["own", "others"]

    @property
    def name(self) -> str:
        """For messages."""
        what = "" if self.step == "own" else " under the others' vectors"
        seed = f", seed {self.config.seed}" if self.config.seed else ""
        return f"{self.config.model}{seed}, {self.trait}{what}"

    def make(self) -> int:
        """Make its stages, where they are not there yet; how many were made."""
        return make(self)


def waves(configs: Sequence[StudyConfig], folders: Sequence[Path]) -> list[list[StudyPiece]]:
    """Pieces that may be made at once, wave after wave."""
    both = list(zip(configs, (f.absolute() for f in folders), strict=True))
    own = [StudyPiece(c, f, trait, "own") for c, f in both for trait in c.traits]
    others = [StudyPiece(c, f, trait, "others") for c, f in both if len(c.traits) > 1 for trait in c.traits]
    return [own, others] if others else [own]


def make_ahead(
    configs: Sequence[StudyConfig], folders: Sequence[Path], executor: Executor, done: Callable[[Piece, Any], None]
) -> None:
    """Have every study's pieces made while their folders are ours.

    Raises:
        UserError: another process works in one of the folders, or a piece's own error.
    """
    with ExitStack() as stack:
        for folder in folders:
            stack.enter_context(working_in(folder, "running a study"))
        check_workers(executor, [(config.model, config.dtype, config.device) for config in configs])
        for wave in waves(configs, folders):
            executor.run(wave, done)
        for folder in folders:  # what a lost worker left half written; no worker is left
            sweep(folder)


def make(piece: StudyPiece) -> int:
    """Make one piece's stages, where they are not there yet; how many were made.

    Raises:
        UserError: the run folder is not there: this worker does not share it.
    """
    if not (piece.folder / "stages").is_dir():
        raise UserError(
            f"--out {piece.folder}: a worker does not see this folder; put the run on storage that every node shares"
        )
    stages = Stages(piece.folder / "stages")
    lab = Lab(piece.config.model, piece.config.dtype, piece.config.device, stages, piece.config.engine)
    lab.token_budget = piece.config.token_budget
    if piece.step == "own":
        _own(open_trait(lab, piece.config, piece.trait), piece.folder)
    else:
        _others(lab, piece)
    return stages.made


def _own(study: TraitStudy, folder: Path) -> None:
    trait_conditions.baseline(study)
    trait_conditions.instructed(study)
    trait_vector.vector(study, folder / "vectors")
    trait_steering.steering(study, {})
    trait_conditions.combined(study)
    trait_steering.dose_response(study)
    if study.config.tune:
        trait_tuning.tuning(study, folder / "adapters")
    trait_reading.written(study)
    trait_reading.tokens(study)
    trait_reading.activation_shift(study, folder / "adapters")


def _others(lab: Lab, piece: StudyPiece) -> None:
    studies = [open_trait(lab, piece.config, name) for name in piece.config.traits]
    with tempfile.TemporaryDirectory() as place:  # the vectors are in the run already; pieces must not write one file
        for study in studies:
            trait_vector.vector(study, Path(place))
    vectors = {s.name: Steer(s.persona, s.layer, dose=piece.config.sweep_dose, name=s.name) for s in studies}
    mine = studies[piece.config.traits.index(piece.trait)]
    trait_conditions.baseline(mine)
    trait_steering.steering(mine, vectors)

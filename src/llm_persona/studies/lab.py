"""For each condition, apply each instrument: the one engine behind base, instructed, steered and tuned."""

from __future__ import annotations

import gc
from collections.abc import Iterable
from contextlib import nullcontext
from functools import partial
from typing import Any, Protocol

import torch

from llm_persona.domain.condition import BASE, Condition
from llm_persona.domain.config import Engine
from llm_persona.domain.errors import UserError
from llm_persona.domain.measurement import Measurement
from llm_persona.instruments.samples import Samples
from llm_persona.studies.stages import Stages
from llm_persona.subject.load import Subject, load_subject
from llm_persona.subject.locate import identify
from llm_persona.subject.reuse import KeptBlocks, reusing_below


class Instrument(Protocol):
    """Anything that measures the subject in the state it is in."""

    @property
    def key(self) -> Any:
        """What decides the measurement besides the subject's state."""

    def measure(self, subject: Subject, condition: str = ...) -> Measurement:
        """Measure the subject as it stands; `condition` is the label."""


class Lab:
    """A subject that is loaded only when something has to be measured, and the store of what was."""

    def __init__(self, model: str, dtype: str, device: str, stages: Stages, engine: Engine = "transformers") -> None:
        self.identity = identify(model, dtype, device, engine)
        self.stages = stages
        self._arguments = (model, dtype, device)
        self._engine = engine
        self._subject: Subject | None = None
        self._trainer: Subject | None = None
        self.token_budget: int | None = None
        """Padded tokens in the subject's batches (None: its own choice)."""

    def subject(self) -> Subject:
        """The subject, loaded at the first call."""
        if self._subject is None:
            model, dtype, device = self._arguments
            self._subject = load_subject(model, dtype=dtype, device=device, engine=self._engine)
            if self.token_budget is not None:
                self._subject.token_budget = self.token_budget
        return self._subject

    def same_here(self) -> Lab:
        """Itself, where this machine runs the subject as the one that made it: a worker's numbers are stored under the
        identity that came with it.

        Raises:
            UserError: it would run otherwise (another device, number format or revision).
        """
        here = identify(*self._arguments, self._engine)
        if here != self.identity:
            differs = [f"{k} {here.get(k)}, there {v}" for k, v in self.identity.items() if here.get(k) != v]
            raise UserError(
                f"--executor ray: a worker runs {self.identity['model']} otherwise than the machine that asks "
                f"({'; '.join(differs)}); use machines that are alike"
            )
        return self

    @property
    def training_identity(self) -> dict[str, str]:
        """What decides a training: the subject, whatever engine measures it."""
        return {name: value for name, value in self.identity.items() if name != "engine"}

    def trainer(self) -> Subject:
        """The subject to train adapters on: transformers' own, loaded once beside another engine's where one runs it
        (vLLM does not train). Its weights are then in memory twice: let it go by `end_training`."""
        if self._engine == "transformers":
            return self.subject()
        if self._trainer is None:
            model, dtype, device = self._arguments
            self._trainer = load_subject(model, dtype=dtype, device=device)
        return self._trainer

    def end_training(self) -> None:
        """Free what `trainer` loaded: after the last training, its memory is better the engine's."""
        if self._trainer is None:
            return
        self._trainer = None
        gc.collect()  # the libraries' trainers refer to themselves
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def measure(self, name: str, condition: Condition, instrument: Instrument) -> Measurement:
        """The measurement, from the store if it is there."""
        return self.measure_all(name, condition, {"": instrument})[""]

    def measure_all(
        self, prefix: str, condition: Condition, instruments: dict[str, Instrument]
    ) -> dict[str, Measurement]:
        """Every instrument under one condition, which is entered once and only if something is missing."""
        keys = {what: self._key(condition, instrument) for what, instrument in instruments.items()}
        known = all(self.stages.has(f"{prefix} {what}".strip(), key) for what, key in keys.items())
        with nullcontext() if known else self.subject().under(condition):
            found = {
                what: self.stages.value(
                    f"{prefix} {what}".strip(), keys[what], partial(self._measured, instrument, condition.name)
                )
                for what, instrument in instruments.items()
            }
        return {what: Measurement(**value) for what, value in found.items()}

    def _measured(self, instrument: Instrument, name: str) -> Any:
        return instrument.measure(self.subject(), name).as_json()

    def sweep(
        self,
        name: str,
        kept: KeptBlocks,
        layer: int,
        conditions: Iterable[Condition],
        instruments: dict[str, Instrument],
    ) -> list[dict[str, Measurement]]:
        """Several conditions that steer at one layer; the layers below are computed once and stay in `kept`."""
        planned = list(conditions)
        known = all(
            self.stages.has(f"{name} {c.name} {what}", self._key(c, i))
            for c in planned
            for what, i in instruments.items()
        )
        with nullcontext() if known else reusing_below(self.subject(), layer, kept):
            return [
                {what: self.measure(f"{name} {c.name} {what}", c, i) for what, i in instruments.items()}
                for c in planned
            ]

    def sweep_samples(self, name: str, conditions: Iterable[Condition], samples: Samples) -> list[Measurement]:
        """Answers under several steered conditions in one batch, kept as one stage: which rows share a batch
        decides the rounding, so a continued run must batch them as an undisturbed one does."""
        planned = list(conditions)

        def make() -> Any:
            return [m.as_json() for m in samples.measure_steered(self.subject(), planned)]

        key = [self.identity, [c.state for c in planned], samples.key]
        return [Measurement(**m) for m in self.stages.value(f"{name} steered samples", key, make)]

    def read(self, name: str, instrument: Instrument) -> Measurement:
        """A measurement by the base subject."""
        return self.measure(name, BASE, instrument)

    def _key(self, condition: Condition, instrument: Instrument) -> Any:
        return [self.identity, condition.state, instrument.key]

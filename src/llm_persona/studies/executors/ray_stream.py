"""Ray Data makes the parts of a long stream: a pool of workers that each load the subject once."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from llm_persona.domain import errors
from llm_persona.domain.errors import UserError, one_line
from llm_persona.domain.store import canonical
from llm_persona.studies.pieces import PartMaker

HELD = 2
"""Parts at a worker at once, the one it makes among them: it never waits for the next, and a slow one holds few."""
FEW = 8
"""With fewer parts a worker than this, one at a time: the worker that is ready first would otherwise take the others'
share, and wait for nobody while they stand idle."""


def stream(
    ray: Any, maker: PartMaker, given: Sequence[Any], workers: int, cpus: float, gpus: float, retries: int
) -> Iterator[tuple[int, Any]]:
    """(number, value) of every part in the order in which they are made. Parts wait as numbers and JSON, and values
    are taken as they come, so memory does not grow with the stream.

    A part whose worker is lost is begun again, `retries` times at most; the parts that are made are not.

    Raises:
        UserError: a part's own, of its class; or a part whose workers were lost too often.
    """
    import ray.data as ray_data

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray_data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = False
    begun = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(_Begun).remote()
    rows = [{"number": number, "given": json.dumps(canonical(one))} for number, one in enumerate(given)]
    made = ray_data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        _Worker,
        fn_constructor_kwargs={"maker": maker, "home": Path.cwd(), "begun": begun, "most": retries + 1},
        batch_size=1,
        batch_format="numpy",
        compute=ray_data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=held_by(len(rows), workers)),
        num_cpus=cpus,
        num_gpus=gpus,
    )
    try:
        for row in made.iter_rows():
            if row["fault"]:
                raise getattr(errors, str(row["fault"]))(str(row["value"]))
            yield int(row["number"]), json.loads(row["value"])
    except ray.exceptions.RayActorError as error:
        raise UserError(
            f"ray: {maker.name}: a worker was lost ({one_line(str(error), 160)}); finished parts are kept, and the "
            "same command goes on"
        ) from error


def held_by(parts: int, workers: int) -> int:
    """How many parts a worker has at once."""
    return 1 if parts < FEW * workers else HELD


class _Begun:
    """How often each part was begun; it outlives the workers. Ray Data itself would begin a part again without end."""

    def __init__(self) -> None:
        self._times: dict[int, int] = {}

    def again(self, number: int) -> int:
        """Count one beginning; how many it makes."""
        self._times[number] = self._times.get(number, 0) + 1
        return self._times[number]


class _Worker:
    """One worker's side. A user's error travels as a value: Ray Data would wrap it, and call it our fault."""

    def __init__(self, maker: PartMaker, home: Path, begun: Any, most: int) -> None:
        self._maker, self._home, self._begun, self._most = maker, home, begun, most

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Make the one part of the batch."""
        number, value, fault = int(batch["number"][0]), "", ""
        try:
            go_to(self._home)
            self._count(number)
            value = json.dumps(canonical(self._maker.make(json.loads(str(batch["given"][0])))))
        except UserError as error:
            value, fault = str(error), _class_of(error)
        return {"number": [number], "value": [value], "fault": [fault]}

    def _count(self, number: int) -> None:
        import ray

        if ray.get(self._begun.again.remote(number)) > self._most:
            raise UserError(
                f"ray: {self._maker.name}, part {number}: its worker was lost {self._most} times; finished parts are "
                "kept, and the same command goes on"
            )


def _class_of(error: UserError) -> str:
    """The name of the error's class in `domain.errors`, or of the nearest above it."""
    return next(kind.__name__ for kind in type(error).__mro__ if hasattr(errors, kind.__name__))


def go_to(home: Path) -> None:
    """Work where the command was started: paths in its settings are relative to there.

    Raises:
        UserError: this worker does not see the folder.
    """
    try:
        os.chdir(home)
    except OSError as error:
        raise UserError(f"{home}: a worker does not see this folder; start the command on shared storage") from error

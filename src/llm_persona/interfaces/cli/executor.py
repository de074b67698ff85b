"""`--executor` and its options, which several commands share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import click

from llm_persona.interfaces.cli.options import chain

if TYPE_CHECKING:
    from llm_persona.studies.pieces import Executor

executor_options = chain(
    click.option(
        "--executor",
        type=click.Choice(["local", "ray"]),
        default="local",
        show_default=True,
        help="What does the work: this process, or a Ray cluster's tasks, with the same numbers.",
    ),
    click.option("--address", help="--executor ray: the cluster (auto, HOST:PORT). Default: one on this machine."),
    click.option("--task-cpus", type=click.FloatRange(min=0, min_open=True), help="--executor ray: cores of a task."),
    click.option("--task-gpus", type=click.FloatRange(min=0), help="--executor ray: GPUs of a task."),
)


def executor_from(arguments: dict[str, Any]) -> AbstractContextManager[Executor | None]:
    """Take the options of `executor_options` out of a command's keyword arguments; None is this process.

    A cluster is joined or made at the first piece of work, so that a command first refuses what is wrong otherwise.

    Raises:
        UserError: options of a cluster without one; on entering, that nobody answers at its address or that Ray is not
            installed; at the first piece, that the cluster cannot be had.
    """
    from llm_persona.domain.errors import UserError

    kind, address, cpus, gpus = (arguments.pop(name) for name in ("executor", "address", "task_cpus", "task_gpus"))
    if kind == "local":
        if address or cpus or gpus:
            raise UserError("--address, --task-cpus, --task-gpus: speak of a cluster; add --executor ray")
        return nullcontext()
    return _on_ray(address, cpus, gpus)


@contextmanager
def _on_ray(*given: Any) -> Iterator[Executor]:
    from llm_persona.studies.executors import on_ray
    from llm_persona.studies.executors.at_need import at_need

    on_ray.check(given[0])
    with at_need(lambda: on_ray.ray_executor(*given)) as executor:
        yield executor


def say(text: str) -> None:
    """What a worker has done, to the terminal's error stream."""
    click.echo(text, err=True)

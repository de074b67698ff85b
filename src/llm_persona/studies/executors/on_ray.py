"""Ray runs the pieces: a cluster that is there (`address`), or one on this machine alone."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llm_persona.domain.errors import UserError, one_line
from llm_persona.studies.executors.ray_stream import go_to, stream
from llm_persona.studies.pieces import PartMaker, Piece
from llm_persona.subject.blocks import SETTING

RETRIES = 3
"""How often a piece is begun again whose worker was lost; its finished stages are there then."""


class RayExecutor:
    """Pieces as Ray tasks, spread over the nodes; each has `cpus` and `gpus` to itself."""

    def __init__(self, ray: Any, cpus: float, gpus: float) -> None:
        self._ray = ray
        self.cpus, self.gpus = cpus, gpus

    def run(self, pieces: Sequence[Piece], done: Callable[[Piece, Any], None]) -> None:
        """Make every piece; `done` as each ends.

        Raises:
            UserError: a piece's own, or that a piece's workers were lost more than `RETRIES` times.
        """
        ray = self._ray
        task = ray.remote(
            num_cpus=self.cpus, num_gpus=self.gpus, max_retries=RETRIES, scheduling_strategy="SPREAD"
        )(_piece)  # fmt: skip
        waiting = {task.remote(piece, Path.cwd()): piece for piece in pieces}
        while waiting:
            [ready], _ = ray.wait(list(waiting), num_returns=1)
            piece = waiting.pop(ready)
            try:
                made = ray.get(ready)
            except ray.exceptions.RayTaskError as error:
                self._stop(list(waiting))
                if isinstance(error.cause, UserError):
                    raise type(error.cause)(str(error.cause)) from error
                raise
            except ray.exceptions.RayError as error:
                self._stop(list(waiting))
                raise UserError(
                    f"ray: {piece.name}: its worker was lost {RETRIES + 1} times ({one_line(str(error), 160)}); "
                    "finished stages are kept, and the same command goes on"
                ) from error
            done(piece, made)

    def stream(self, maker: PartMaker, given: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """Every part, as each is made, by as many workers as the cluster holds; see `ray_stream`."""
        return stream(self._ray, maker, given, min(len(given), self.workers), self.cpus, self.gpus, RETRIES)

    @property
    def workers(self) -> int:
        """How many pieces or parts the cluster can make at once."""
        nodes = [n["Resources"] for n in self._ray.nodes() if n["Alive"]]
        return max(1, sum(_room(node, self.cpus, self.gpus) for node in nodes))

    def _stop(self, waiting: list[Any]) -> None:
        """End what still runs, and wait until it has: nobody writes into a run folder that is no longer ours."""
        for reference in waiting:
            self._ray.cancel(reference, force=True)
        if waiting:
            self._ray.wait(waiting, num_returns=len(waiting), timeout=60)


def _piece(piece: Piece, home: Path) -> Any:
    go_to(home)
    return piece.make()


@contextmanager
def ray_executor(address: str | None, cpus: float | None = None, gpus: float | None = None) -> Iterator[RayExecutor]:
    """An executor on the cluster at `address` (`auto`: the one this machine belongs to), or on this machine's own.

    Args:
        cpus: cores of a piece; default: a node's, divided by its GPUs if it has some, else one.
        gpus: of a piece; default: one where the cluster has any.

    Raises:
        UserError: Ray is not installed, the cluster cannot be reached, or no node has what a piece asks for.
    """
    ray = check(address)
    try:
        # (a cluster's workers have an environment of their own; which blocks are meant is the command's)
        told = {"env_vars": {SETTING: os.environ[SETTING]}} if os.environ.get(SETTING) else None
        ray.init(
            address=address,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env=told,
        )
    except Exception as error:  # Ray raises many kinds
        raise _nobody(address, error) from error
    try:
        nodes = [n["Resources"] for n in ray.nodes() if n["Alive"]]
        wanted_gpus = gpus if gpus is not None else float(any(n.get("GPU") for n in nodes))
        wanted_cpus = cpus if cpus is not None else _share(nodes, wanted_gpus)
        if not any(_room(node, wanted_cpus, wanted_gpus) for node in nodes):
            raise UserError(
                f"ray: no node has {wanted_cpus:g} CPU and {wanted_gpus:g} GPU at once for a piece; ask for less "
                "(--task-cpus, --task-gpus)"
            )
        yield RayExecutor(ray, wanted_cpus, wanted_gpus)
    finally:
        ray.shutdown()


def check(address: str | None) -> Any:
    """Find out in seconds, and without starting anything, that there is no Ray or nobody who answers; the library.

    Raises:
        UserError: Ray is not installed, or the cluster cannot be reached.
    """
    ray: Any
    try:
        import ray
    except ImportError as error:
        raise UserError("--executor ray: Ray is not installed; pip install 'llm-persona[ray]'") from error
    _reach(address)
    return ray


def _reach(address: str | None) -> None:
    """Find out in seconds, not in the minutes that Ray tries, that nobody listens there."""
    host, _, port = (address or "").rpartition(":")
    if not host or not port.isdigit():
        return  # this machine's own, or the one it belongs to
    try:
        socket.create_connection((host.removeprefix("ray://"), int(port)), timeout=10).close()
    except OSError as error:
        raise _nobody(address, error) from error


def _nobody(address: str | None, error: Exception) -> UserError:
    return UserError(
        f"--address {address}: no Ray cluster answers there ({one_line(str(error), 160)}); `ray start --head` starts "
        "one, and without --address one is made on this machine"
    )


def _share(nodes: list[dict[str, float]], gpus: float) -> float:
    """One core a piece; with GPUs, a node's cores divided among its own."""
    with_gpu = [n["CPU"] // n["GPU"] for n in nodes if gpus and n.get("GPU") and n.get("CPU")]
    return max(1.0, min(with_gpu)) if with_gpu else 1.0


def _room(node: dict[str, float], cpus: float, gpus: float) -> int:
    """How many workers a node holds at once."""
    places = [node.get("CPU", 0) / cpus, *([node.get("GPU", 0) / gpus] if gpus else [])]
    return int(min(places) + 1e-9)

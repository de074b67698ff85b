"""A Ray cluster of two nodes with a worker each, and an executor that does everything in this process."""

from __future__ import annotations

import json
import os
import socket
import time
from contextlib import ExitStack, suppress

import pytest

from llm_persona.domain.store import canonical


def start_cluster(nodes: int):
    """A cluster of that many nodes of one core each, on this machine."""
    from ray._private import services, utils
    from ray.cluster_utils import Cluster

    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112  (its name)  beside other tests, Ray's own 15 would starve the workers
    utils.get_dashboard_dependency_error = lambda: ImportError("not wanted here")  # its agents are slow to start
    services.get_node = patient(services.get_node)
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, **ports()})
    for _ in range(nodes - 1):
        made.add_node(num_cpus=1, **ports())
    made.wait_for_nodes()
    return made


def patient(ask):
    """Ask until there is an answer: Ray gives a node half a minute to start, which a busy machine may need."""

    def asked(*args):
        for _ in range(600):
            with suppress(RuntimeError):
                return ask(*args)
            time.sleep(0.2)
        return ask(*args)

    return asked


def ports() -> dict[str, int]:
    """Free ports for a node's agents: a node that is not told them gives up when they start slowly."""
    names = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port", "runtime_env_agent_port")
    with ExitStack() as stack:
        held = [stack.enter_context(socket.socket()) for _ in names]
        for one in held:
            one.bind(("127.0.0.1", 0))
        return {name: one.getsockname()[1] for name, one in zip(names, held, strict=True)}


@pytest.fixture(scope="session")
def cluster():
    """Two nodes."""
    import ray

    made = start_cluster(2)
    yield made
    ray.shutdown()
    made.shutdown()


class Here:
    """An executor that makes pieces and parts in this process, one after the other."""

    def run(self, pieces, done) -> None:
        for piece in pieces:
            done(piece, piece.make())

    def stream(self, maker, given):
        for number, one in reversed(list(enumerate(given))):
            yield number, json.loads(json.dumps(canonical(maker.make(json.loads(json.dumps(one))))))

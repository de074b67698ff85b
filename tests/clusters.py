"""A Ray cluster of two nodes with a worker each, and an executor that does everything in this process."""

from __future__ import annotations

import json
import os

import pytest

from llm_persona.domain.store import canonical


@pytest.fixture(scope="session")
def cluster():
    import ray
    from ray.cluster_utils import Cluster

    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112  (its name)  beside other tests, Ray's own 15 would starve the workers
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    made.add_node(num_cpus=1)
    made.wait_for_nodes()
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

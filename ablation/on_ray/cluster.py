"""An existing Ray cluster: connecting to it, how many workers it has room for, and which nodes can run them."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablation import leftovers, limits, worker_process
from ablation.errors import InputError, Problem
from ablation.on_ray import node
from ablation.on_ray.node import Site
from ablation.workers import OURS

CHECK_SECONDS = 300.0  # for a node to say whether it can run workers


@dataclass(frozen=True)
class Share:
    """What a worker asks of its node."""

    cpus: int = 1
    gpus: float = 0.0  # a fraction: so many share one

    def __str__(self) -> str:
        gpus = f" and {self.gpus:.3g} GPU" if self.gpus else ""
        return f"{self.cpus} CPU{'s' if self.cpus > 1 else ''}{gpus}"

    def times_in(self, resources: dict[str, float]) -> int:
        """How many workers a node with these resources has room for."""
        needs = {"CPU": self.cpus, "GPU": self.gpus}
        return int(min(round(resources.get(kind, 0.0) / need, 3) for kind, need in needs.items() if need))


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Be connected to the cluster at `address`, else RAY_ADDRESS, else the one that runs on this machine; starts none.

    Raises InputError if there is none.
    """
    address = address or os.environ.get("RAY_ADDRESS") or "auto"
    if address == "local":
        raise InputError([Problem("", "--ray-address", "'local' is no cluster; without --executor ray, --jobs run on this machine")])
    if address != "auto":
        _require_answer(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "1")  # of 50 seconds each, to connect
    try:
        import ray
    except ImportError:
        raise InputError([Problem("", "--executor", "ray is not installed; pip install 'ablate-lt[ray]'")]) from None
    for module in (node, limits, worker_process, leftovers):
        ray.cloudpickle.register_pickle_by_value(module)
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise _no_cluster(address, " ".join(str(error).split())) from None
    try:
        yield
    finally:
        ray.shutdown()


def room(share: Share) -> int:
    """How many workers the cluster has room for, whatever else it runs. Raises InputError if it is none."""
    n = sum(n for _, _, n in _nodes(share))
    if n:
        return n
    import ray

    has = ray.cluster_resources()
    message = f"no node of the cluster has {share} for a worker; together they have {has.get('CPU', 0):g} CPUs and {has.get('GPU', 0):g} GPUs"
    raise InputError([Problem("", "--executor", message)])


@contextlib.contextmanager
def site_of(folder: Path, sample: dict[str, Any]) -> Iterator[Site]:
    """The project folder, marked so that nodes can tell it from another at its path."""
    mark = folder.resolve() / ".ablate" / f"shared-{secrets.token_hex(8)}"
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.touch()
    try:
        path = os.pathsep.join(filter(None, [str(OURS), os.environ.get("PYTHONPATH")]))
        yield Site(str(folder.resolve()), str(mark), path, json.dumps(sample))
    finally:
        mark.unlink(missing_ok=True)


def require_fit(site: Site, share: Share) -> list[str]:
    """Ids of the nodes that have room for a worker and can run one. Raises InputError naming each that cannot.

    A node that does not answer, because it has just been lost, is left out; if none answers, all are named.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes, look = _nodes(share), ray.remote(node.fault_of)
    answers = [
        look.options(num_cpus=0, max_retries=0, scheduling_strategy=NodeAffinitySchedulingStrategy(identity, soft=False)).remote(site)
        for identity, _, _ in nodes
    ]
    ray.wait(answers, num_returns=len(answers), timeout=CHECK_SECONDS)
    faults, silent, fit = [], [], []
    for (identity, name, _), answer in zip(nodes, answers):
        try:
            fault = ray.get(answer, timeout=0)
        except ray.exceptions.GetTimeoutError:
            silent.append(Problem("", f"node {name}", f"has not answered within {CHECK_SECONDS:.0f} seconds"))
        except ray.exceptions.RayError as error:
            silent.append(Problem("", f"node {name}", f"cannot run a task: {last_line(error)}"))
        else:
            if fault is None:
                fit.append(identity)
            else:
                faults.append(Problem("", f"node {name}", fault))
    if faults or not fit:
        raise InputError(faults or silent)
    return fit


def last_line(error: Exception) -> str:
    """Of what Ray says of an error: the cause, after the ids of all concerned."""
    return str(error).strip().splitlines()[-1].strip()


def _require_answer(address: str) -> None:
    """Raise InputError if nobody listens at `host:port` or `ray://host:port`: Ray itself would try for a long time."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, ValueError) as error:
        raise _no_cluster(address, str(error)) from None


def _no_cluster(address: str, cause: str) -> InputError:
    where = "on this machine" if address == "auto" else f"at {address}"
    return InputError([Problem("", "--ray-address", f"no Ray cluster {where}: {cause}")])


def _nodes(share: Share) -> list[tuple[str, str, int]]:
    """(id, name, workers it has room for) of each node that has room for one."""
    import ray

    alive = [node for node in ray.nodes() if node["Alive"]]
    found = [(node["NodeID"], f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})", share.times_in(node["Resources"])) for node in alive]
    return [entry for entry in found if entry[2] > 0]

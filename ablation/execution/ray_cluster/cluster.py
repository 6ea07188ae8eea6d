"""An existing Ray cluster: the connection, and which nodes can run how many workers."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ablation.errors import InputError, Problem
from ablation.execution import leftovers
from ablation.execution import process as worker_process
from ablation.execution.ray_cluster import node
from ablation.execution.ray_cluster.check import Sample
from ablation.execution.ray_cluster.node import NodeSetup

# Folders and files of a project that are not code.
NO_CODE = """
/runs /reports /.ablate /data /pretrained /mlruns /mlartifacts /mlflow.db* /.git /.venv __pycache__
"""
# How long a node may take to answer whether it can run workers.
CHECK_SECONDS = 300.0


class WorkerResources(NamedTuple):
    """What a worker asks of its node. gpus: a fraction, so that many share one."""

    cpus: int = 1
    gpus: float = 0.0

    def __str__(self) -> str:
        gpus = f" and {self.gpus:.3g} GPU" if self.gpus else ""
        return f"{self.cpus} CPU{'s' if self.cpus > 1 else ''}{gpus}"

    def times_in(self, resources: dict[str, float]) -> int:
        """How many workers a node with these resources has room for."""
        needs = {"CPU": self.cpus, "GPU": self.gpus}
        times = (resources.get(kind, 0.0) / need for kind, need in needs.items() if need)
        return int(min(round(n, 3) for n in times))


@contextlib.contextmanager
def connected(address: str | None, code: Path | None) -> Iterator[None]:
    """Be connected to the cluster at `address`, else RAY_ADDRESS, else the one that runs on this
    machine; starts none.

    code: the folder of the project, whose code Ray brings to the nodes; None: they need none of it.
    Raises InputError if there is none.
    """
    address = address or os.environ.get("RAY_ADDRESS") or "auto"
    if address == "local":
        raise _refused(
            "--ray-address",
            "'local' is no cluster; without --executor ray, --jobs run on this machine",
        )
    if address != "auto":
        _require_answer(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # of 50 seconds each, to connect
    os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "1")
    try:
        import ray
    except ImportError:
        message = "ray is not installed; pip install 'ablate-lt[ray]'"
        raise _refused("--executor", message) from None
    for module in (node, worker_process, leftovers):
        ray.cloudpickle.register_pickle_by_value(module)
    environment: dict[str, Any] = {}
    if code is not None:
        environment = {"working_dir": str(code.resolve()), "excludes": NO_CODE.split()}
    try:
        ray.init(
            address=address, log_to_driver=False, logging_level="ERROR", runtime_env=environment
        )
    except ray.exceptions.RuntimeEnvSetupError as error:
        # such as a folder that is too large
        message = f"cannot bring the project's code to the nodes: {last_line(error)}"
        raise _refused("--executor", message) from None
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise _no_cluster(address, " ".join(str(error).split())) from None
    try:
        yield
    finally:
        ray.shutdown()


def site_of(folder: Path, sample: Sample, brings_code: bool) -> NodeSetup:
    """What nodes are told of a study. folder: has the data, where ABLATE_DATA names none."""
    data = Path(os.environ.get("ABLATE_DATA", "").strip() or folder).expanduser()
    return NodeSetup(json.dumps(sample), str(data.resolve()), brings_code)


def fit_nodes(
    site: NodeSetup, share: WorkerResources, say: Callable[[str], object]
) -> dict[str, int]:
    """Id of each node that can run workers -> for how many it has room, whatever else it runs.

    say: called with each node that cannot, and why. Raises InputError if no node can, or has room.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    known = [entry for entry in ray.nodes() if entry["Alive"]]
    rooms = {entry["NodeID"]: share.times_in(entry["Resources"]) for entry in known}
    nodes = [entry for entry in known if rooms[entry["NodeID"]]]
    if not nodes:
        has = ray.cluster_resources()
        together = f"{has.get('CPU', 0):g} CPUs and {has.get('GPU', 0):g} GPUs"
        message = f"no node of the cluster has {share} for a worker; together they have {together}"
        raise _refused("--executor", message)
    look = ray.remote(num_cpus=0, max_retries=0)(node.fault_of)
    answers = []
    for entry in nodes:
        there = NodeAffinitySchedulingStrategy(entry["NodeID"], soft=False)
        answers.append(look.options(scheduling_strategy=there).remote(site))
    ray.wait(answers, num_returns=len(answers), timeout=CHECK_SECONDS)
    fit: dict[str, int] = {}
    faults: list[Problem] = []
    for entry, answer in zip(nodes, answers, strict=True):
        try:
            fault = ray.get(answer, timeout=0)
        except ray.exceptions.GetTimeoutError:
            fault = f"has not answered within {CHECK_SECONDS:.0f} seconds"
        except ray.exceptions.RayError as error:
            fault = f"cannot run a task: {last_line(error)}"
        if fault is None:
            fit[entry["NodeID"]] = rooms[entry["NodeID"]]
        else:
            name = f"node {entry['NodeManagerHostname']} ({entry['NodeManagerAddress']})"
            faults.append(Problem("", name, fault))
    if not fit:
        raise InputError(faults)
    for problem in faults:
        say(f"{problem.key} is not used: it {problem.message}")
    return fit


def last_line(error: Exception) -> str:
    """Of what Ray says of an error: the cause, after the ids of all concerned."""
    return str(error).strip().splitlines()[-1].strip()


def _require_answer(address: str) -> None:
    """Raise InputError if there is no answer at `host:port`: Ray itself would try for long."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, ValueError) as error:
        raise _no_cluster(address, str(error)) from None


def _no_cluster(address: str, cause: str) -> InputError:
    where = "on this machine" if address == "auto" else f"at {address}"
    return _refused("--ray-address", f"no Ray cluster {where}: {cause}")


def _refused(option: str, message: str) -> InputError:
    return InputError([Problem("", option, message)])

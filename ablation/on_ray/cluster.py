"""An existing Ray cluster: connecting to it, how many workers it has room for, and which nodes can run them."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablation import leftovers, limits, worker_process
from ablation.errors import InputError, Problem
from ablation.on_ray import node
from ablation.on_ray.node import Site

NO_CODE = [
    "/runs",
    "/reports",
    "/.ablate",
    "/data",
    "/pretrained",
    "/mlruns",
    "/mlartifacts",
    "/mlflow.db*",
    "/.git",
    "/.venv",
    "__pycache__",
]
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
        return int(
            min(round(resources.get(kind, 0.0) / need, 3) for kind, need in needs.items() if need)
        )


@contextlib.contextmanager
def connected(address: str | None, code: Path | None) -> Iterator[None]:
    """Be connected to the cluster at `address`, else RAY_ADDRESS, else the one that runs on this machine; starts none.

    code: the folder of the project, whose code Ray brings to the nodes; None: they need none of it. Raises InputError if there is none.
    """
    address = address or os.environ.get("RAY_ADDRESS") or "auto"
    if address == "local":
        raise InputError(
            [
                Problem(
                    "",
                    "--ray-address",
                    "'local' is no cluster; without --executor ray, --jobs run on this machine",
                )
            ]
        )
    if address != "auto":
        _require_answer(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "1")  # of 50 seconds each, to connect
    try:
        import ray
    except ImportError:
        raise InputError(
            [Problem("", "--executor", "ray is not installed; pip install 'ablate-lt[ray]'")]
        ) from None
    for module in (node, limits, worker_process, leftovers):
        ray.cloudpickle.register_pickle_by_value(module)
    environment = {} if code is None else {"working_dir": str(code.resolve()), "excludes": NO_CODE}
    try:
        ray.init(
            address=address, log_to_driver=False, logging_level="ERROR", runtime_env=environment
        )
    except ray.exceptions.RuntimeEnvSetupError as error:  # such as a folder that is too large
        raise InputError(
            [
                Problem(
                    "",
                    "--executor",
                    f"cannot bring the project's code to the nodes: {last_line(error)}",
                )
            ]
        ) from None
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise _no_cluster(address, " ".join(str(error).split())) from None
    try:
        yield
    finally:
        ray.shutdown()


def require_room(share: Share) -> None:
    """Raise InputError if no node of the cluster has room for a worker, whatever else it runs."""
    if _nodes(share):
        return
    import ray

    has = ray.cluster_resources()
    message = f"no node of the cluster has {share} for a worker; together they have {has.get('CPU', 0):g} CPUs and {has.get('GPU', 0):g} GPUs"
    raise InputError([Problem("", "--executor", message)])


def site_of(folder: Path, sample: dict[str, Any], brings_code: bool) -> Site:
    data = Path(os.environ.get("ABLATE_DATA", "").strip() or folder).expanduser()
    return Site(json.dumps(sample), str(data.resolve()), brings_code)


def fit_nodes(site: Site, share: Share, say: Callable[[str], object]) -> dict[str, int]:
    """Id of each node that can run workers -> for how many it has room, whatever else it runs.

    say: is told which nodes cannot, and why. Raises InputError naming all if none can.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes, look = _nodes(share), ray.remote(node.fault_of)
    answers = [
        look.options(
            num_cpus=0,
            max_retries=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(identity, soft=False),
        ).remote(site)
        for identity, _, _ in nodes
    ]
    ray.wait(answers, num_returns=len(answers), timeout=CHECK_SECONDS)
    faults: list[Problem] = []
    fit: dict[str, int] = {}
    for (identity, name, n), answer in zip(nodes, answers):
        try:
            fault = ray.get(answer, timeout=0)
        except ray.exceptions.GetTimeoutError:
            faults.append(
                Problem("", f"node {name}", f"has not answered within {CHECK_SECONDS:.0f} seconds")
            )
        except ray.exceptions.RayError as error:
            faults.append(Problem("", f"node {name}", f"cannot run a task: {last_line(error)}"))
        else:
            if fault is None:
                fit[identity] = n
            else:
                faults.append(Problem("", f"node {name}", fault))
    if not fit:
        raise InputError(faults)
    for fault in faults:
        say(f"{fault.key} is not used: it {fault.message}")
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
    found = [
        (
            node["NodeID"],
            f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})",
            share.times_in(node["Resources"]),
        )
        for node in alive
    ]
    return [entry for entry in found if entry[2] > 0]

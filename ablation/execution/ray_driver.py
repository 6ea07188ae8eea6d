"""The driver's side of a Ray cluster: the connection, its nodes, and the workers on them.

`connected` and `fit_nodes` come first; `RayNodes` is a backend of
`ablation.execution.workers.Workers`.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ablation.errors import InputError, Problem
from ablation.execution import process as worker_process
from ablation.execution import ray_node
from ablation.execution.ray_node import NodeSetup, Relay, Sample, failed_transfer
from ablation.execution.workers import Event, Heard, Message, Request, Task, last_message
from ablation.storage.cache import HEADER, DiskStore
from ablation.storage.runs import Failure, failure

# Folders and files of a project that are not code.
NO_CODE = """
/runs /reports /.ablate /data /pretrained /mlruns /mlartifacts /mlflow.db* /.git /.venv __pycache__
"""
# How long a node may take to answer whether it can run workers.
CHECK_SECONDS = 300.0


class WorkerResources(NamedTuple):
    """The CPUs and GPUs that a worker needs on its node. gpus: a fraction; many share one."""

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
    for module in (ray_node, worker_process):
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
    """What nodes need to know of a study. folder: holds the data, unless ABLATE_DATA is set."""
    data = Path(os.environ.get("ABLATE_DATA", "").strip() or folder).expanduser()
    return NodeSetup(json.dumps(sample), str(data.resolve()), brings_code)


def fit_nodes(
    site: NodeSetup, share: WorkerResources, say: Callable[[str], object]
) -> dict[str, int]:
    """Id of each node that can run workers -> how many fit, other programs not counted.

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
    look = ray.remote(num_cpus=0, max_retries=0)(ray_node.fault_of)
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
    """The last line of a Ray error: the cause, which follows the ids of actors and nodes."""
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


# For a worker to have a place, before it is said that it waits for one.
ROOM_SECONDS = 60.0
# For a node to tell how much memory a worker holds.
MEMORY_SECONDS = 1.0
# Workers that may be lost in a row before one is ready, for each that was asked for.
MAX_LOST_AT_START = 3


class RayNodes:
    """Starts up to `n` workers on nodes of the cluster.

    fit: ids of nodes that can run workers; others are asked when a worker comes to them.
    say: called with messages about the cluster.
    """

    def __init__(
        self,
        n: int,
        share: WorkerResources,
        site: NodeSetup,
        fit: Collection[str],
        say: Callable[[str], None],
    ):
        import ray

        self._n, self._site, self._fit, self.say = n, site, list(fit), say
        self._actors = ray.remote(Relay).options(
            num_cpus=share.cpus,
            num_gpus=share.gpus,
            scheduling_strategy="SPREAD",
            max_restarts=0,
            max_task_retries=0,
            # `next` waits while others are called
            max_concurrency=4,
        )
        # keep their places, so that no other is put there
        self.unfit: list[RayWorker] = []
        self._said: set[str] = set()
        self.is_used = False
        self._n_lost_at_start = 0

    def start(self, heard: Heard) -> RayWorker:
        """Start an actor wherever the cluster has room, now or later."""
        return RayWorker(self._actors.remote(self._site, self._fit), self, heard)

    def say_once(self, text: str) -> None:
        """Print a message about the cluster, unless it was printed before."""
        if text not in self._said:
            self._said.add(text)
            self.say(text)

    def use(self) -> None:
        """Note that a worker is ready."""
        self.is_used = True
        self._n_lost_at_start = 0

    def is_lost_at_start(self) -> bool:
        """Count the loss of a worker that was never ready; whether that was once too often."""
        self._n_lost_at_start += 1
        return self._n_lost_at_start > MAX_LOST_AT_START * self._n


class RayWorker:
    """An actor that relays what its worker process says. What the process asks of the store is
    answered at once, and its log is written here."""

    def __init__(self, actor: Any, nodes: RayNodes, heard: Heard):
        self._actor, self._nodes, self._heard = actor, nodes, heard
        self.task: Task | None = None
        self.is_new = True
        self._node = ""
        self._is_there = self._is_ending = False
        self._fate: Failure | None = None
        # of what it is doing
        self._store: DiskStore
        self.thread = threading.Thread(target=self._hear, daemon=True)
        self.thread.start()

    def is_ready(self) -> bool:
        """Whether it can be sent a request."""
        return self._is_there and not self._is_ending

    def send(self, request: Request, task: Task) -> None:
        """Hand a request to the actor; the store that it names answers the process."""
        self.task, self.is_new, self._store = task, False, DiskStore(Path(request["cache"]))
        self._actor.send.remote(request)

    def stop(self) -> None:
        """Ask the process to finish the epoch in hand, leave a checkpoint and say `stopped`."""
        self._actor.stop.remote()

    def kill(self, error: Failure) -> None:
        """End the actor and its process at once; it then counts as having died of `error`."""
        self._fate = self._fate or error
        self.end(kill=True)

    def end(self, kill: bool) -> None:
        """End the actor and its process at once, whatever `kill` says."""
        import ray

        self._is_ending = True
        ray.kill(self._actor)

    def resident_bytes(self) -> int:
        """The memory that the process holds; 0 if the node does not tell in time."""
        import ray

        n_bytes = 0
        # the node is slow, or lost, which the thread hears
        with contextlib.suppress(ray.exceptions.RayError):
            n_bytes = ray.get(self._actor.resident_bytes.remote(), timeout=MEMORY_SECONDS)
        return n_bytes

    def _hear(self) -> None:
        import ray

        try:
            pending = self._actor.next.remote()
            if not ray.wait([pending], timeout=ROOM_SECONDS)[0] and not self._nodes.is_used:
                self._nodes.say_once("no worker has a place on the cluster yet; waiting for room")
            while all([self._goes_on(*told) for told in ray.get(pending)]):
                pending = self._actor.next.remote()
        except ray.exceptions.RayError as error:
            self._is_lost(last_line(error))
        except Exception as error:
            # as in `LocalWorker._hear`
            self._heard.put(error)

    def _goes_on(self, told: dict[str, Any], payload: bytes | None) -> bool:
        """Take a message of the actor's; False if it is the last."""
        match told["event"]:
            case "store":
                self._actor.answer.remote(*answer_of(self._store, told, payload))
            case "log":
                # on a full disk it is left out: the next record stops the study, and says so
                with contextlib.suppress(OSError):
                    Path(told["log"]).parent.mkdir(parents=True, exist_ok=True)
                    with open(told["log"], "ab") as file:
                        file.write(payload or b"")
            case "ready":
                self._is_there, self._node = True, told["node"]
                self._nodes.use()
            case "unfit":
                self._nodes.unfit.append(self)
                self._put(Message("unfit"))
                self._nodes.say_once(f"node {told['node']} is not used: it {told['fault']}")
                return False
            case "exited":
                self._put(last_message(told["code"], self._fate))
                self.end(kill=True)
                return False
            case "blocked":
                error: Failure = told["error"]
                where = f"on node {self._node}: {error['message']}"
                self._put(Message("blocked", error=failure(error["type"], where)))
            case _:
                self._put(Message(**told))
        return True

    def _is_lost(self, cause: str) -> None:
        error = failure("WorkerLost", f"the worker was lost: {cause}")
        if self._fate is not None:
            self._put(Message("died", error=self._fate))
        elif self._is_there or self._is_ending or not self._nodes.is_lost_at_start():
            is_told = self.task is not None and not self._is_ending
            self._put(Message("lost", error=error))
            if is_told:
                where = f"a worker on node {self._node} is lost"
                self._nodes.say(f"{where}, and what it did is done again: {cause}")
        else:
            message = f"workers are lost before they have begun: {cause}"
            self._heard.put(InputError([Problem("", "--executor", message)]))

    def _put(self, message: Message) -> None:
        self._heard.put(Event(self, message))


def answer_of(
    store: DiskStore, question: dict[str, Any], payload: bytes | None
) -> tuple[dict[str, Any], bytes | None]:
    """The driver's answer to a question of a node's store, and the entry to send, if any.

    question: {"op": "holds" | "load" | "save", "kind", "key"}; of "load" also `have`, the header of
    the entry that the node has (hexadecimal, "" for none), of "save" the entry as `payload`.
    """
    op, kind, key = question["op"], question["kind"], question["key"]
    if op == "holds":
        return {"holds": store.holds(kind, key)}, None
    if op == "save":
        try:
            store.adopt(kind, key, payload or b"")
        except OSError as error:
            return failed_transfer(error, store.path(kind, key)), None
        return {}, None
    sealed = store.sealed(kind, key)
    if sealed is None:
        # what is damaged goes
        store.load(kind, key)
        return {"holds": False}, None
    is_there = question["have"] == sealed[: HEADER.size].hex()
    return {"holds": True, "sent": not is_there}, None if is_there else sealed

"""Workers on the nodes of a Ray cluster: a backend of `ablation.execution.workers.Workers`."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayError

from ablation.errors import InputError, Problem
from ablation.execution.ray_cluster.cluster import WorkerResources, last_line
from ablation.execution.ray_cluster.node import NodeSetup, Relay
from ablation.execution.ray_cluster.store import answer_of
from ablation.execution.workers import Event, Heard, Message, Request, last_message
from ablation.storage.cache import DiskStore
from ablation.storage.runs import Failure, failure

if TYPE_CHECKING:
    from ablation.execution.supervision import Task

# For a worker to have a place, before it is said that it waits for one.
ROOM_SECONDS = 60.0
# For a node to tell how much memory a worker holds.
MEMORY_SECONDS = 1.0
# Workers that may be lost in a row before one is ready, for each that was asked for.
MAX_LOST_AT_START = 3


class RayNodes:
    """Starts up to `n` workers on nodes of the cluster.

    fit: ids of nodes that can run workers; others are asked when a worker comes to them. say: is
    told what becomes of the cluster.
    """

    def __init__(
        self,
        n: int,
        share: WorkerResources,
        site: NodeSetup,
        fit: Collection[str],
        say: Callable[[str], None],
    ):
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
        """Tell what becomes of the cluster, unless the same was told before."""
        if text not in self._said:
            self._said.add(text)
            self.say(text)

    def use(self) -> None:
        """A worker is ready."""
        self.is_used = True
        self._n_lost_at_start = 0

    def is_lost_at_start(self) -> bool:
        """A worker was lost that was never ready; whether that was once too often."""
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
        self._is_ending = True
        ray.kill(self._actor)

    def resident_bytes(self) -> int:
        """The memory that the process holds; 0 if the node does not tell in time."""
        n_bytes = 0
        # the node is slow, or lost, which the thread hears
        with contextlib.suppress(RayError):
            n_bytes = ray.get(self._actor.resident_bytes.remote(), timeout=MEMORY_SECONDS)
        return n_bytes

    def _hear(self) -> None:
        try:
            said = self._actor.next.remote()
            if not ray.wait([said], timeout=ROOM_SECONDS)[0] and not self._nodes.is_used:
                self._nodes.say_once("no worker has a place on the cluster yet; waiting for room")
            while all([self._goes_on(*told) for told in ray.get(said)]):
                said = self._actor.next.remote()
        except RayError as error:
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

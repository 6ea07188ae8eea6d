"""Workers as `ablation.workers` has them, on the nodes of a Ray cluster."""

from __future__ import annotations

import contextlib
import json
import queue
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from ablation.errors import InputError, Problem
from ablation.on_ray.cluster import Share, last_line
from ablation.on_ray.node import Relay, Site
from ablation.on_ray.store import answer_of
from ablation.store import DiskStore
from ablation.workers import Event, death

ROOM_SECONDS = 60.0  # between complaints that the cluster has no room
JOIN_SECONDS = 5.0  # for a thread that hears that its actor was killed
LAST = ("exited", "unfit")  # events after which nothing comes
STILLBORN = 3  # workers that may be lost in a row before one is ready, for each that was asked for


class RayWorker:
    """One actor, and the worker process that it watches.

    A thread of its own hears it: what the worker asks of the store is answered at once, its log is written, and all else is
    put into `heard`, as (worker, message); at last {"event": "gone", "cause"}, unless the worker has said that it ends.
    """

    def __init__(self, actor: Any, heard: queue.SimpleQueue[tuple[RayWorker, dict[str, Any]]]):
        self.actor, self._heard = actor, heard
        self.task: Any = None  # what it is doing, None if idle
        self.is_new = True  # has not been sent anything yet
        self.is_ready = False  # it has a place on a node, and its process is there
        self.node = ""  # which that is
        self.fate: dict[str, str] | None = None  # the error for which it was killed
        self._store: DiskStore  # of what it is doing
        self._n_bytes, self._answer = 0, None
        self.thread = threading.Thread(target=self._hear, daemon=True)
        self.thread.start()

    def send(self, request: dict[str, Any], task: Any) -> None:
        self.task, self.is_new, self._store = task, False, DiskStore(Path(request["cache"]))
        self.actor.send.remote(json.dumps(request))

    def kill(self, error: dict[str, str]) -> None:
        """End the process at once; it then counts as having died of `error`."""
        self.fate = self.fate or error
        ray.kill(self.actor)

    def resident_bytes(self) -> int:
        """What the process held in memory when its node last told."""
        if self._answer is not None and ray.wait([self._answer], timeout=0)[0]:
            with contextlib.suppress(RayError):  # it is gone, which `next` tells
                self._n_bytes = ray.get(self._answer)
            self._answer = None
        if self._answer is None:
            self._answer = self.actor.resident_bytes.remote()
        return self._n_bytes

    def _hear(self) -> None:
        try:
            while True:
                for text, payload in ray.get(self.actor.next.remote()):
                    message = json.loads(text)
                    if message["event"] == "store":
                        answer, entry = answer_of(self._store, message, payload)
                        self.actor.answer.remote(json.dumps(answer), entry)
                    elif message["event"] == "log":
                        append(Path(message["log"]), payload)
                    else:
                        self._heard.put((self, message))
                    if message["event"] in LAST:
                        return
        except RayError as error:
            self._heard.put((self, {"event": "gone", "cause": last_line(error)}))


class RayWorkers:
    """At most `n` workers, as many as the cluster has room for; one that is gone is replaced.

    fit: ids of nodes that can run workers; others are asked when a worker comes to them. say: is told what
    becomes of the cluster.
    """

    def __init__(
        self, n: int, share: Share, site: Site, fit: Collection[str], say: Callable[[str], None]
    ):
        self.n, self.site, self.fit, self.say = n, site, list(fit), say
        self._new_actor = ray.remote(Relay).options(
            num_cpus=share.cpus, num_gpus=share.gpus, scheduling_strategy="SPREAD", max_restarts=0, max_task_retries=0,
            max_concurrency=4,  # `next` waits while others are called
        )  # fmt: skip
        self._workers: list[RayWorker] = []
        self._unfit: list[RayWorker] = []  # keep their places, so that no other is put there
        self._heard: queue.SimpleQueue[tuple[RayWorker, dict[str, Any]]] = queue.SimpleQueue()
        self._said: set[str] = set()  # of nodes that are not used
        self._n_stillborn = 0
        self._complained = time.monotonic()

    def __enter__(self) -> RayWorkers:
        return self

    def __exit__(self, *_: Any) -> None:
        for worker in [*self._workers, *self._unfit]:
            ray.kill(worker.actor)
        for worker in [*self._workers, *self._unfit]:
            worker.thread.join(JOIN_SECONDS)
        self._workers.clear()
        self._unfit.clear()

    def idle(self) -> RayWorker | None:
        """A worker without a task; None if all are busy, or wait for a place on the cluster."""
        while len(self._workers) < self.n:
            self._workers.append(
                RayWorker(self._new_actor.remote(self.site, self.fit), self._heard)
            )
        return next(
            (worker for worker in self._workers if worker.is_ready and worker.task is None), None
        )

    def busy(self) -> list[RayWorker]:
        return [worker for worker in self._workers if worker.task is not None]

    def stop(self) -> None:
        """Ask all that are busy to finish the epoch in hand and leave a checkpoint."""
        for worker in self.busy():
            worker.actor.stop.remote()

    def wait(self, timeout: float) -> list[Event]:
        """What the workers have to say, after at most `timeout` seconds."""
        self._complain_of_room()
        heard = []
        with contextlib.suppress(queue.Empty):
            heard.append(self._heard.get(timeout=timeout))
            while True:
                heard.append(self._heard.get_nowait())
        return [
            event
            for worker, message in heard
            if worker in self._workers
            for event in self._understand(worker, message)
        ]

    def _understand(self, worker: RayWorker, message: dict[str, Any]) -> list[Event]:
        kind = message["event"]
        if kind == "gone":
            return [self._lost(worker, message["cause"])]
        if kind == "ready":
            worker.is_ready, worker.node, self._n_stillborn = True, message["node"], 0
            return []
        if kind == "unfit":
            said = f"node {message['node']} is not used: it {message['error']}"
            if said not in self._said:
                self._said.add(said)
                self.say(said)
            self._workers.remove(worker)
            self._unfit.append(worker)
            return []
        if kind == "exited":
            self._remove(worker)
            return [Event(worker, death(message["code"], message["for_memory"], worker.fate))]
        if kind == "blocked":
            message = {**message, "message": f"on node {worker.node}: {message['message']}"}
        if (
            kind == "failed"
        ):  # what has failed may have left anything behind: another takes its place
            self._remove(worker)
        return [Event(worker, message)]

    def _lost(self, worker: RayWorker, cause: str) -> Event:
        self._remove(worker)
        if worker.fate is not None:
            return Event(worker, {"event": "died", "error": worker.fate})
        if not worker.is_ready:
            self._n_stillborn += 1
            if self._n_stillborn > STILLBORN * self.n:
                raise InputError(
                    [Problem("", "--executor", f"workers are lost before they have begun: {cause}")]
                )
        elif worker.task is not None:
            self.say(
                f"a worker on node {worker.node} is lost, and what it did is done again: {cause}"
            )
        return Event(
            worker,
            {
                "event": "lost",
                "error": {
                    "type": "WorkerLost",
                    "message": f"the worker was lost: {cause}",
                    "traceback": "",
                },
            },
        )

    def _remove(self, worker: RayWorker) -> None:
        self._workers.remove(worker)
        ray.kill(worker.actor)

    def _complain_of_room(self) -> None:
        if any(worker.is_ready for worker in self._workers):
            self._complained = time.monotonic()
        elif time.monotonic() - self._complained > ROOM_SECONDS:
            self._complained = time.monotonic()
            self.say("no worker has a place on the cluster yet; waiting for room")


def append(log: Path, piece: bytes) -> None:
    """A piece of a trial's log. On a full disk it is left out: the next record stops the study, and says so."""
    with contextlib.suppress(OSError):
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:
            file.write(piece)

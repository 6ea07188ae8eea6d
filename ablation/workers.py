"""Worker processes: started fresh (never forked), reused between segments, and missed when they die."""

from __future__ import annotations

import json
import os
import selectors
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablation.devices import only
from ablation.limits import MemoryKills, resident_bytes
from ablation.worker_process import END_SECONDS, WorkerProcess

FROM_OUTSIDE = (
    signal.SIGKILL,
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
)  # signals that training code does not cause

OURS = Path(__file__).parents[1]  # where this package stands


class Worker:
    """A worker process of this machine, and what it is doing.

    gpu: the one that it sees as its only one; None: all that this process sees.
    """

    def __init__(self, gpu: str | None = None) -> None:
        path = os.pathsep.join(filter(None, [str(OURS), os.environ.get("PYTHONPATH")]))
        self.gpu, self._fate = gpu, None
        self.process = WorkerProcess(
            {**os.environ, "PYTHONPATH": path} | ({} if gpu is None else only(gpu))
        )
        self.task: Any = None  # what it is doing, None if idle
        self.is_new = True  # has not been sent anything yet
        self._last_second = float("inf")  # until which it may take to end

    def send(self, request: dict[str, Any], task: Any) -> None:
        self.task, self.is_new = task, False
        self.process.send(json.dumps(request))

    def read(self) -> list[dict[str, Any]]:
        """The messages that have arrived."""
        return [json.loads(line) for line in self.process.read()]

    def stop(self) -> None:
        """Ask the process to finish the epoch in hand, leave a checkpoint and say `stopped`."""
        self.process.stop()

    def kill(self, error: dict[str, str]) -> None:
        """End the process at once; it then counts as having died of `error`."""
        self._fate = self._fate or error
        self.process.kill()

    def is_idle(self) -> bool:
        """Whether it can be given a task. A killed one cannot, though it may have finished its own first."""
        return self.task is None and self._fate is None and not self.process.has_ended()

    def resident_bytes(self) -> int:
        """What the process holds in memory."""
        return resident_bytes(self.process.pid)

    def end(self, kill: bool = False) -> None:
        """Ask the process to end, at once if `kill`, else when it has finished what it is doing; see `close`."""
        if kill:
            self.process.kill()
        self.process.end()
        self._last_second = time.monotonic() + END_SECONDS

    def is_to_be_closed(self) -> bool:
        """Whether the process, which was asked to end, has done so or has had its time."""
        return self.process.has_ended() or time.monotonic() > self._last_second

    def close(self, kills: MemoryKills) -> dict[str, Any]:
        """Wait for the process, which was asked to end or has died; returns the event of its death."""
        code = self.process.close(max(0.0, self._last_second - time.monotonic()))
        return death(code, kills.are_recent(), self._fate)


@dataclass(frozen=True)
class Event:
    """A worker's message, or its death: `died` of what it did, or `lost` to somebody who killed it, or to its machine's end."""

    worker: Worker
    message: dict[
        str, Any
    ]  # {"event": "record" | "done" | "stopped" | "failed" | "blocked" | "died" | "lost", ...}


class Workers:
    """A fixed number of workers; one that has died or failed is replaced when there is work for it.

    gpus: given to the workers in turn, so that none serves more of them than another by more than one.
    """

    def __init__(self, n: int, gpus: Sequence[str] = ()):
        self.n = n
        self._gpus = [gpus[i % len(gpus)] for i in range(n)] if gpus else []  # that no worker has
        self._workers: list[Worker] = []
        self._retired: list[Worker] = []  # were asked to end
        self._kills = MemoryKills()
        self._selector = selectors.DefaultSelector()

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, error_type: Any, *_: Any) -> None:
        for worker in list(self._workers):
            self._retire(worker, kill=error_type is not None)
        for worker in (
            self._retired
        ):  # all were asked first: a process that has loaded torch takes a second to end
            worker.close(self._kills)
        self._retired.clear()

    def idle(self) -> Worker | None:
        """A worker without a task, started if need be; None if all are busy."""
        for worker in self._workers:
            if worker.is_idle():
                return worker
        if len(self._workers) >= self.n:
            return None
        worker = Worker(self._gpus.pop(0)) if self._gpus else Worker()
        self._workers.append(worker)
        self._selector.register(worker.process.replies, selectors.EVENT_READ)
        return worker

    def stop(self) -> None:
        """Ask all that are busy to finish the epoch in hand and leave a checkpoint."""
        for worker in self.busy():
            worker.stop()

    def busy(self) -> list[Worker]:
        return [worker for worker in self._workers if worker.task is not None]

    def wait(self, timeout: float) -> list[Event]:
        """What the workers have to say, after at most `timeout` seconds."""
        self._selector.select(timeout)
        self._kills.look()
        events = []
        for worker in list(self._workers):
            has_ended = (
                worker.process.has_ended()
            )  # asked first: then all is read that it had to say
            messages = worker.read()
            events += [Event(worker, message) for message in messages]
            if has_ended or worker.process.is_silent:
                self._retire(worker)
                self._retired.remove(worker)
                events.append(Event(worker, worker.close(self._kills)))
            elif any(message["event"] == "failed" for message in messages):
                self._retire(
                    worker
                )  # what has failed may have left anything behind, such as a GPU that answers no more
        for worker in [worker for worker in self._retired if worker.is_to_be_closed()]:
            self._retired.remove(worker)
            worker.close(self._kills)
        return events

    def _retire(self, worker: Worker, kill: bool = False) -> None:
        """Have a worker end; another takes its place."""
        self._selector.unregister(worker.process.replies)
        self._workers.remove(worker)
        self._retired.append(worker)
        self._gpus += [] if worker.gpu is None else [worker.gpu]
        worker.end(kill)


def death(code: int, for_memory: bool, fate: dict[str, str] | None) -> dict[str, Any]:
    """The event of the death of a process with this exit code. for_memory: whether the system has just killed processes
    for want of memory. fate: the error for which the study has killed it."""
    if fate is not None:
        return {"event": "died", "error": fate}
    how = (
        f"killed by signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"exit code {code}"
    )
    if code == -signal.SIGKILL and for_memory:
        return _event(
            "died",
            "OutOfMemory",
            "the system has killed the worker process for want of memory; use fewer --jobs",
        )
    return _event(
        "lost" if -code in FROM_OUTSIDE else "died",
        "WorkerDied",
        f"the worker process ended: {how}",
    )


def _event(name: str, error_type: str, message: str) -> dict[str, Any]:
    return {"event": name, "error": {"type": error_type, "message": message, "traceback": ""}}

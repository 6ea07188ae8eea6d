"""Worker processes: started fresh (never forked), reused between segments, and missed when they die."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablation.devices import only
from ablation.limits import n_killed_for_memory, resident_bytes

FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # signals that training code does not cause

OURS = Path(__file__).parents[1]  # where this package stands


class Worker:
    """One process of `ablation.worker` and the two pipes to it.

    gpu: the one that it sees as its only one; None: all that this process sees.
    """

    def __init__(self, gpu: str | None = None) -> None:
        request_end, self._requests = os.pipe()
        self.replies, reply_end = os.pipe()
        # -P: a folder `core` or `ablation` where the study is started must not stand in for ours
        command = [sys.executable, "-P", "-m", "ablation.worker", str(request_end), str(reply_end)]
        path = os.pathsep.join(filter(None, [str(OURS), os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, "PYTHONPATH": path} | ({} if gpu is None else only(gpu))
        self.gpu, self._fate, self._n_killed_before = gpu, None, n_killed_for_memory()
        self.process = subprocess.Popen(command, pass_fds=(request_end, reply_end), stdin=subprocess.DEVNULL, env=environment)
        os.close(request_end)
        os.close(reply_end)
        self.task: Any = None  # what it is doing, None if idle
        self.is_new = True  # has not been sent anything yet
        self._buffer = b""

    def send(self, request: dict[str, Any], task: Any) -> None:
        self.task, self.is_new = task, False
        try:
            os.write(self._requests, json.dumps(request).encode() + b"\n")
        except BrokenPipeError:
            pass  # it died; the closed reply pipe tells

    def read(self) -> list[dict[str, Any]] | None:
        """The messages that have arrived; None once the process is gone."""
        data = os.read(self.replies, 1 << 16)
        if not data:
            return None
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def stop(self) -> None:
        """Ask the process to finish the epoch in hand, leave a checkpoint and say `stopped`."""
        self.process.terminate()

    def kill(self, error: dict[str, str]) -> None:
        """End the process at once; it then counts as having died of `error`."""
        self._fate = self._fate or error
        self.process.kill()

    def resident_bytes(self) -> int:
        """What the process holds in memory."""
        return resident_bytes(self.process.pid)

    def end(self, kill: bool = False) -> None:
        """Ask the process to end, at once if `kill`, else when it has finished what it is doing; see `close`."""
        if kill:
            self.process.kill()
        os.close(self._requests)

    def close(self) -> dict[str, Any]:
        """Wait for the process, which was asked to end or has died; returns the event of its death."""
        code = self.process.wait()
        os.close(self.replies)
        return death(code, n_killed_for_memory() - self._n_killed_before, self._fate)


@dataclass(frozen=True)
class Event:
    """A worker's message, or its death: `died` of what it did, or `lost` to somebody who killed it, or to its machine's end."""

    worker: Worker
    message: dict[str, Any]  # {"event": "record" | "done" | "stopped" | "failed" | "blocked" | "died" | "lost", ...}


class Workers:
    """A fixed number of workers; a dead one is replaced when there is work for it.

    gpus: given to the workers in turn, so that none serves more of them than another by more than one.
    """

    def __init__(self, n: int, gpus: Sequence[str] = ()):
        self.n = n
        self._gpus = [gpus[i % len(gpus)] for i in range(n)] if gpus else []  # that no worker has
        self._workers: list[Worker] = []
        self._selector = selectors.DefaultSelector()

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, error_type: Any, *_: Any) -> None:
        for worker in self._workers:
            worker.end(kill=error_type is not None)
        for worker in self._workers:  # all were asked first: a process that has loaded torch takes a second to end
            self._selector.unregister(worker.replies)
            worker.close()
        self._workers.clear()

    def idle(self) -> Worker | None:
        """A worker without a task, started if need be; None if all are busy."""
        for worker in self._workers:
            if worker.task is None:
                return worker
        if len(self._workers) >= self.n:
            return None
        worker = Worker(self._gpus.pop(0)) if self._gpus else Worker()
        self._workers.append(worker)
        self._selector.register(worker.replies, selectors.EVENT_READ, worker)
        return worker

    def stop(self) -> None:
        """Ask all that are busy to finish the epoch in hand and leave a checkpoint."""
        for worker in self.busy():
            worker.stop()

    def busy(self) -> list[Worker]:
        return [worker for worker in self._workers if worker.task is not None]

    def wait(self, timeout: float) -> list[Event]:
        """What the workers have to say, after at most `timeout` seconds."""
        events = []
        for key, _ in self._selector.select(timeout):
            worker: Worker = key.data
            messages = worker.read()
            if messages is not None:
                events += [Event(worker, message) for message in messages]
                continue
            self._selector.unregister(worker.replies)
            self._workers.remove(worker)
            worker.end()
            self._gpus += [] if worker.gpu is None else [worker.gpu]
            events.append(Event(worker, worker.close()))
        return events


def death(code: int, n_killed_for_memory: int, fate: dict[str, str] | None) -> dict[str, Any]:
    """The event of the death of a process with this exit code; so many processes of its machine were killed for want of
    memory while it ran. fate: the error for which the study has killed it."""
    if fate is not None:
        return {"event": "died", "error": fate}
    how = f"killed by signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"exit code {code}"
    if code == -signal.SIGKILL and n_killed_for_memory:
        return _event("died", "OutOfMemory", "the system has killed the worker process for want of memory; use fewer --jobs")
    return _event("lost" if -code in FROM_OUTSIDE else "died", "WorkerDied", f"the worker process ended: {how}")


def _event(name: str, error_type: str, message: str) -> dict[str, Any]:
    return {"event": name, "error": {"type": error_type, "message": message, "traceback": ""}}

"""Worker processes: started fresh (never forked), reused between segments, and missed when they die."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OURS = Path(__file__).parents[1]  # where this package stands


class Worker:
    """One process of `ablation.worker` and the two pipes to it."""

    def __init__(self) -> None:
        request_end, self._requests = os.pipe()
        self.replies, reply_end = os.pipe()
        # -P: a folder `core` or `ablation` where the study is started must not stand in for ours
        command = [sys.executable, "-P", "-m", "ablation.worker", str(request_end), str(reply_end)]
        path = os.pathsep.join(filter(None, [str(OURS), os.environ.get("PYTHONPATH")]))
        self.process = subprocess.Popen(
            command, pass_fds=(request_end, reply_end), stdin=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": path}
        )
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

    def end(self, kill: bool = False) -> None:
        """Ask the process to end, at once if `kill`, else when it has finished what it is doing; see `close`."""
        if kill:
            self.process.kill()
        os.close(self._requests)

    def close(self) -> int:
        """Wait for the process, which was asked to end or has died, and return its exit code."""
        code = self.process.wait()
        os.close(self.replies)
        return code


@dataclass(frozen=True)
class Event:
    """A worker's message, or its death."""

    worker: Worker
    message: dict[str, Any]  # {"event": "record" | "done" | "failed" | "died", ...}


class Workers:
    """A fixed number of workers; a dead one is replaced when there is work for it."""

    def __init__(self, n: int):
        self.n = n
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
        worker = Worker()
        self._workers.append(worker)
        self._selector.register(worker.replies, selectors.EVENT_READ, worker)
        return worker

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
            events.append(Event(worker, {"event": "died", "error": death(worker.close())}))
        return events


def death(code: int) -> dict[str, str]:
    how = f"killed by signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"exit code {code}"
    return {"type": "WorkerDied", "message": f"the worker process ended: {how}", "traceback": ""}

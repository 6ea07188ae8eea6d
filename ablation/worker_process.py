"""A process of `ablation.worker`, in a group of its own, and the two pipes to it.

Sent to the nodes of a Ray cluster by value: see `ablation.on_ray.node`.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence

from ablation.leftovers import end_all, marked, watch

END_SECONDS = 10.0  # for a process that was asked to end: one that has loaded torch takes a second


class WorkerProcess:
    """Alive until `has_ended`, whatever the processes that training code has started do with its pipes.

    No signal of the terminal reaches it. It is asked to stop by SIGTERM, and ends when `end` has closed its requests.
    environment: its variables. launcher: a command that ends by executing the one that follows it.
    """

    def __init__(
        self, environment: Mapping[str, str], launcher: Sequence[str] = (), cwd: str | None = None
    ) -> None:
        request_end, self._requests = os.pipe()
        self.replies, reply_end = os.pipe()
        os.set_blocking(self.replies, False)
        # -P: a folder `core` or `ablation` where the study is started must not stand in for ours
        self._mark = secrets.token_hex(8)
        command = [
            *launcher,
            sys.executable,
            "-P",
            "-m",
            "ablation.worker",
            str(request_end),
            str(reply_end),
        ]
        self._process = subprocess.Popen(
            command, pass_fds=(request_end, reply_end), stdin=subprocess.DEVNULL, env=marked(environment, self._mark), cwd=cwd,
            start_new_session=True,
        )  # fmt: skip
        self.pid = self._process.pid
        self._watcher = watch(self.pid, self._mark, environment)
        os.close(request_end)
        os.close(reply_end)
        self.is_silent = False  # it has closed its replies
        self._unfinished = b""  # line

    def send(self, request: str) -> None:
        try:
            os.write(self._requests, request.encode() + b"\n")
        except BrokenPipeError:
            pass  # it died; `has_ended` tells

    def read(self) -> list[str]:
        """The lines that have arrived. Of a process that has ended before: all that it had to say."""
        data = self._unfinished
        with contextlib.suppress(BlockingIOError):
            while piece := os.read(self.replies, 1 << 16):
                data += piece
            self.is_silent = True
        *lines, self._unfinished = data.split(b"\n")
        return [line.decode() for line in lines]

    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def stop(self) -> None:
        """Ask the process to finish the epoch in hand, leave a checkpoint and say `stopped`."""
        self._process.terminate()

    def kill(self) -> None:
        """End it, and all that it has started and left in its group."""
        with contextlib.suppress(
            ProcessLookupError, PermissionError
        ):  # nobody is left; macOS says so of those that have ended
            os.killpg(self.pid, signal.SIGKILL)

    def end(self) -> None:
        """Ask the process to end when it has finished what it is doing; see `close`."""
        os.close(self._requests)

    def close(self, seconds: float) -> int:
        """Wait so long for the process to end, and kill it and all that it has started; returns its exit code."""
        with contextlib.suppress(
            subprocess.TimeoutExpired
        ):  # a thread or a process that training code has left keeps it
            self._process.wait(seconds)
        self.kill()
        os.close(self.replies)
        code = self._process.wait()
        if self._watcher is not None:
            end_all(self._mark)
            self._watcher.kill()
            self._watcher.wait()
        return code

"""A process of `ablation.execution.worker`, and the end of all that training code starts in it.

The worker is in a process group of its own, with two pipes to it. All that it starts, in any
session, inherits a variable of its environment, which Linux shows to others of the same user.
Elsewhere the worker's process group has to do, and only while the study lives.

Run as `python -m ablation.execution.process <worker's process id> <mark> <scratch>` beside each
worker: it stays when the study is killed. An empty scratch is none.
Sent to the nodes of a Ray cluster by value: see `ablation.execution.ray_node`.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

# For a process that was asked to end: one that has loaded torch takes a second.
END_SECONDS = 10.0
# Between looks at whether the process lives: one that it has started may keep its pipe open.
LOOK_SECONDS = 0.2


class WorkerProcess:
    """Alive until `has_ended`, whatever the processes that training code has started do with its
    pipes.

    No signal of the terminal reaches it. One thread reads `replies` and then calls `close`; another
    may send. environment: its variables; scratch: a folder that is made, and removed when it has
    ended. Raises OSError if the process cannot be started or the folder cannot be made.
    """

    def __init__(self, environment: Mapping[str, str], scratch: str = "") -> None:
        request_end, requests = os.pipe()
        self._replies, reply_end = os.pipe()
        os.set_blocking(self._replies, False)
        self._requests = os.fdopen(requests, "wb", buffering=0)
        self._mark = os.urandom(8).hex()
        # -P: a folder `core` or `ablation` where the study is started must not stand in for ours
        command = [
            sys.executable,
            "-P",
            "-m",
            "ablation.execution.worker",
            str(request_end),
            str(reply_end),
        ]
        self._process = subprocess.Popen(
            command,
            pass_fds=(request_end, reply_end),
            stdin=subprocess.DEVNULL,
            env=marked(environment, self._mark),
            start_new_session=True,
        )
        self.pid = self._process.pid
        self._scratch = scratch
        self._watcher = watch(self.pid, self._mark, environment, scratch)
        os.close(request_end)
        os.close(reply_end)
        self._end_by = float("inf")
        if scratch:
            try:
                self._make(scratch)
            except OSError:
                self.close()
                raise

    def _make(self, scratch: str) -> None:
        # not before what removes it is out of reach of all that may end this process
        if self._watcher is not None and (code := self._watcher.wait()):
            raise ChildProcessError(f"what removes its folder did not start (exit status {code})")
        os.mkdir(scratch, 0o700)

    def send(self, request: str) -> None:
        """Write a line to the process; one that has ended is sent nothing."""
        # BrokenPipeError: it has died; ValueError: and was closed. `has_ended` tells.
        with contextlib.suppress(BrokenPipeError, ValueError):
            self._requests.write(request.encode() + b"\n")

    def replies(self) -> Iterator[list[str]]:
        """The lines that have arrived since the last look, [] for none, until the process has
        ended."""
        has_ended, unfinished = False, b""
        # not select.select, which takes no file descriptor above 1023
        selector = selectors.DefaultSelector()
        selector.register(self._replies, selectors.EVENT_READ)
        while not (has_ended or time.monotonic() > self._end_by):
            selector.select(LOOK_SECONDS)
            # before the pipe is read, so that all is read that it had to say
            has_ended = self.has_ended()
            data = unfinished
            with contextlib.suppress(BlockingIOError):
                while piece := os.read(self._replies, 1 << 16):
                    data += piece
                # it has closed its end
                has_ended = True
            *lines, unfinished = data.split(b"\n")
            yield [line.decode() for line in lines]
        selector.close()

    def has_ended(self) -> bool:
        """Whether the process has ended."""
        return self._process.poll() is not None

    def stop(self) -> None:
        """Ask the process to finish the epoch in hand, leave a checkpoint and say `stopped`."""
        self._process.terminate()

    def kill(self) -> None:
        """End the process, and all that it has started and left in its group."""
        # no process is left; macOS says PermissionError of those that have ended
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def end(self) -> None:
        """Ask the process to end when it has finished what it is doing, within END_SECONDS."""
        self._end_by = min(self._end_by, time.monotonic() + END_SECONDS)
        self._requests.close()

    def close(self) -> int:
        """Have the process end, and kill what it has started; returns its exit code."""
        self.end()
        # a thread or a process that training code has left may keep it
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(max(0.0, self._end_by - time.monotonic()))
        self.kill()
        os.close(self._replies)
        code = self._process.wait()
        if self._watcher is not None:
            end_all(self._mark)
            self._watcher.wait()
        remove(self._scratch)
        return code

    def resident_bytes(self) -> int:
        """The memory that the process and the commands that it runs hold.

        0 where the system does not tell, or it has ended. What training code forks within the
        process's group is not counted.
        """
        return _resident(self.pid) + sum(map(_share, _of_commands(self.pid)))


VARIABLE = "ABLATE_WORKER"
POLL_SECONDS = 0.2
PROCESSES = Path("/proc")
# for one that has been killed and does not end: the system is busy with it
MAX_LOOKS = 100


def marked(environment: Mapping[str, str], mark: str) -> dict[str, str]:
    """The environment of a worker, with its mark appended to those of workers around it."""
    return {**environment, VARIABLE: ":".join(filter(None, [environment.get(VARIABLE), mark]))}


def watch(
    pid: int, mark: str, environment: Mapping[str, str], scratch: str
) -> subprocess.Popen[bytes] | None:
    """Start a process that ends what a worker leaves behind, then itself.

    Returns what has started it, which ends at once; None where the system cannot tell.
    """
    if sys.platform != "linux":
        return None
    code = [sys.executable, "-P", "-m", "ablation.execution.process"]
    null = subprocess.DEVNULL
    return subprocess.Popen(
        [*code, str(pid), mark, scratch],
        stdin=null,
        stdout=null,
        stderr=null,
        env=environment,
        cwd="/",
        start_new_session=True,
    )


def end_all(mark: str) -> None:
    """Kill every process with the mark."""
    for _ in range(MAX_LOOKS):
        found = [int(path.name) for path in PROCESSES.glob("[0-9]*") if _has(path, mark)]
        if not found:
            return
        for pid in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def remove(scratch: str) -> None:
    """Remove a folder, as far as that can be done; "" is none."""
    if scratch:
        shutil.rmtree(scratch, ignore_errors=True)


def _has(process: Path, mark: str) -> bool:
    # it has ended, or is another user's
    with contextlib.suppress(OSError):
        variables = (process / "environ").read_bytes().split(b"\0")
        found = [text for text in variables if text.startswith(f"{VARIABLE}=".encode())]
        return any(mark.encode() in text for text in found)
    return False


def _resident(pid: int) -> int:
    try:
        pages = (PROCESSES / str(pid) / "statm").read_text().split()[1]
    except (OSError, IndexError):
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def _share(pid: int) -> int:
    """The memory of a process; what several have in common is divided between them."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = (PROCESSES / str(pid) / "smaps_rollup").read_text().splitlines()
        return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return _resident(pid)


def _of_commands(worker: int) -> list[int]:
    """The processes that descend from a worker and are in another process group."""
    found, left = [], [worker]
    while left:
        for file in (PROCESSES / str(left.pop()) / "task").glob("*/children"):
            # it has ended, or the system does not tell
            with contextlib.suppress(OSError):
                children = [int(pid) for pid in file.read_text().split()]
                left += children
                found += [pid for pid in children if os.getpgid(pid) != worker]
    return found


def _started(pid: int) -> str:
    """When a process was started, in ticks; "" if it has ended: another may have its id."""
    with contextlib.suppress(OSError):
        state, *fields = (PROCESSES / str(pid) / "stat").read_text().rpartition(")")[2].split()
        return "" if state in "ZX" else fields[18]
    return ""


if __name__ == "__main__":
    # Ray kills the children of an actor that it ends. This process is to stay, so it is none.
    if os.fork():
        os._exit(0)
    worker, (its_mark, its_scratch) = int(sys.argv[1]), sys.argv[2:]
    started = _started(worker)
    while started and _started(worker) == started:
        time.sleep(POLL_SECONDS)
    end_all(its_mark)
    remove(its_scratch)

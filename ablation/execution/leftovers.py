"""End the processes that training code has started, in any session, with their worker.

All that a worker starts inherits a variable of its environment, which Linux shows to others of the
same user. Elsewhere the worker's process group has to do, and only while the study lives.

Run as `python -m ablation.execution.leftovers <worker's process id> <mark>` beside each worker: it
stays when the study is killed.
Sent to the nodes of a Ray cluster by value: see `ablation.execution.ray_cluster.node`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

VARIABLE = "ABLATE_WORKER"
POLL_SECONDS = 0.2
PROCESSES = Path("/proc")
# for one that has been killed and does not end: the system is busy with it
MAX_LOOKS = 100


def marked(environment: Mapping[str, str], mark: str) -> dict[str, str]:
    """The environment of a worker. The marks of workers that it is run by stay."""
    return {**environment, VARIABLE: ":".join(filter(None, [environment.get(VARIABLE), mark]))}


def watch(pid: int, mark: str, environment: Mapping[str, str]) -> subprocess.Popen[bytes] | None:
    """Start a process that ends what a worker has left behind; None where it could not."""
    if sys.platform != "linux":
        return None
    # -S: it needs nothing of what is installed
    command = [sys.executable, "-S", "-P", "-m", "ablation.execution.leftovers", str(pid), mark]
    null = subprocess.DEVNULL
    return subprocess.Popen(
        command,
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


def _has(process: Path, mark: str) -> bool:
    # it has ended, or is another user's
    with contextlib.suppress(OSError):
        variables = (process / "environ").read_bytes().split(b"\0")
        found = [text for text in variables if text.startswith(f"{VARIABLE}=".encode())]
        return any(mark.encode() in text for text in found)
    return False


def _started(pid: int) -> str:
    """When a process was started, in ticks; "" if it has ended: another may have its id."""
    with contextlib.suppress(OSError):
        state, *fields = (PROCESSES / str(pid) / "stat").read_text().rpartition(")")[2].split()
        return "" if state in "ZX" else fields[18]
    return ""


if __name__ == "__main__":
    worker, its_mark = int(sys.argv[1]), sys.argv[2]
    started = _started(worker)
    while started and _started(worker) == started:
        time.sleep(POLL_SECONDS)
    end_all(its_mark)

"""What runs on the nodes, around worker processes.

It is sent there by value, as is what it has from `ablation`; all else is the standard library:
Ray's processes search the folder in which the study was started first, where a folder `ablation` may not be ours.
"""

from __future__ import annotations

import json
import os
import platform
import queue
import select
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from typing import NamedTuple

from ablation.limits import MemoryKills, resident_bytes
from ablation.worker_process import END_SECONDS, WorkerProcess

TICK_SECONDS = 0.5  # between looks at whether the worker lives

# A worker must not outlive its actor, however that ends. Asked for by the process itself: between fork and exec, in
# a process with Ray's threads, nothing should be run.
DIE_WITH_PARENT = """
import ctypes, os, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL
os.execv(sys.argv[1], sys.argv[1:])
"""


class Site(NamedTuple):
    """Where a study stands, as every node must see it."""

    folder: str  # the project folder
    mark: str  # a file in it that no other folder has
    import_path: str  # of worker processes; the node's own packages come after
    sample: str  # see `ablation.on_ray.check`


def fault_of(site: Site) -> str | None:
    """Why this node cannot run workers for the study."""
    if not os.path.isdir(site.folder):
        return f"does not see the project folder {site.folder}; it must be on storage that all nodes mount at the same path"
    if not os.path.exists(site.mark):
        return f"sees another folder at {site.folder}; the project folder must be on storage that all nodes mount at the same path"
    try:
        with tempfile.TemporaryFile(dir=os.path.dirname(site.mark)):
            pass
        done = subprocess.run(
            [sys.executable, "-P", "-m", "ablation.on_ray.check"], input=site.sample, cwd=site.folder, env=_environment(site),
            capture_output=True, text=True,
        )  # fmt: skip
    except OSError as error:
        return f"cannot write to the project folder {site.folder}: {error.strerror or error}"
    if done.returncode:
        return f"cannot run ablate with {sys.executable}: {(done.stderr.strip() or f'exit code {done.returncode}').splitlines()[-1]}"
    return done.stdout.strip() or None


class Relay:
    """An actor: a worker process on its node, and what it says.

    {"event": "ready", "node"} comes first, or {"event": "unfit", "node", "error"} and nothing more; what the worker
    says follows, and {"event": "exited", "code", "for_memory"} when the process has ended: whether the node has just
    killed processes for want of memory.
    """

    def __init__(self, site: Site, fit: Sequence[str] = ()):
        self._site, self._fit = site, fit  # nodes that need not be asked again whether they can run workers
        self._messages: queue.SimpleQueue[str] = queue.SimpleQueue()
        # one thread starts the process and waits for it: a process dies with the thread that has started it
        threading.Thread(target=self._serve, daemon=True).start()

    def next(self) -> list[str]:
        """The messages that have come, one JSON each; waits for one."""
        messages = [self._messages.get()]
        while not self._messages.empty():
            messages.append(self._messages.get())
        return messages

    def send(self, request: str) -> None:
        """Hand a request, as JSON, to a worker that is ready and idle."""
        self._process.send(request)

    def stop(self) -> None:
        """Ask the worker to finish the epoch in hand."""
        self._process.stop()

    def resident_bytes(self) -> int:
        """What the worker holds in memory; 0 if it is gone."""
        return resident_bytes(self._process.pid)

    def _serve(self) -> None:
        fault = None if self._is_fit() else fault_of(self._site)
        if fault is not None:
            self._say(event="unfit", node=platform.node(), error=fault)
            return
        kills = MemoryKills()
        process = self._process = WorkerProcess(_environment(self._site), [sys.executable, "-c", DIE_WITH_PARENT], self._site.folder)
        self._say(event="ready", node=platform.node())
        has_ended = False
        while not (has_ended or process.is_silent):
            select.select([process.replies], [], [], TICK_SECONDS)
            kills.look()
            has_ended = process.has_ended()  # asked first: then all is read that it had to say
            for line in process.read():
                self._messages.put(line)
        code = process.close(END_SECONDS)
        self._say(event="exited", code=code, for_memory=kills.are_recent())

    def _is_fit(self) -> bool:
        if not self._fit:
            return False
        import ray

        return ray.get_runtime_context().get_node_id() in self._fit

    def _say(self, **message: object) -> None:
        self._messages.put(json.dumps(message))


def _environment(site: Site) -> dict[str, str]:
    path = os.pathsep.join(filter(None, [site.import_path, os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path}

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
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ablation.limits import MemoryKills, resident_bytes
from ablation.worker_process import END_SECONDS, WorkerProcess

TICK_SECONDS = 0.5  # between looks at whether the worker lives
CACHE = "ABLATE_NODE_CACHE"  # variable of a node: the folder that it keeps checkpoints, latents and images in

# A worker must not outlive its actor, however that ends. Asked for by the process itself: between fork and exec, in
# a process with Ray's threads, nothing should be run.
DIE_WITH_PARENT = """
import ctypes, os, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL
os.execv(sys.argv[1], sys.argv[1:])
"""

Message = tuple[str, bytes | None]  # JSON, and the entry or the piece of a log that goes with it


class Site(NamedTuple):
    """What every node is told of a study."""

    sample: str  # see `ablation.on_ray.check`
    data: str  # ABLATE_DATA of nodes that have none of their own: data stand at the same path as on the driver's machine
    brings_code: bool  # whether the working directory is Ray's copy of the project's code


def fault_of(site: Site) -> str | None:
    """Why this node cannot run workers for the study."""
    try:
        _cache_folder().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=_cache_folder()):
            pass
        done = subprocess.run(
            [sys.executable, "-P", "-m", "ablation.on_ray.check"], input=site.sample, env=_environment(site), capture_output=True, text=True,
        )  # fmt: skip
    except OSError as error:
        return (
            f"cannot write to {_cache_folder()}, which {CACHE} may name: {error.strerror or error}"
        )
    if done.returncode:
        cause = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        return f"cannot run ablate with {sys.executable}: {cause}; install there what the driver's machine has"
    return done.stdout.strip() or None


class Relay:
    """An actor: a worker process on its node, and what it says.

    {"event": "ready", "node"} comes first, or {"event": "unfit", "node", "error"} and nothing more; what the worker
    says follows, pieces of its log as {"event": "log", "log"}, and {"event": "exited", "code", "for_memory"} when the
    process has ended: whether the node has just killed processes for want of memory.
    """

    def __init__(self, site: Site, fit: Sequence[str] = ()):
        self._site, self._fit = (
            site,
            fit,
        )  # nodes that need not be asked again whether they can run workers
        self._messages: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._log: Log | None = None
        # one thread starts the process and waits for it: a process dies with the thread that has started it
        threading.Thread(target=self._serve, daemon=True).start()

    def next(self) -> list[Message]:
        """The messages that have come; waits for one."""
        messages = [self._messages.get()]
        while not self._messages.empty():
            messages.append(self._messages.get())
        return messages

    def send(self, request: str) -> None:
        """Hand a request, as JSON, to a worker that is ready and idle. Its log goes to the driver's machine."""
        asked = json.loads(request)
        before, self._log = self._log, Log(asked["log"])
        if before is not None:
            shutil.rmtree(before.here.parent, ignore_errors=True)
        self._process.send(
            json.dumps(
                {
                    **asked,
                    "cache": str(_cache_folder()),
                    "log": str(self._log.here),
                    "is_remote": True,
                }
            )
        )

    def answer(self, told: str, entry: bytes | None) -> None:
        """What the driver says to a question of the store's."""
        self._answers.put((told, entry))

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
        process = self._process = WorkerProcess(
            _environment(self._site), [sys.executable, "-c", DIE_WITH_PARENT]
        )
        self._say(event="ready", node=platform.node())
        has_ended = False
        while not (has_ended or process.is_silent):
            select.select([process.replies], [], [], TICK_SECONDS)
            kills.look()
            has_ended = process.has_ended()  # asked first: then all is read that it had to say
            lines = process.read()
            self._send_log()
            for line in lines:
                self._pass_on(line)
        code = process.close(END_SECONDS)
        self._send_log()
        self._say(event="exited", code=code, for_memory=kills.are_recent())

    def _pass_on(self, line: str) -> None:
        """Tell the driver what the worker says; to what it asks of the store, tell it the answer."""
        message = json.loads(line)
        if message["event"] != "store":
            self._messages.put((line, None))
            return
        self._messages.put(
            (line, Path(message["path"]).read_bytes() if "path" in message else None)
        )
        told, entry = self._answers.get()
        if entry is not None:
            into = Path(message["into"])
            into.parent.mkdir(parents=True, exist_ok=True)
            into.write_bytes(entry)
        self._process.send(told)

    def _send_log(self) -> None:
        log = self._log
        piece = log.read() if log else b""
        if piece:
            self._messages.put((json.dumps({"event": "log", "log": log.there}), piece))

    def _is_fit(self) -> bool:
        if not self._fit:
            return False
        import ray

        return ray.get_runtime_context().get_node_id() in self._fit

    def _say(self, **message: object) -> None:
        self._messages.put((json.dumps(message), None))


class Log:
    """What a worker prints, in a file of its node's that grows; `there` is the trial's log on the driver's machine."""

    def __init__(self, there: str):
        self.there = there
        self.here = Path(tempfile.mkdtemp(prefix="ablate-log-"), "stdout.log")
        self._n_read = 0

    def read(self) -> bytes:
        """What has come since the last time."""
        try:
            with self.here.open("rb") as file:
                file.seek(self._n_read)
                piece = file.read()
        except FileNotFoundError:
            return b""
        self._n_read += len(piece)
        return piece


def _cache_folder() -> Path:
    return Path(os.environ.get(CACHE) or Path(tempfile.gettempdir(), f"ablate-cache-{os.getuid()}"))


def _environment(site: Site) -> dict[str, Any]:
    """Without the project's code, which Ray puts first on the import path: no module of it must hide one of ours."""
    here = os.getcwd() if site.brings_code else None
    path = [
        folder
        for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep)
        if folder and os.path.abspath(folder) != here
    ]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path),
        "ABLATE_DATA": os.environ.get("ABLATE_DATA", "").strip() or site.data,
    }

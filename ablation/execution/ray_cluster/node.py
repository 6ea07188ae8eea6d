"""The actor that runs on a node: it starts a worker process and relays its messages.

It is sent there by value, as is what it has from `ablation`; all else is the standard library:
Ray's processes search the folder in which the study was started first, where a folder `ablation`
may not be ours.
"""

from __future__ import annotations

import json
import os
import platform
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ablation.execution.process import WorkerProcess

if TYPE_CHECKING:
    from ablation.execution.workers import Request

# Variable of a node: the folder that it keeps checkpoints, latents and images in.
CACHE = "ABLATE_NODE_CACHE"

Told = tuple[dict[str, Any], bytes | None]
"""A message, and the entry or the piece of a log that goes with it."""


class NodeSetup(NamedTuple):
    """What every node gets of a study."""

    # see `ablation.execution.ray_cluster.check`
    sample: str
    # ABLATE_DATA of nodes that have none of their own: data stand at the same path as on the
    # driver's machine
    data: str
    # whether the working directory is Ray's copy of the project's code
    brings_code: bool


def fault_of(site: NodeSetup) -> str | None:
    """Why this node cannot run workers for the study."""
    folder = _cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        return f"cannot write to {folder}, which {CACHE} may name: {error.strerror or error}"
    done = subprocess.run(
        [sys.executable, "-P", "-m", "ablation.execution.ray_cluster.check"],
        input=site.sample,
        env=_environment(site),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        cause = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        fault = f"cannot run ablate with {sys.executable}: {cause}"
        return f"{fault}; install there what the driver's machine has"
    return done.stdout.strip() or None


class Relay:
    """An actor: a worker process on its node, and what it says.

    {"event": "ready", "node"} comes first, or {"event": "unfit", "node", "fault"} and nothing more.
    What the worker says follows, pieces of its log as {"event": "log", "log"}, and at last
    {"event": "exited", "code"}.
    """

    def __init__(self, site: NodeSetup, fit: Sequence[str] = ()):
        """fit: ids of nodes that need not be asked again whether they can run workers."""
        self._site, self._fit = site, fit
        self._messages: queue.SimpleQueue[Told] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[Told] = queue.SimpleQueue()
        # the worker's log on this node, which grows, and that of the trial on the driver's machine
        self._log = tempfile.NamedTemporaryFile(prefix="ablate-log-"), ""  # noqa: SIM115
        # one thread starts the process and waits for it: it dies with the thread that started it
        threading.Thread(target=self._serve, daemon=True).start()

    def next(self) -> list[Told]:
        """The messages that have come; waits for one."""
        messages = [self._messages.get()]
        while not self._messages.empty():
            messages.append(self._messages.get())
        return messages

    def send(self, request: Request) -> None:
        """Hand a request to a ready and idle worker. Its log goes to the driver's machine."""
        # it lasts until the next request replaces it
        log = tempfile.NamedTemporaryFile(prefix="ablate-log-")  # noqa: SIM115
        self._log = log, request["log"]
        cache = str(_cache_folder())
        here: Request = {**request, "cache": cache, "log": log.name, "is_remote": True}
        self._process.send(json.dumps(here))

    def answer(self, told: dict[str, Any], entry: bytes | None) -> None:
        """What the driver says to a question of the store's."""
        self._answers.put((told, entry))

    def stop(self) -> None:
        """Ask the worker to finish the epoch in hand."""
        self._process.stop()

    def resident_bytes(self) -> int:
        """The memory that the worker holds; 0 if it is gone."""
        return self._process.resident_bytes()

    def _serve(self) -> None:
        fault = None if self._is_fit() else fault_of(self._site)
        if fault is not None:
            self._say(event="unfit", node=platform.node(), fault=fault)
            return
        self._process = WorkerProcess(_environment(self._site))
        self._say(event="ready", node=platform.node())
        for lines in self._process.replies():
            self._send_log()
            for line in lines:
                self._pass_on(json.loads(line))
        code = self._process.close()
        self._send_log()
        self._say(event="exited", code=code)

    def _pass_on(self, message: dict[str, Any]) -> None:
        """Tell the driver what the worker says, and the worker what its store is answered."""
        if message["event"] != "store":
            self._say(**message)
            return
        entry = Path(message["path"]).read_bytes() if "path" in message else None
        self._messages.put((message, entry))
        answer, entry = self._answers.get()
        if entry is not None:
            into = Path(message["into"])
            into.parent.mkdir(parents=True, exist_ok=True)
            into.write_bytes(entry)
        self._process.send(json.dumps(answer))

    def _send_log(self) -> None:
        log, there = self._log
        if piece := log.read():
            self._messages.put(({"event": "log", "log": there}, piece))

    def _is_fit(self) -> bool:
        if not self._fit:
            return False
        import ray

        return ray.get_runtime_context().get_node_id() in self._fit

    def _say(self, **message: object) -> None:
        self._messages.put((message, None))


def _cache_folder() -> Path:
    return Path(os.environ.get(CACHE) or Path(tempfile.gettempdir(), f"ablate-cache-{os.getuid()}"))


def _environment(site: NodeSetup) -> dict[str, str]:
    """Without the project's code first on the import path, where its modules would hide ours."""
    here = os.getcwd() if site.brings_code else None
    path = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    kept = [folder for folder in path if folder and os.path.abspath(folder) != here]
    data = os.environ.get("ABLATE_DATA", "").strip() or site.data
    return {**os.environ, "PYTHONPATH": os.pathsep.join(kept), "ABLATE_DATA": data}

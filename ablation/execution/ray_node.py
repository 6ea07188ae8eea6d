"""What runs on a node of a Ray cluster: an actor, a check of the node, and the store of its worker.

The actor (`Relay`) starts a worker process and relays its messages. It is sent to the node by
value, as is what it has from `ablation`; all else that it uses is the standard library: Ray's
processes search the folder in which the study was started first, where a folder `ablation` may not
be ours.

The check finds out whether the node would compute what was planned. It is run as
`python -m ablation.execution.ray_node` in a copy of the project's code.

    -> a `Sample` as a JSON line
    <- nothing, or what is wrong

A key holds the fingerprints of settings, data and source: where it is the same, all of these are.

The store (`NodeStore`) has local copies in front of the driver's store. What the worker saves is at
the driver before `save` returns. What it loads comes from there, checked by its checksum; the node
keeps checkpoints, latents and images, and uses what it has where the driver has the same.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import queue
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, TypedDict

from ablation import PACKAGE
from ablation.errors import InputError
from ablation.execution.process import WorkerProcess
from ablation.storage.cache import HEADER, DiskStore, unsealed
from ablation.storage.files import is_full
from ablation.subject.loading import load_subject
from ablation.subject.protocol import Subject

if TYPE_CHECKING:
    from ablation.execution.workers import Request


# Variable of a node: the folder that it keeps checkpoints, latents and images in.
CACHE = "ABLATE_NODE_CACHE"

Told = tuple[dict[str, Any], bytes | None]
"""A message, and the entry or the piece of a log that goes with it."""


class NodeSetup(NamedTuple):
    """What every node needs to know of a study."""

    # a `Sample` as JSON
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
        [sys.executable, "-P", "-m", "ablation.execution.ray_node"],
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
    """An actor: starts a worker process on its node, and relays its messages.

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
        self._log: tuple[BinaryIO, str] | None = None
        # of the task in hand, in the worker's scratch
        self._task: Path | None = None
        # one thread starts the process and waits for it: it dies with the thread that started it
        threading.Thread(target=self._serve, daemon=True).start()

    def next(self) -> list[Told]:
        """The messages that have arrived; waits until there is one."""
        messages = [self._messages.get()]
        while not self._messages.empty():
            messages.append(self._messages.get())
        return messages

    def send(self, request: Request) -> None:
        """Hand a request to a ready and idle worker. Its log goes to the driver's machine."""
        # log and folder of the last task were kept until now
        if self._task is not None:
            shutil.rmtree(self._task, ignore_errors=True)
        try:
            self._task = Path(tempfile.mkdtemp(dir=self._scratch))
            log = self._task / "log"
            log.touch()
            self._log = log.open("rb"), request["log"]
        except FileNotFoundError:
            # the worker has ended, and its scratch was removed
            return
        here: Request = {
            **request,
            "cache": str(_cache_folder()),
            "log": str(log),
            "folder": str(self._task / "work"),
            "is_remote": True,
        }
        self._process.send(json.dumps(here))

    def answer(self, told: dict[str, Any], entry: bytes | None) -> None:
        """Pass on the driver's answer to a question of the store."""
        self._answers.put((told, entry))

    def stop(self) -> None:
        """Ask the worker to finish the epoch in hand."""
        self._process.stop()

    def resident_bytes(self) -> int:
        """The memory that the worker holds; 0 if it is gone."""
        return self._process.resident_bytes()

    def _serve(self) -> None:
        fault = None if self._is_fit() else fault_of(self._site)
        self._scratch = os.path.join(tempfile.gettempdir(), f"ablate-work-{secrets.token_hex(8)}")
        if fault is None:
            try:
                self._process = WorkerProcess(_environment(self._site), self._scratch)
            except OSError as error:
                fault = f"cannot start a worker: {error}"
        if fault is not None:
            self._say(event="unfit", node=platform.node(), fault=fault)
            return
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
        try:
            answer = self._answered(message)
        except OSError as error:
            answer = failed_transfer(error, message.get("path") or message.get("into"))
        self._process.send(json.dumps(answer))

    def _answered(self, question: dict[str, Any]) -> dict[str, Any]:
        """The driver's answer to a question of the worker's store, whose entry is at its place."""
        entry = Path(question["path"]).read_bytes() if "path" in question else None
        self._messages.put((question, entry))
        answer, entry = self._answers.get()
        if entry is not None:
            into = Path(question["into"])
            into.parent.mkdir(parents=True, exist_ok=True)
            into.write_bytes(entry)
        return answer

    def _send_log(self) -> None:
        if self._log is None:
            return
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


NODE_CACHE_BYTES = 20 * 10**9
# folder of what comes from the driver
ON_THE_WAY = "arriving"


class NodeStore:
    """A store (`ablation.subject.protocol.Store`) that asks the driver. here: the node's own cache.

    ask: sends a question to the driver, and returns its answer; see `answer_of`.
    """

    def __init__(self, here: DiskStore, ask: Callable[[dict[str, Any]], dict[str, Any]]):
        self._here, self._ask = here, ask
        # which the node does not keep: the driver alone knows what was recorded
        self._records: dict[str, bytes] = {}
        self._here.trim(NODE_CACHE_BYTES)

    def holds(self, kind: str, key: str) -> bool:
        """Whether the driver has an entry."""
        answer = self._ask({"op": "holds", "kind": kind, "key": key})
        return bool(answer["holds"])

    def load(self, kind: str, key: str) -> bytes | None:
        """Load an entry from the driver; None if it is absent, or was damaged in transfer.

        Raises OSError if the node cannot take it.
        """
        if kind == "record" and key in self._records:
            return self._records[key]
        here = self._here.sealed(kind, key)
        have = here[: HEADER.size].hex() if here else ""
        into = self._here.root / ON_THE_WAY / f"{key}-{secrets.token_hex(4)}"
        question = {"op": "load", "kind": kind, "key": key, "have": have, "into": str(into)}
        answer = self._ask(question)
        _require_done(answer)
        if not answer["holds"]:
            return None
        if not answer["sent"]:
            return unsealed(here or b"")
        sealed = into.read_bytes()
        into.unlink()
        content = unsealed(sealed)
        if content is not None:
            self._keep(kind, key, sealed, content)
        return content

    def save(self, kind: str, key: str, data: bytes, seconds: float = 0.0) -> None:
        """Save an entry here and at the driver; raises OSError if either cannot store it."""
        self._here.save(kind, key, data, seconds)
        path = self._here.path(kind, key)
        answer = self._ask({"op": "save", "kind": kind, "key": key, "path": str(path)})
        if kind == "record":
            self._records[key] = data
            path.unlink()
        _require_done(answer)

    def _keep(self, kind: str, key: str, sealed: bytes, content: bytes) -> None:
        if kind == "record":
            self._records[key] = content
            return
        try:
            self._here.adopt(kind, key, sealed)
        except OSError as error:
            if not is_full(error):
                raise


def failed_transfer(error: OSError, path: Path | str | None) -> dict[str, Any]:
    """The answer to a question of a `NodeStore` where a file could not be read or written."""
    return {"errno": error.errno, "file": str(error.filename or path)}


def _require_done(answer: Mapping[str, Any]) -> None:
    if "errno" in answer:
        raise OSError(answer["errno"], os.strerror(answer["errno"]), answer["file"])


class Sample(TypedDict):
    """A trial as planned, for a node to compare with what it has."""

    # as the experiment names it
    subject: str
    # dotted key -> value
    settings: dict[str, Any]
    seed: int
    # of the trial's first link
    key: str
    # see `versions`
    versions: dict[str, str]


def sample_of(
    name: str, subject: Subject, settings: Mapping[str, Any], seed: int, key: str
) -> Sample:
    """The trial of these settings under this seed, with the versions of this machine."""
    return {
        "subject": name,
        "settings": dict(settings),
        "seed": seed,
        "key": key,
        "versions": versions(subject, settings),
    }


def versions(subject: Subject, settings: Mapping[str, Any]) -> dict[str, str]:
    """Versions of Python, of ablate (a hash of its source), and of the subject's libraries."""
    source = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        source.update(f"{path.relative_to(PACKAGE).as_posix()}\0".encode() + path.read_bytes())
    named = subject.describe(settings).get("versions", {})
    return {
        "python": ".".join(platform.python_version_tuple()[:2]),
        "ablate": source.hexdigest()[:8],
        **named,
    }


def difference(sample: Sample) -> str | None:
    """How this machine differs from the plan; None if it does not."""
    settings, planned = sample["settings"], sample["versions"]
    try:
        subject = load_subject(sample["subject"])
        faults = subject.check(settings)
        if faults:
            return f"cannot run a trial: {faults[0].message}"
        here = versions(subject, settings)
        key = subject.chain(settings, sample["seed"], lambda _: None)[0].key
    except InputError as error:
        return f"cannot load the subject: {error}"
    except (OSError, ValueError) as error:
        # data that are not there, or not what they were
        return f"cannot read the data: {type(error).__name__}: {error}"
    others = [
        f"{name} {here.get(name, 'none')} where the plan has {planned.get(name, 'none')}"
        for name in {**planned, **here}
        if here.get(name) != planned.get(name)
    ]
    if others:
        return f"has other versions: {', '.join(others)}"
    if key != sample["key"]:
        return "has other data, or other source of what is ablated, than the plan"
    return None


if __name__ == "__main__":
    print(difference(json.load(sys.stdin)) or "")

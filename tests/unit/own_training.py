"""Training code of somebody's own in a worker process, and what becomes of the processes that it starts."""

from __future__ import annotations

import os
import time
from pathlib import Path

from ablation.execution.workers import Message, Worker, Workers

PROCESSES = Path("/proc")


def write_module(text: str, name: str = "trained") -> None:
    Path(f"{name}.py").write_text(text)


def send(worker: Worker, does: str = "", subject: str = "trained:train") -> None:
    """Have a worker run a trial with these settings in the working directory."""
    request = {"subject": subject, "settings": {"does": does}, "seed": 0, "until": None}
    paths = {name: str(Path(name).resolve()) for name in ("cache", "log", "folder")}
    worker.send({**request, **paths, "trial": "a"}, "task")


def hear(workers: Workers, worker: Worker) -> list[Message]:
    """All that a worker says of its task, up to how it ended; where it said nothing of that, its death."""
    messages: list[Message] = []
    while all(message.event in ("record", "epoch") for message in messages):
        messages += [event.message for event in workers.wait(0.1)]
    worker.task = None
    last = next(i for i, message in enumerate(messages) if message.event not in ("record", "epoch"))
    return [message for message in messages[: last + 1] if message.event != "epoch"]


def trained(does: str = "", subject: str = "trained:train") -> list[Message]:
    """All that a new worker says of a trial; it has ended then."""
    with Workers(1) as workers:
        worker = workers.idle()
        send(worker, does, subject)
        return hear(workers, worker)


def wait_for(name: str) -> str:
    """What training code has written to a file of that name, once it has."""
    while not (Path(name).exists() and Path(name).read_text()):
        time.sleep(0.01)
    return Path(name).read_text()


def processes_here() -> list[int]:
    """Those whose working directory is that of the test."""
    found = []
    for process in PROCESSES.glob("[0-9]*"):
        try:
            if (process / "cwd").resolve() == Path.cwd() and ") Z " not in (
                process / "stat"
            ).read_text():
                found.append(int(process.name))
        except OSError:  # it has ended meanwhile
            continue
    return found


def processes_left() -> list[int]:
    """Those here besides the test's own that do not end within ten seconds.

    One that was killed is seen here, and not as a zombie yet, until the system has taken it down.
    """
    for _ in range(100):
        left = [pid for pid in processes_here() if pid != os.getpid()]
        if not left:
            break
        time.sleep(0.1)
    return left

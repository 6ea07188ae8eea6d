"""Which studies are being run: one process runs a study at a time."""

from __future__ import annotations

import contextlib
import fcntl
import time
from collections.abc import Iterator
from pathlib import Path

from ablation.errors import InputError, Problem

LOCK = ".lock"
TRIES, PAUSE_SECONDS = 10, 0.02  # whoever looks whether a study is being run holds it for a moment


@contextlib.contextmanager
def only_one(
    folder: Path, doing: str = "running this study; see `ablate status`"
) -> Iterator[None]:
    """Hold the folder for this process; the system lets go of it when the process ends, however it ends.

    doing: what another process that holds it is doing. Raises InputError if one does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("w") as file:
        for _ in range(TRIES):
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            time.sleep(PAUSE_SECONDS)
        else:
            raise InputError([Problem(str(folder), "", f"another process is {doing}")])
        yield


def being_run(runs: Path) -> list[str]:
    """Names of the studies in the folder `runs` that a process is running."""
    return [
        path.parent.name for path in sorted(runs.glob(f"*/{LOCK}")) if is_being_run(path.parent)
    ]


def is_being_run(folder: Path) -> bool:
    """Whether a process on this machine, this one included, is running the study of the folder `runs/<study>`."""
    try:
        file = (folder / LOCK).open()
    except FileNotFoundError:
        return False
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False

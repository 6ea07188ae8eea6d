"""Which studies are being run: one process runs a study at a time."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ablation.errors import InputError, Problem

LOCK = ".lock"
PATIENCE_SECONDS, PAUSE_SECONDS = 0.2, 0.02  # to look at a folder is to hold it for a moment


@contextmanager
def only_one(
    folder: Path, doing: str = "running this study; see `ablate status`"
) -> Iterator[None]:
    """Hold the folder for this process, until it ends, however it ends.

    doing: what another process that holds it is doing. Raises InputError if one does.
    """
    from filelock import FileLock, Timeout  # a fifth of the time of `ablate --help`

    folder.mkdir(parents=True, exist_ok=True)
    try:
        held = FileLock(folder / LOCK).acquire(
            timeout=PATIENCE_SECONDS, poll_interval=PAUSE_SECONDS
        )
    except Timeout:
        raise InputError([Problem(str(folder), "", f"another process is {doing}")]) from None
    with held:
        yield


def being_run(runs: Path) -> list[str]:
    """Names of the studies in the folder `runs` that a process is running."""
    return [
        path.parent.name for path in sorted(runs.glob(f"*/{LOCK}")) if is_being_run(path.parent)
    ]


def is_being_run(folder: Path) -> bool:
    """Whether a process of this machine, this one included, is running the study of the folder.

    Tried with a shared lock, which filelock has not: processes that look at once do not see each
    other, and a folder that may only be read can be looked at.
    """
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

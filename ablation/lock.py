"""Which studies are being run: one process runs a study at a time."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from ablation.errors import InputError, Problem

LOCK = ".lock"


@contextlib.contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Hold the study for this process; the system lets go of it when the process ends, however it ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError([Problem(str(folder), "", "another process is running this study; see `ablate status`")]) from None
        yield


def being_run(runs: Path) -> list[str]:
    """Names of the studies in the folder `runs` that a process is running."""
    return [path.parent.name for path in sorted(runs.glob(f"*/{LOCK}")) if _is_held(path)]


def _is_held(path: Path) -> bool:
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False

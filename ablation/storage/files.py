"""Atomic writes, errors of full disks, the lock of a folder, and checks of what is read."""

from __future__ import annotations

import errno
import fcntl
import functools
import hashlib
import itertools
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin, get_type_hints, is_typeddict

from ablation.errors import InputError, Problem
from ablation.subject.protocol import Record

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


# Names of files that are being written, or were when their writer was killed.
TEMPORARY = re.compile(r"\.[0-9a-f]{16}")
FULL = {
    errno.ENOSPC: "no space is left",
    errno.EDQUOT: "the quota is used up",
    errno.EROFS: "nothing can be written any more",
}


def is_full(error: BaseException) -> bool:
    """Whether the error is that of a full or read-only disk: no trial fails by it."""
    return isinstance(error, OSError) and error.errno in FULL


def describe_full(error: OSError) -> str:
    """A message for an error of a full disk (see `is_full`): what is full, and what to do."""
    return (
        f"{FULL[error.errno or 0]} for {error.filename or 'a file'}; "
        "nothing that was finished is lost: make room, and run the same command again"
    )


def replace(path: Path, *parts: bytes) -> None:
    """Replace `path` by `parts`, one after another, whole or not at all, even if the machine stops.

    The temporary file beside it is hidden: its name begins with a dot. A folder that stands in the
    way is put aside.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{os.urandom(8).hex()}"
    try:
        with temporary.open("xb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        if path.is_dir() and not path.is_symlink():
            put_aside(path)
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and is_full(error):
            # says which file: an error of writing to one that is open names none
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise


def put_aside(path: Path, kind: str = "damaged") -> Path:
    """Rename a file that may still be of use to `<name>.<kind><n>`."""
    asides = (path.with_name(f"{path.name}.{kind}{n}") for n in itertools.count(1))
    aside = next(aside for aside in asides if not os.path.lexists(aside))
    os.replace(path, aside)
    return aside


LOCK = ".lock"
# to look at a folder is to hold it for a moment
PATIENCE_SECONDS, PAUSE_SECONDS = 0.2, 0.02


@contextmanager
def folder_lock(
    folder: Path, doing: str = "running this study; see `ablate status`"
) -> Iterator[None]:
    """Lock the folder for this process, until the context or the process ends.

    doing: what the message says that the other process is doing. Raises InputError if another
    process has locked the folder.
    """
    # a fifth of the time of `ablate --help`
    from filelock import FileLock, Timeout

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


# ValueError: not UTF-8, not JSON, or not what it should hold.
UNREADABLE = (OSError, ValueError, RecursionError)
T = TypeVar("T", bound="DataclassInstance")


def checked(cls: type[T], raw: Any) -> T:
    """A dataclass made of `raw`; the types of its fields are checked, not of what is inside them.

    Raises ValueError saying why there can be none.
    """
    if not isinstance(raw, dict):
        raise ValueError(f"it holds {type(raw).__name__}, not {cls.__name__}")
    try:
        made = cls(**raw)
    except TypeError as error:
        raise ValueError(str(error).partition("() ")[2] or str(error)) from None
    for name, kinds in _field_types(cls).items():
        if name in raw and not isinstance(raw[name], kinds):
            raise ValueError(f"{name} is {raw[name]!r:.40}")
    return made


@functools.cache
def _field_types(cls: type) -> dict[str, tuple[type, ...]]:
    """What the value of each field may be as JSON has it: of a list, only that it is one."""
    return {name: _json_types(hint) for name, hint in get_type_hints(cls).items()}


def _json_types(hint: Any) -> tuple[type, ...]:
    if isinstance(hint, UnionType):
        return tuple(kind for one in get_args(hint) for kind in _json_types(one))
    if is_typeddict(hint):
        return (dict,)
    return (int, float) if hint is float else (get_origin(hint) or hint,)


def checked_record(line: bytes) -> Record:
    """A line of metrics.jsonl as a subject's record. Raises ValueError if it is none."""
    # of bytes, json would guess the encoding
    record: Record = json.loads(line.decode())
    if not (
        isinstance(record, dict)
        and isinstance(record.get("phase"), str)
        and isinstance(record.get("epoch"), int)
        and isinstance(record.get("seconds", 0.0), (int, float))
        and isinstance(record.get("vectors", {}), dict)
        and isinstance(record.get("unread", {}), dict)
    ):
        raise ValueError("it is no record")
    checked_metrics(record.get("metrics"))
    return record


def checked_metrics(metrics: Any) -> None:
    """Raise ValueError if these are not numbers by name."""
    if not (
        isinstance(metrics, Mapping)
        and all(isinstance(value, (int, float)) for value in metrics.values())
    ):
        raise ValueError("its metrics are no numbers")


def digest(path: Path) -> str | None:
    """SHA-256 of a file; None where there is none that can be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None


# a file is read for several purposes
@functools.cache
def warn_once(message: str) -> None:
    """Log a warning to standard error; repeated messages are dropped."""
    logging.getLogger("ablation").warning(message)

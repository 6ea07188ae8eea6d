"""Writing a file whole or not at all."""

from __future__ import annotations

import errno
import itertools
import os
import re
import secrets
from pathlib import Path

TEMPORARY = re.compile(
    r"\.[0-9a-f]{16}"
)  # names of files that are being written, or were when their writer was killed

FULL = {
    errno.ENOSPC: "no space is left",
    errno.EDQUOT: "the quota is used up",
    errno.EROFS: "nothing can be written any more",
}


def is_full(error: BaseException) -> bool:
    """Whether it was raised because a disk is full or has become read-only: no trial is to blame."""
    return isinstance(error, OSError) and error.errno in FULL


def describe_full(error: OSError) -> str:
    return f"{FULL[error.errno]} for {error.filename or 'a file'}; nothing that was finished is lost: make room, and run the same command again"


def replace(path: Path, *parts: bytes) -> None:
    """Replace `path` by `parts`, one after another, whole or not at all, even if the machine stops in between.

    The temporary file beside it is hidden: its name begins with a dot. A folder that stands in the way is put aside.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{secrets.token_hex(8)}"
    handle = os.open(
        temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666
    )  # for whom the umask lets read
    try:
        with os.fdopen(handle, "wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        if path.is_dir() and not path.is_symlink():
            put_aside(path)
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if is_full(error):  # says which file: writing to one that is open names none
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise


def put_aside(path: Path) -> Path:
    """Rename what is damaged, and may yet hold what nothing else does, to `<name>.damaged<n>` beside it; returns that."""
    asides = (path.with_name(f"{path.name}.damaged{n}") for n in itertools.count(1))
    aside = next(aside for aside in asides if not os.path.lexists(aside))
    os.replace(path, aside)
    return aside

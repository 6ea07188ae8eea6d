"""Writing a file whole or not at all."""

from __future__ import annotations

import errno
import itertools
import os
import re
import secrets
from pathlib import Path

# Names of files that are being written, or were when their writer was killed.
TEMPORARY = re.compile(r"\.[0-9a-f]{16}")
FULL = {
    errno.ENOSPC: "no space is left",
    errno.EDQUOT: "the quota is used up",
    errno.EROFS: "nothing can be written any more",
}


def is_full(error: BaseException) -> bool:
    """Whether a disk is full or has become read-only: no trial is to blame."""
    return isinstance(error, OSError) and error.errno in FULL


def describe_full(error: OSError) -> str:
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
    temporary = path.parent / f".{secrets.token_hex(8)}"
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
        if isinstance(error, OSError) and is_full(
            error
        ):  # says which file: writing to one that is open names none
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise


def put_aside(path: Path) -> Path:
    """Rename what is damaged, and may hold what nothing else does, to `<name>.damaged<n>`."""
    asides = (path.with_name(f"{path.name}.damaged{n}") for n in itertools.count(1))
    aside = next(aside for aside in asides if not os.path.lexists(aside))
    os.replace(path, aside)
    return aside

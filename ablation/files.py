"""Writing a file whole or not at all."""

from __future__ import annotations

import itertools
import os
import re
import secrets
from pathlib import Path

TEMPORARY = re.compile(r"\.[0-9a-f]{16}")  # names of files that are being written, or were when their writer was killed


def replace(path: Path, *parts: bytes) -> None:
    """Replace `path` by `parts`, one after another, whole or not at all, even if the machine stops in between.

    The temporary file beside it is hidden: its name begins with a dot. A folder that stands in the way is put aside.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{secrets.token_hex(8)}"
    handle = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)  # for whom the umask lets read
    try:
        with os.fdopen(handle, "wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        if path.is_dir() and not path.is_symlink():
            put_aside(path)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def put_aside(path: Path) -> Path:
    """Rename what is damaged, and may yet hold what nothing else does, to `<name>.damaged<n>` beside it; returns that."""
    asides = (path.with_name(f"{path.name}.damaged{n}") for n in itertools.count(1))
    aside = next(aside for aside in asides if not os.path.lexists(aside))
    os.replace(path, aside)
    return aside

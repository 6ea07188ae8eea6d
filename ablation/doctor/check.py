"""A check of `ablate doctor`, and its result."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from ablation.redaction import redacted
from ablation.storage.sqlite import sqlite_file

# how many names a line shows
SHOWN = 3


class Found(NamedTuple):
    """The result of a check."""

    # what was found, in one line
    what: str
    is_well: bool = True
    # what `mend` does; of what cannot be mended, what the user can do
    remedy: str = ""
    # repairs it, and returns what was done; None if it cannot be repaired
    mend: Callable[[], str] | None = None


class Check(NamedTuple):
    """One check. `look` changes nothing."""

    name: str
    look: Callable[[], Found]


def named(names: Iterable[str]) -> str:
    """`2: a, b`; `5: a, b, c and 2 more`."""
    names = list(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{len(names)}: {', '.join(names[:SHOWN])}{more}"


def here(path: Path) -> str:
    """A path as seen from the working directory."""
    return path.relative_to(Path.cwd()).as_posix() if path.is_relative_to(Path.cwd()) else str(path)


def place(url: str) -> str:
    """Where a database is: its file, or its address without credentials."""
    path = sqlite_file(url)
    return redacted(url) if path is None else here(path)

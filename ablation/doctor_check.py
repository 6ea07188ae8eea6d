"""What the doctor looks at, and what it can find there."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import NamedTuple

SHOWN = 3  # names in a line


class Found(NamedTuple):
    """What a look has found."""

    what: str  # in a line
    is_well: bool = True
    remedy: str = ""  # what `mend` does; of what cannot be mended, what the user can do
    mend: Callable[[], str] | None = None  # returns what was done


class Check(NamedTuple):
    """One thing to look at. Looking changes nothing."""

    name: str
    look: Callable[[], Found]


def named(names: Collection[str]) -> str:
    """`2: a, b`; `5: a, b, c and 2 more`."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{len(names)}: {', '.join(list(names)[:SHOWN])}{more}"

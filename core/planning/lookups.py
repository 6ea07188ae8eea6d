"""Files that are looked at once while a study is planned, not for each of its trials. No torch."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

Found = TypeVar("Found")

_found: ContextVar[dict[Hashable, Any] | None] = ContextVar("_found", default=None)


@contextmanager
def unchanging() -> Iterator[None]:
    """Within it files are taken not to change: what `once` has found is not looked for again."""
    before = _found.set({})
    try:
        yield
    finally:
        _found.reset(before)


def once(key: Hashable, find: Callable[[], Found]) -> Found:
    """What `find` returns; within `unchanging`, what it returned the first time for this key."""
    found = _found.get()
    if found is None:
        return find()
    if key not in found:
        found[key] = find()
    known: Found = found[key]
    return known

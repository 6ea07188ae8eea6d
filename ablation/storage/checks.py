"""Check what is read from a study's files; warn of damage once per process."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin, get_type_hints, is_typeddict

from ablation.subject.protocol import Record

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

# ValueError: not UTF-8, not JSON, or not what it should hold.
UNREADABLE = (OSError, ValueError, RecursionError)
T = TypeVar("T", bound="DataclassInstance")


def checked(cls: type[T], raw: Any) -> T:
    """A dataclass of `raw`, each field of its type, but for what is inside of lists and mappings.

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
    ):
        raise ValueError("it is no record")
    checked_metrics(record.get("metrics"))
    return record


def checked_metrics(metrics: Any) -> None:
    """Raises ValueError if these are not numbers by name."""
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

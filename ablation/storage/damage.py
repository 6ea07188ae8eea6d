"""What is damaged in a study's files, found when they are read, and said once."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

# ValueError: not UTF-8, not JSON, or not what it should hold.
UNREADABLE = (OSError, ValueError, RecursionError)
T = TypeVar("T", bound="DataclassInstance")
TYPES: dict[str, type | tuple[type, ...]] = {
    "str": str,
    "int": int,
    "float": (int, float),
    "list": list,
    "dict": dict,
    "None": type(None),
}


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
    for field in fields(cls):
        kinds = [kind.partition("[")[0].strip() for kind in str(field.type).split("|")]
        if field.name in raw and not any(isinstance(raw[field.name], TYPES[k]) for k in kinds):
            raise ValueError(f"{field.name} is {raw[field.name]!r:.40}")
    return made


def checked_record(line: bytes) -> dict[str, Any]:
    """A line of metrics.jsonl as a subject's record. Raises ValueError if it is none."""
    record = json.loads(line.decode())  # of bytes, json guesses the encoding
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


@functools.cache  # a file is read for several purposes
def say(message: str) -> None:
    """Tell the user, on standard error, once."""
    logging.getLogger("ablation").warning(message)

"""What training functions report and return, as plain numbers."""

from __future__ import annotations

import inspect
import numbers
import reprlib
from collections.abc import Mapping
from typing import Any

MAX_EPOCH = 2**53  # up to which floats, too, tell one whole number from the next


def plain_metrics(metrics: Any, source: str) -> dict[str, float]:
    """Name -> number. NumPy and PyTorch scalars are taken, and tensors of one element.

    source: where they are from, e.g. `train returned`. Raises TypeError that names the metric.
    """
    if not isinstance(metrics, Mapping):
        if inspect.iscoroutine(metrics):
            metrics.close()  # else it warns that it was never awaited
        what = "None" if metrics is None else f"{_shown(metrics)} ({_kind(metrics)})"
        raise TypeError(f"{source} {what}; metrics are a dict, name -> number")
    for name in metrics:
        if not isinstance(name, str):
            raise TypeError(f"{source} a metric called {name!r} ({_kind(name)}); names are text")
    return {name: _number(value, f"{source} '{name}'") for name, value in metrics.items()}


def plain_epoch(epoch: Any) -> int:
    """Raises ValueError for what is no whole number from 0."""
    value = _scalar(epoch)
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not (is_number and 0 <= value <= MAX_EPOCH and value == int(value)):
        what = f"{_shown(epoch)} ({_kind(epoch)})"
        raise ValueError(f"report got epoch {what}; epochs are whole numbers from 0")
    return int(value)


def _number(value: Any, source: str) -> float:
    plain = _scalar(value)
    try:
        if isinstance(plain, (str, bytes, bytearray)) or not hasattr(plain, "__float__"):
            raise TypeError
        return float(plain)
    except (TypeError, ValueError, OverflowError):
        what = f"{_shown(value)} ({_kind(value)})"
        raise TypeError(f"{source} = {what}; a metric is one number") from None


def _scalar(value: Any) -> Any:
    """The number in a scalar, array or tensor of another library; else the value as it is."""
    if not callable(getattr(value, "item", None)):
        return value
    try:
        return value.item()
    except (TypeError, ValueError, RuntimeError):  # it has several elements, or none
        return value


def _shown(value: Any) -> str:
    """A value in a few words, on one line."""
    return " ".join(reprlib.repr(value).split())


def _kind(value: Any) -> str:
    return type(value).__name__

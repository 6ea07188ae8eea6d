"""Sizes and times in options, and the limits of a trial."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from ablation.errors import InputError, Problem

SECONDS = {"": 1.0, "s": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
BYTES = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
BYTES |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


class Limits(NamedTuple):
    """The limits of a trial; None: no limit."""

    # of all epochs of the trial, shared ones included
    seconds: float | None = None
    # resident memory of the worker process
    n_bytes: int | None = None


NO_LIMITS = Limits()


def parse_duration(text: str, option: str) -> float:
    """`90`, `90s`, `45min`, `1.5h` or `2d` in seconds. Raises InputError naming the option."""
    seconds = _amount(text, SECONDS)
    if not seconds:
        raise InputError([Problem(option, text, "is not a time, such as 90s, 45min or 1.5h")])
    return seconds


def parse_size(text: str, option: str) -> int:
    """`500MB` or `20 GiB` in bytes. Raises InputError naming the option."""
    n_bytes = _amount(text.upper(), BYTES)
    if n_bytes is None:
        raise InputError([Problem(option, text, "is not a size, such as 500MB or 20GB")])
    return int(n_bytes)


def show_size(n_bytes: float) -> str:
    """Bytes in decimal units: 1.5 GB."""
    if n_bytes < 1000:
        return f"{n_bytes:.0f} B"
    for unit in ("kB", "MB"):
        n_bytes /= 1000
        if n_bytes < 1000:
            return f"{n_bytes:.1f} {unit}"
    return f"{n_bytes / 1000:.1f} GB"


def _amount(text: str, units: Mapping[str, float]) -> float | None:
    """A number times its unit; None if the text is none."""
    match = re.fullmatch(r"\s*(\d{1,15}(?:\.\d{1,15})?)\s*([a-zA-Z]*)\s*", text, re.ASCII)
    return float(match[1]) * units[match[2]] if match and match[2] in units else None

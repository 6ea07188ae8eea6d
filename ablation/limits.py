"""What a trial may take of time and memory, and what the system says of memory."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

from ablation.errors import InputError, Problem

UNITS = {"": 1.0, "s": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Limits(NamedTuple):
    """None: as much as it takes."""

    seconds: float | None = None  # of a trial's whole chain, shared epochs included: what it would take alone
    n_bytes: int | None = None  # that a worker process holds in memory (resident)


def parse_duration(text: str, option: str) -> float:
    """`90`, `90s`, `45min`, `1.5h` or `2d` in seconds. Raises InputError naming the option."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", text)
    unit = UNITS.get(match[2]) if match else None
    if unit is None or not float(match[1]):
        raise InputError([Problem(option, text, "is not a time, such as 90s, 45min or 1.5h")])
    return float(match[1]) * unit


def resident_bytes(pid: int) -> int:
    """What a process holds in memory; 0 where the system does not tell, or the process is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def n_killed_for_memory() -> int:
    """How many processes the system has killed for want of memory so far; 0 where it does not tell."""
    for line in _lines(Path("/proc/vmstat")):
        name, _, number = line.partition(" ")
        if name == "oom_kill":
            return int(number)
    return 0


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []

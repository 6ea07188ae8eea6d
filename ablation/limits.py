"""What a trial may take of time and memory, and what the system says of memory."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import NamedTuple

from ablation.errors import InputError, Problem

RECENT_SECONDS = 5.0  # that a process may take to end when the system has killed it: its memory is given back first
UNITS = {"": 1.0, "s": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Limits(NamedTuple):
    """None: as much as it takes."""

    seconds: float | None = (
        None  # of a trial's whole chain, shared epochs included: what it would take alone
    )
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


class MemoryKills:
    """The system's kills for want of memory: looked for time and again, so that it is known when they were."""

    def __init__(self) -> None:
        self._n, self._last = n_killed_for_memory(), -float("inf")

    def look(self) -> None:
        n = n_killed_for_memory()
        if n > self._n:
            self._n, self._last = n, time.monotonic()

    def are_recent(self) -> bool:
        """Whether there were any in the last seconds: a process that ends now may be the one that was killed."""
        self.look()
        return time.monotonic() - self._last < RECENT_SECONDS


def n_killed_for_memory() -> int:
    """How many processes the system has killed for want of memory so far: of this one's control group where that is
    told, else of the machine; 0 where nothing is."""
    for file in (*_events_of_own_group(), Path("/proc/vmstat")):
        for line in _lines(file):
            name, _, number = line.partition(" ")
            if name == "oom_kill":
                return int(number)
    return 0


def _events_of_own_group() -> list[Path]:
    """The file of its control group (version 2) that counts what has befallen its memory."""
    groups = [
        line.removeprefix("0::/")
        for line in _lines(Path("/proc/self/cgroup"))
        if line.startswith("0::/")
    ]
    return [Path("/sys/fs/cgroup", group, "memory.events") for group in groups]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []

"""Limits on running trials: time, memory, and how often a worker may be lost."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from ablation.execution.workers import Worker
from ablation.formatting import duration
from ablation.limits import Limits, show_size
from ablation.planning.schedule import Segment
from ablation.storage.runs import failure

# Of a trial's workers in a row, without a new epoch in between, before the trial fails.
MAX_LOSSES = 3


@dataclass
class Task:
    """A segment that a worker is computing."""

    segment: Segment
    # whose settings and log the worker uses
    trial: str
    # whether the worker was started for it
    is_first: bool
    # time of the trial's epochs up to its last checkpoint
    seconds_before: float
    begun: float = field(default_factory=time.monotonic)
    # time of the epochs finished since the task began
    epoch_seconds: float = 0.0

    def __post_init__(self) -> None:
        self._last = self.begun

    def recorded(self, seconds: float) -> None:
        """An epoch of the task is finished; it took so long."""
        self.epoch_seconds += seconds
        self._last = time.monotonic()

    def seconds(self) -> float:
        """What the trial's epochs have taken so far, before this task too, and the one in hand.

        The start of the worker counts until the first epoch is finished.
        """
        return self.seconds_before + self.epoch_seconds + time.monotonic() - self._last


class Supervision:
    """Kills workers whose trial exceeds a limit; counts the workers that each trial lost."""

    def __init__(self, limits: Limits):
        self.limits = limits
        self._losses: Counter[str] = Counter()

    def enforce(self, workers: Iterable[Worker]) -> None:
        """workers: those that are busy."""
        seconds, n_bytes = self.limits
        for worker in workers:
            if seconds is not None and worker.task is not None and worker.task.seconds() > seconds:
                message = f"ran past its limit of {duration(seconds)}"
                worker.kill(failure("TimeLimit", message))
            elif n_bytes is not None and (held := worker.resident_bytes()) > n_bytes:
                message = f"held {show_size(held)} of memory, and {show_size(n_bytes)} are allowed"
                worker.kill(failure("MemoryLimit", message))

    def made_progress(self, trial: str) -> None:
        """An epoch is finished that was not there before."""
        del self._losses[trial]

    def is_lost_too_often(self, trial: str) -> bool:
        """Count the loss of a worker; whether the trial fails by it."""
        self._losses[trial] += 1
        return self._losses[trial] > MAX_LOSSES

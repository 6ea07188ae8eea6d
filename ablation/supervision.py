"""What a study watches while workers compute: how long a trial takes, how much memory, how often a worker was lost."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from ablation.caching import show_size
from ablation.forest import Segment
from ablation.formatting import duration
from ablation.limits import Limits
from ablation.workers import Worker

MAX_LOSSES = 3  # of a trial's workers in a row, without a finished epoch in between, before the trial is blamed


@dataclass
class Task:
    """A segment in a worker's hands."""

    segment: Segment
    trial: str  # on whose behalf it runs
    is_first: bool  # for which the worker was started
    seconds_before: float = 0.0  # that the chain had taken when it was handed out
    begun: float = field(default_factory=time.monotonic)
    epoch_seconds: float = 0.0


class Supervision:
    """Ends workers whose trial goes beyond its limits, and tells whether a trial is to blame for the loss of its worker."""

    def __init__(self, limits: Limits):
        self.limits = limits
        self._losses: Counter[str] = Counter()

    def enforce(self, workers: Iterable[Worker]) -> None:
        """workers: that are busy."""
        for worker in workers:
            error = self._beyond(worker)
            if error is not None:
                worker.kill(error)

    def recorded(self, task: Task) -> None:
        """An epoch of the task is finished."""
        del self._losses[task.trial]

    def blames(self, task: Task) -> bool:
        """Whether the trial fails because its worker was lost once more."""
        self._losses[task.trial] += 1
        return self._losses[task.trial] > MAX_LOSSES

    def _beyond(self, worker: Worker) -> dict[str, str] | None:
        seconds, n_bytes = self.limits
        taken = worker.task.seconds_before + time.monotonic() - worker.task.begun
        if seconds is not None and taken > seconds:
            return _error("TimeLimit", f"ran past its limit of {duration(seconds)}")
        if n_bytes is not None and (held := worker.resident_bytes()) > n_bytes:
            return _error("MemoryLimit", f"held {show_size(held)} of memory, and {show_size(n_bytes)} are allowed")
        return None


def _error(type_: str, message: str) -> dict[str, str]:
    return {"type": type_, "message": message, "traceback": ""}

"""What a study watches while workers compute: how long a trial takes, how much memory, how often a worker was lost."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from ablation.caching import show_size
from ablation.schedule import Segment
from ablation.formatting import duration
from ablation.limits import Limits
from ablation.workers import Worker

MAX_LOSSES = (
    3  # of a trial's workers in a row, without a new epoch in between, before the trial is blamed
)


@dataclass
class Task:
    """A segment in a worker's hands."""

    segment: Segment
    trial: str  # on whose behalf it runs
    is_first: bool  # for which the worker was started
    known: dict[str, float] = field(
        default_factory=dict
    )  # seconds by the key of each epoch of the chain that is there, in order
    n_done: int = 0  # of these, the ones that need not be repeated
    begun: float = field(default_factory=time.monotonic)
    epoch_seconds: float = 0.0  # of epochs finished since then

    def __post_init__(self) -> None:
        self._last = self.begun  # when the chain had taken `_before`
        self._before = sum(list(self.known.values())[: self.n_done])

    def recorded(self, key: str, seconds: float) -> None:
        """An epoch is finished; it may repeat one that was there already."""
        self.epoch_seconds += seconds
        self.known[key] = seconds
        keys = list(self.known)
        self._last, self._before = (
            time.monotonic(),
            sum(self.known[one] for one in keys[: keys.index(key) + 1]),
        )

    def seconds(self) -> float:
        """What the chain has taken, each of its epochs once."""
        return self._before + time.monotonic() - self._last


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

    def recorded(self, task: Task, key: str, seconds: float, is_new: bool) -> None:
        """An epoch of the task is finished, one that was not there before if it `is_new`: else nothing has come of it."""
        task.recorded(key, seconds)
        if is_new:
            del self._losses[task.trial]

    def blames(self, task: Task) -> bool:
        """Whether the trial fails because its worker was lost once more."""
        self._losses[task.trial] += 1
        return self._losses[task.trial] > MAX_LOSSES

    def _beyond(self, worker: Worker) -> dict[str, str] | None:
        seconds, n_bytes = self.limits
        if seconds is not None and worker.task.seconds() > seconds:
            return _error("TimeLimit", f"ran past its limit of {duration(seconds)}")
        if n_bytes is not None and (held := worker.resident_bytes()) > n_bytes:
            return _error(
                "MemoryLimit",
                f"held {show_size(held)} of memory, and {show_size(n_bytes)} are allowed",
            )
        return None


def _error(type_: str, message: str) -> dict[str, str]:
    return {"type": type_, "message": message, "traceback": ""}

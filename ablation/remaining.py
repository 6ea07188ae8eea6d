"""How long a running study still takes, forecast from its measured epochs; kept in a file for `ablate status`."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ablation.damage import UNREADABLE
from ablation.execution import Listener
from ablation.forecast import forecast, unrecorded
from ablation.formatting import duration
from ablation.grid import Study
from ablation.plan import Plan, expected
from ablation.runs import Outcome, RunFolder, TrialSpec, write_atomically
from ablation.store import DiskStore
from ablation.timings import START, Timings

SECONDS = 10.0  # between forecasts
COST = 0.01  # of a study's time, that forecasts may take


class Left(NamedTuple):
    """What a running study wrote last."""

    seconds: float | None  # left, when it was written; None where no epoch has been measured
    at: float  # when it was written, seconds since 1970
    jobs: int
    in_hand: list[str]  # trials whose epochs workers were computing


@dataclass
class Remaining(Listener):
    """Forecasts what is left as often as it costs nothing, and writes it to `file`; removes it at the end."""

    study: Study
    plan: Plan
    store: DiskStore
    folder: RunFolder
    timings: Timings  # that measure this pass
    jobs: int
    file: Path
    left_seconds: float | None = None  # when last forecast
    _at: float = 0.0  # of that, monotonic
    _due: float = 0.0
    _ended: set[str] = field(default_factory=set)
    _in_hand: Counter[str] = field(default_factory=Counter)

    def __enter__(self) -> Remaining:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.unlink(missing_ok=True)

    def found(self, spec: TrialSpec, outcome: Outcome) -> None:
        self._ended.add(spec.trial)

    def finished(self, spec: TrialSpec, outcome: Outcome) -> None:
        self._ended.add(spec.trial)

    def began(self, specs: Sequence[TrialSpec]) -> None:
        self._in_hand.update(spec.trial for spec in specs)

    def left(self, specs: Sequence[TrialSpec]) -> None:
        self._in_hand.subtract(spec.trial for spec in specs)

    def tick(self) -> None:
        begun = time.monotonic()
        if begun < self._due:
            return
        self.left_seconds, self._at = self._forecast(), begun
        in_hand = [name for name, n in self._in_hand.items() if n > 0 and name not in self._ended]
        write_atomically(
            self.file,
            json.dumps(Left(self.left_seconds, time.time(), self.jobs, in_hand)._asdict()) + "\n",
        )
        self._due = time.monotonic() + max(SECONDS, (time.monotonic() - begun) / COST)

    def told(self) -> str:
        """`about 1.7 h left`; "" where nothing is known."""
        return about(self.left_seconds, time.monotonic() - self._at)

    def _forecast(self) -> float | None:
        plan = self.plan
        if any(trial.undecided and name not in self._ended for name, trial in plan.trials.items()):
            plan = expected(self.study, plan, self.store, self.folder)
        chains = {
            name: trial.links for name, trial in plan.trials.items() if name not in self._ended
        }
        known = {
            phase: seconds for phase, seconds in self.timings.known().items() if phase != START
        }  # workers have started
        return forecast(chains, self.store, known, self.jobs, unrecorded) if chains else 0.0


def read_left(file: Path) -> Left | None:
    """What a running study wrote last; None if it has written nothing, or what it wrote is damaged."""
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        left = Left(**found)
        is_whole = (
            isinstance(left.seconds, int | float | None)
            and isinstance(left.at, int | float)
            and isinstance(left.in_hand, list)
        )
    except (*UNREADABLE, TypeError):  # TypeError: not these keys
        return None
    return left if is_whole and isinstance(left.jobs, int) else None


def about(seconds: float | None, since: float) -> str:
    """`about 1.7 h left`, of a forecast made `since` seconds ago; "" where there is none."""
    if seconds is None:
        return ""
    return f"about {duration(max(seconds - since, 0.0))} left" if seconds > since else "nearly done"

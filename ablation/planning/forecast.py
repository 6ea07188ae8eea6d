"""How long a plan will take: its schedule simulated with measured seconds per epoch.

Seconds are measured by listening to a running study: `Listener` is the interface of all that do.
"""

from __future__ import annotations

import hashlib
import heapq
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ablation.planning.plan import Plan, Schedule, Segment, is_there
from ablation.storage.cache import DiskStore
from ablation.storage.files import UNREADABLE
from ablation.storage.runs import Outcome, TrialSpec, write_atomically
from ablation.subject.protocol import LinkLike, Record

START, SEGMENT, CLOSING = "(start)", "(segment)", "(closing)"
"""Keys beside the phases: the overhead of a worker's first segment, and of each later one; what
comes after training, such as the report."""


def forecast(
    chains: Mapping[str, Sequence[LinkLike]],
    store: DiskStore,
    known: Mapping[str, float],
    jobs: int,
    is_running: bool = False,
) -> float | None:
    """Seconds that `jobs` workers will train for; None if no phase of the chains was measured.

    Args:
        chains: of the trials that are left to run
        known: phase -> seconds of an epoch; see `Timings`
        is_running: segments go on after their last record, in the workers that run them; else
            after their last checkpoint
    """
    seconds_of = pace([link for links in chains.values() for link in links], known)
    if seconds_of is None:
        return None
    schedule = Schedule(chains, True, lambda segment: is_there(segment, store))
    kind = "record" if is_running else "state"

    def seconds_left(end: str) -> float:
        return sum(map(seconds_of, _left(schedule.segments[end], store, kind)))

    return makespan(schedule, seconds_left, jobs, known.get(START, 0.0), known.get(SEGMENT, 0.0))


def makespan(
    schedule: Schedule, seconds_of: Callable[[str], float], jobs: int, start: float, between: float
) -> float:
    """When the last segment ends.

    A worker takes `start` seconds before its first segment and `between` before every other. As in
    an execution, a worker is started when there is work for it and none is idle.
    """
    now, n_started = 0.0, 0
    running: list[tuple[float, str]] = []
    while True:
        while len(running) < jobs and (segment := schedule.next()) is not None:
            is_new = len(running) == n_started
            n_started += is_new
            seconds = (start if is_new else between) + seconds_of(segment.end)
            heapq.heappush(running, (now + seconds, segment.end))
        if not running:
            return now
        now, end = heapq.heappop(running)
        schedule.done(end)


def pace(
    links: Collection[LinkLike], known: Mapping[str, float]
) -> Callable[[LinkLike], float] | None:
    """Link -> seconds; None if no phase was measured.

    A phase that was never measured is scaled from those that were, by planned cost.
    """
    measured = {link.phase: link.cost for link in links if link.phase in known}
    if not measured:
        return None
    per_cost = sum(known[phase] for phase in measured) / sum(measured.values())
    return lambda link: known.get(link.phase, link.cost * per_cost)


def _left(segment: Segment, store: DiskStore, kind: str) -> list[LinkLike]:
    """The links after the last of which the store holds this kind of entry."""
    there = (i for i, link in enumerate(segment.links, 1) if store.holds(kind, link.key))
    return segment.links[max(there, default=0) :]


class Listener:
    """Base class of listeners such as tracker and terminal; they override what they need."""

    def found(self, spec: TrialSpec, outcome: Outcome) -> None:
        """A trial had ended before this pass."""

    def resumed(self, spec: TrialSpec, records: Sequence[Record]) -> None:
        """Some epochs of a trial were recorded before this pass."""

    def replanned(self, plan: Plan) -> None:
        """The study's plan has changed: chains have become longer, or trials were added."""

    def began(self, specs: Sequence[TrialSpec]) -> None:
        """A worker has begun a segment of these trials."""

    def left(self, specs: Sequence[TrialSpec]) -> None:
        """A worker has ended a segment of these trials."""

    def recorded(self, specs: Sequence[TrialSpec], record: Record) -> None:
        """An epoch of these trials is finished."""

    def reported(self, specs: Sequence[TrialSpec], record: Record) -> None:
        """Own code has reported an epoch, or more of one; its trial goes on."""

    def ran(self, is_first: bool, seconds: float) -> None:
        """A segment has ended. seconds: its time besides epochs; is_first: of its worker."""

    def finished(self, spec: TrialSpec, outcome: Outcome) -> None:
        """A trial has ended."""

    def stopping(self, n_busy: int) -> None:
        """The study is stopping: `n_busy` workers finish their current epoch."""

    def tick(self) -> None:
        """Called about twice a second."""


class Listeners(Listener):
    """Several listeners as one: each event is passed on to all of them, in their order."""

    def __init__(self, listeners: Sequence[Listener]):
        for event in vars(Listener):
            if not event.startswith("_"):
                calls = [getattr(listener, event) for listener in listeners]
                setattr(self, event, lambda *told, calls=calls: [call(*told) for call in calls])


@dataclass
class Timings(Listener):
    """Mean seconds of an epoch by phase, as the last pass measured them.

    They are remembered for an experiment under exactly these `settings`, and for the experiment
    under any: a first pass with another network or batch size (`-S`) is forecast from other
    settings, the next one from its own. Arms whose epochs differ in cost are averaged; the times
    are those of the number of jobs that they were measured with.
    """

    path: Path
    experiment: str
    # common to all variants
    settings: Mapping[str, Any]
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def recorded(self, specs: Sequence[TrialSpec], record: Record) -> None:
        """Count the seconds of an epoch of this phase."""
        self.seconds.setdefault(record["phase"], []).append(record["seconds"])

    def ran(self, is_first: bool, seconds: float) -> None:
        """Count the seconds that a segment took besides its epochs."""
        self.seconds.setdefault(START if is_first else SEGMENT, []).append(seconds)

    def closed(self, seconds: float) -> None:
        """Count the seconds that a pass took after its last trial had ended."""
        self.seconds.setdefault(CLOSING, []).append(seconds)

    def known(self) -> dict[str, float]:
        """Phase -> mean seconds, of this pass or else of the last one."""
        measured = {phase: sum(s) / len(s) for phase, s in self.seconds.items()}
        remembered = self._remembered()
        return remembered.get(self._exactly, remembered.get(self.experiment, {})) | measured

    def save(self) -> None:
        """Remember what this pass measured, if anything."""
        if self.seconds:
            both = dict.fromkeys([self.experiment, self._exactly], self.known())
            write_atomically(self.path, json.dumps(self._remembered() | both, indent=1) + "\n")

    @property
    def _exactly(self) -> str:
        text = json.dumps(sorted(self.settings.items()), default=str)
        return f"{self.experiment} {hashlib.sha256(text.encode()).hexdigest()[:8]}"

    def _remembered(self) -> dict[str, dict[str, float]]:
        """{} if the file is absent or damaged: it is written again after the next pass."""
        try:
            told = json.loads(self.path.read_bytes())
            return {
                str(name): {str(phase): float(seconds) for phase, seconds in phases.items()}
                for name, phases in told.items()
            }
        except (*UNREADABLE, AttributeError, TypeError):
            return {}

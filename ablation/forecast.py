"""How long a plan will take: its schedule, run through with the seconds that epochs have taken."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Mapping, Sequence

from ablation.forest import Segment
from ablation.schedule import Schedule, is_there
from ablation.store import DiskStore
from ablation.subject import Link
from ablation.timings import SEGMENT, START


Left = Callable[[Segment, DiskStore], list[Link]]


def forecast(
    chains: Mapping[str, Sequence[Link]],
    store: DiskStore,
    known: Mapping[str, float],
    jobs: int,
    left: Left | None = None,
) -> float | None:
    """Seconds that `jobs` workers will train for; None if no phase of the chains was measured.

    Args:
        chains: of the trials that are left to run
        known: phase -> seconds of an epoch; see `Timings`
        left: which links of a segment are still to run; default `to_run`, as where nobody is at it
    """
    seconds_of = pace([link for links in chains.values() for link in links], known)
    if seconds_of is None:
        return None
    schedule = Schedule(chains, True, lambda segment: is_there(segment, store))

    def seconds_left(end: str) -> float:
        return sum(map(seconds_of, (left or to_run)(schedule.segments[end], store)))

    return makespan(schedule, seconds_left, jobs, known.get(START, 0.0), known.get(SEGMENT, 0.0))


def makespan(
    schedule: Schedule, seconds_of: Callable[[str], float], jobs: int, start: float, between: float
) -> float:
    """When the last segment ends, if each worker takes `start` before its first segment and `between` before every other.

    As in an execution, a worker is started when there is work for it and none is idle.
    """
    now, n_started = 0.0, 0
    running: list[tuple[float, str]] = []
    while True:
        while len(running) < jobs and (segment := schedule.next()) is not None:
            is_new = len(running) == n_started
            n_started += is_new
            heapq.heappush(
                running,
                (now + (start if is_new else between) + seconds_of(segment.end), segment.end),
            )
        if not running:
            return now
        now, end = heapq.heappop(running)
        schedule.done(end)


def pace(links: Collection[Link], known: Mapping[str, float]) -> Callable[[Link], float] | None:
    """Link -> seconds; None if no phase was measured.

    A phase that was never measured is scaled from those that were, by planned cost.
    """
    measured = {link.phase: link.cost for link in links if link.phase in known}
    if not measured:
        return None
    per_cost = sum(known[phase] for phase in measured) / sum(measured.values())
    return lambda link: known.get(link.phase, link.cost * per_cost)


def to_run(segment: Segment, store: DiskStore) -> list[Link]:
    """The links after its last checkpoint, from which a worker goes on."""
    done = max(
        (i + 1 for i, link in enumerate(segment.links) if store.holds("state", link.key)), default=0
    )
    return segment.links[done:]


def unrecorded(segment: Segment, store: DiskStore) -> list[Link]:
    """The links after the last that has a record, to which a worker that is at it has come."""
    done = max(
        (i + 1 for i, link in enumerate(segment.links) if store.holds("record", link.key)),
        default=0,
    )
    return segment.links[done:]

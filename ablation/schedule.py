"""Which segment to run next: those whose parent is there, the longest remaining path first."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Mapping, Sequence

from ablation.forest import Segment, segments, separate
from ablation.store import DiskStore
from ablation.subject import Link


class Schedule:
    """The segments of all unfinished trials, handed out one by one.

    Costs O(log n) per segment, so that ten thousand trials are scheduled as fast, each, as ten. When chains
    change (a plateau is reached, a trial fails) a new schedule is made; what still runs then is named in
    `busy`, and segments that overlap it wait until it has ended and yet another schedule is made.
    """

    def __init__(
        self,
        chains: Mapping[str, Sequence[Link]],
        share: bool,
        is_there: Callable[[Segment], bool],
        busy: Collection[str] = (),
    ):
        self.segments = segments(chains) if share else separate(chains)
        self._is_there = is_there
        self._busy = frozenset(
            busy
        )  # keys of links (names of segments, where nothing is shared) that are being run
        self._order = {end: i for i, end in enumerate(self.segments)}
        self._ready: list[tuple[float, int, str]] = []
        self._offered: set[str] = (
            set()
        )  # once: what was there when this was made may be said to be done later, too
        for segment in self.segments.values():
            if segment.parent is None:
                self._offer(segment)

    def next(self) -> Segment | None:
        """The most urgent segment that can run; it is not handed out again. None if all must wait."""
        return self.segments[heapq.heappop(self._ready)[2]] if self._ready else None

    def done(self, end: str) -> None:
        """A segment is there: its children can run."""
        for child in self.segments[end].children:
            self._offer(self.segments[child])

    def _offer(self, segment: Segment) -> None:
        waiting = [segment]
        while waiting:
            segment = waiting.pop()
            if self._is_there(segment):
                waiting += [self.segments[child] for child in segment.children]
            elif segment.end in self._offered:
                continue
            elif segment.end not in self._busy and not any(
                link.key in self._busy for link in segment.links
            ):
                self._offered.add(segment.end)
                heapq.heappush(
                    self._ready, (-segment.critical, self._order[segment.end], segment.end)
                )


def is_there(segment: Segment, store: DiskStore) -> bool:
    """Whether a segment need not run: its records are there, and the checkpoint that its children start from."""
    return has_records(segment, store) and (
        not segment.children or store.holds("state", segment.end)
    )


def has_records(segment: Segment, store: DiskStore) -> bool:
    return all(store.holds("record", link.key) for link in reversed(segment.links))

"""Cut the epochs of all trials into segments where trials diverge; pick the next one to run.

Chains share a prefix exactly where the keys of their links are equal, so nothing but keys is
needed. A segment is what one worker runs in one go; its parent must have run before.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ablation.storage.cache import DiskStore
from ablation.subject.protocol import LinkLike


@dataclass
class Segment:
    """Consecutive links that the same trials pass through."""

    # its name: the key of its last link
    end: str
    links: list[LinkLike]
    # in plan order
    trials: list[str]
    # `end` of the segment before
    parent: str | None
    children: list[str] = field(default_factory=list)
    # cost from its first link to the end of the longest trial through it
    critical: float = 0.0


class Schedule:
    """The segments of unfinished trials, handed out one by one, the longest path first.

    Costs O(log n) per segment. When chains change (a plateau is reached, a trial fails) a new
    schedule is made.

    Args:
        chains: trial -> its links
        share: whether common prefixes are segments of their own; else every trial is one segment
        is_there: whether a segment need not run
        busy: keys of links (names of segments, where nothing is shared) that are being run;
            segments that overlap them are not handed out
    """

    def __init__(
        self,
        chains: Mapping[str, Sequence[LinkLike]],
        share: bool,
        is_there: Callable[[Segment], bool],
        busy: Collection[str] = (),
    ):
        self.segments = segments(chains) if share else separate(chains)
        self._is_there = is_there
        self._busy = frozenset(busy)
        self._order = {end: i for i, end in enumerate(self.segments)}
        self._ready: list[tuple[float, int, str]] = []
        # A segment is offered once: `done` may be called for one that was there when this was made.
        self._offered: set[str] = set()
        self._offer(end for end, segment in self.segments.items() if segment.parent is None)

    def next(self) -> Segment | None:
        """The most urgent segment that can run, once. None if all must wait."""
        return self.segments[heapq.heappop(self._ready)[2]] if self._ready else None

    def done(self, end: str) -> None:
        """A segment is there: its children can run."""
        self._offer(self.segments[end].children)

    def _offer(self, ends: Iterable[str]) -> None:
        waiting = list(ends)
        while waiting:
            segment = self.segments[waiting.pop()]
            if self._is_there(segment):
                waiting += segment.children
            elif segment.end not in self._offered and not self._is_busy(segment):
                self._offered.add(segment.end)
                entry = (-segment.critical, self._order[segment.end], segment.end)
                heapq.heappush(self._ready, entry)

    def _is_busy(self, segment: Segment) -> bool:
        return not self._busy.isdisjoint([segment.end, *(link.key for link in segment.links)])


def segments(chains: Mapping[str, Sequence[LinkLike]]) -> dict[str, Segment]:
    """Trial name -> links, as segments by their `end`; parents before children, in plan order."""
    passing = Counter(link.key for links in chains.values() for link in links)
    found: dict[str, Segment] = {}
    for trial, links in chains.items():
        parent, start = None, 0
        for i, link in enumerate(links):
            is_last = i == len(links) - 1
            if not is_last and passing[links[i + 1].key] == passing[link.key]:
                continue
            if link.key in found:
                found[link.key].trials.append(trial)
            else:
                found[link.key] = Segment(link.key, list(links[start : i + 1]), [trial], parent)
                if parent is not None:
                    found[parent].children.append(link.key)
            parent, start = link.key, i + 1
    # Children stand after their parents.
    for segment in reversed(found.values()):
        after = max((found[child].critical for child in segment.children), default=0.0)
        segment.critical = sum(link.cost for link in segment.links) + after
    return found


def separate(chains: Mapping[str, Sequence[LinkLike]]) -> dict[str, Segment]:
    """Every trial as one segment of its own: nothing is shared."""
    return {
        trial: Segment(trial, list(links), [trial], None, critical=sum(link.cost for link in links))
        for trial, links in chains.items()
    }


def is_there(segment: Segment, store: DiskStore) -> bool:
    """Whether a segment need not run: it has records, and the checkpoint for its children."""
    return has_records(segment, store) and (
        not segment.children or store.holds("state", segment.end)
    )


def has_records(segment: Segment, store: DiskStore) -> bool:
    """Whether every epoch of the segment has a record."""
    return all(store.holds("record", link.key) for link in reversed(segment.links))

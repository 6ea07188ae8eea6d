"""The other hosts of a study, as its execution meets them: who has what in hand, and what is exchanged.

What this host has to give is queued, and given when the database answers; while it does not, segments in hand go on
and no other is begun. Checkpoints of a segment are given when it has ended, and the newest one while it runs, so that
who takes it over goes on from there.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial

from ablation.forest import Segment
from ablation.leases import Heart, Leases
from ablation.runs import Outcome
from ablation.shared_database import StorageUnavailable
from ablation.shared_store import RECORD, STATE, SharedStore
from ablation.subject import Link

LOOK_SECONDS = 1.0  # between looks at what others have done
RETRY_SECONDS = 10.0  # between tries of a database that is out of reach


class Hosts:
    """This host's dealings with the others. Not for several threads.

    records: keys of what others have brought, oldest first; failures: key of a trial -> how it failed elsewhere. Both
    grow with every look, and whoever reads them empties them.
    """

    def __init__(self, store: SharedStore, leases: Leases, say: Callable[[str], None]):
        self.store, self.leases, self._say = store, leases, say
        self.records: list[str] = []
        self.failures: dict[str, Outcome] = {}
        self._in_hand: dict[str, Segment] = {}
        self._left: list[Segment] = []
        self._looked = time.monotonic()
        self._is_out_of_reach = False

    def __enter__(self) -> Hosts:
        self._heart = Heart(self.leases)
        self._heart.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        """Give what there is to give, and let go of everything."""
        self._heart.__exit__()
        self._left += self._in_hand.values()
        self._in_hand.clear()
        with self._reaching():
            self._give()
            self.leases.leave()

    def take(self, segment: Segment) -> bool:
        """Have a segment, unless another host has a part of it. All that others did before is then in the cache."""
        if self._is_out_of_reach:  # only `look` tries again: each try can take long
            return False
        with self._reaching():
            self._give()  # first: what this host has let go of is released, and may be had again
            if not self.leases.take([link.key for link in segment.links]):
                return False
            self._in_hand[segment.end] = segment
            self._pull()
            return True
        self.left(segment)
        return False

    def bring(self, links: Collection[Link]) -> bool:
        """Have the checkpoints that there are of a chain's links in the local cache; False if one was lost on the way."""
        with self._reaching():
            return self.store.fetch([link.key for link in links])
        return False

    def catch_up(self) -> bool:
        """Have all records of the others in the local cache; False if the database is out of reach."""
        with self._reaching():
            self._pull()
            return True
        return False

    def fail(self, segment: Segment, key: str, outcome: Outcome) -> bool:
        """Let a trial have failed for all; False if the segment is another host's by now, or the database out of reach."""
        with self._reaching():
            return self.store.push_failures({key: outcome}, partial(self.leases.owns, [link.key for link in segment.links]))
        return False

    def others(self) -> list[str]:
        """The other living hosts; [] where the database is out of reach."""
        with self._reaching():
            return self.leases.others()
        return []

    def left(self, segment: Segment) -> None:
        """A segment is in this host's hands no more, whether it came to its end or not."""
        if self._in_hand.pop(segment.end, None) is not None:
            self._left.append(segment)

    def look(self) -> set[str] | None:
        """See what others have done, and give what this host has; returns the keys that others have in hand.

        None if it is too early to look again, or the database is out of reach.
        """
        is_due = time.monotonic() - self._looked > (RETRY_SECONDS if self._is_out_of_reach else LOOK_SECONDS)
        if not is_due and (self._is_out_of_reach or not self._left):
            return None
        with self._reaching():
            self._give()
            if not is_due:  # others wait for what has ended, so that is given at once
                return None
            self._looked = time.monotonic()
            for segment in self._in_hand.values():
                self._give_segment(segment)
            held = self.leases.held_elsewhere()  # before the pull: who lets go of something has given all of it before
            self._pull()
            return held
        self._looked = time.monotonic()
        return None

    def offer(self, segments: Collection[Segment]) -> None:
        """Give what the local cache has of these from earlier runs."""
        with self._reaching():
            self.store.push(RECORD, [link.key for segment in segments for link in segment.links])
            for segment in segments:
                self._give_segment(segment)

    def _give(self) -> None:
        if self._left:
            self._pull()  # of two records of a key, that of the others counts: no checkpoint that belongs to another is given
        while self._left:
            self._give_segment(self._left[0])
            self.leases.release([link.key for link in self._left[0].links])
            del self._left[0]

    def _give_segment(self, segment: Segment) -> None:
        """What workers have left of a segment."""
        keys = [link.key for link in segment.links]
        is_here = [self.store.holds_here(STATE, key) for key in keys]
        worth = [keys[i] for i in worth_giving(segment, is_here)]
        self.store.push(RECORD, keys)  # first: a checkpoint is of no use where a record before it is missing
        self.store.push(STATE, worth)
        newest = max((i for i, there in enumerate(is_here) if there), default=0)
        superseded = [key for key in keys[:newest] if key not in worth and self.store.is_shared(STATE, key)]
        if superseded:
            self.store.withdraw(STATE, superseded)

    def _pull(self) -> None:
        news = self.store.pull()
        self.records += news.records
        self.failures |= news.failures

    @contextlib.contextmanager
    def _reaching(self) -> Iterator[None]:
        """Goes on after the block when the database is out of reach, and says so once."""
        try:
            yield
        except StorageUnavailable as error:
            if not self._is_out_of_reach:
                self._say(f"{error}; what is in hand goes on, and the rest waits for it")
            self._is_out_of_reach = True
        else:
            if self._is_out_of_reach:
                self._say("the storage answers again")
            self._is_out_of_reach = False


def worth_giving(segment: Segment, is_here: Sequence[bool]) -> list[int]:
    """Which of a segment's checkpoints others may need, given which there are.

    Those that trials go on from: the last one where trials part, and the last of each phase before; and the newest of a
    segment that has not come to its end.
    """
    last = len(segment.links) - 1
    ends = {i for i in range(last) if segment.links[i + 1].phase != segment.links[i].phase} | ({last} if segment.children else set())
    newest = max((i for i, there in enumerate(is_here) if there), default=None)
    return [i for i, there in enumerate(is_here) if there and (i in ends or (i == newest and i != last))]

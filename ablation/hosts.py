"""The other hosts of a study, as its execution meets them: who has what in hand, and what is exchanged.

What this host has to give is queued, and given when the database answers; while it does not, segments in hand go on
and no other is begun. Checkpoints of a segment are given when it has ended, and the newest one while it runs, so that
who takes it over goes on from there. What a segment has come to counts if it was this host's when it was given: one
that another has taken over meanwhile is lost, and what only this host has of it is forgotten.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from ablation.forest import Segment
from ablation.leases import Heart, Leases
from ablation.runs import Outcome
from ablation.shared_database import StorageUnavailable
from ablation.shared_store import RECORD, STATE, News, SharedStore
from ablation.subject import Link

LOOK_SECONDS = 1.0  # between looks at what others have done
RETRY_SECONDS = 10.0  # between tries of a database that is out of reach


class Left(NamedTuple):
    """A segment that is in this host's hands no more, and how trials failed by it (key -> outcome)."""

    segment: Segment
    failures: Mapping[str, Outcome] = {}
    is_doubted: bool = False  # the failures may be this host's fault: they count if others have met them, or there are no others


class Given(NamedTuple):
    """What became of a segment that was left."""

    segment: Segment
    is_lost: bool  # it was another host's by then, and what this one had done counts for nothing
    has_failed: bool  # the failures count


class Look(NamedTuple):
    """What there is to know of the other hosts, and of what was given to them, since the last look."""

    news: News
    given: list[Given]
    lost: list[Segment]  # in hand, and another host's by now
    held: set[str] | None  # keys that others have in hand; None if it was too early to ask, or the database is out of reach


class Hosts:
    """This host's dealings with the others. Not for several threads."""

    def __init__(self, store: SharedStore, leases: Leases, say: Callable[[str], None]):
        self.store, self.leases, self._say = store, leases, say
        self.is_out_of_reach = False  # the database, when last tried
        self._in_hand: dict[str, Segment] = {}
        self._left: list[Left] = []
        self._look = Look(News([], {}, []), [], [], None)  # what is to be told
        self._lost: set[str] = set()  # ends of segments that were found to be
        self._looked = time.monotonic()

    def __enter__(self) -> Hosts:
        self._heart = Heart(self.leases)
        self._heart.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        """Give what there is to give, and let go of everything."""
        self._heart.__exit__()
        self._left += map(Left, self._in_hand.values())
        self._in_hand.clear()
        with self._reaching():
            self._give()
            self.leases.leave()

    def take(self, segment: Segment) -> News | None:
        """Have a segment, and all that others did before in the cache; returns what that was.

        None if another host has a part of the segment, or the database is out of reach.
        """
        if self.is_out_of_reach:  # only `look` tries again: each try can take long
            return None
        with self._reaching():
            self._give()  # first: what this host has let go of is released, and may be had again
            if not self.leases.take([link.key for link in segment.links]):
                return None
            self._in_hand[segment.end] = segment
            self._pull()
            news, self._look = self._look.news, self._look._replace(news=News([], {}, []))
            return news
        self.left(segment)
        return None

    def bring(self, links: Collection[Link]) -> bool:
        """Have the checkpoints that there are of a chain's links in the local cache; False if one was lost on the way."""
        with self._reaching():
            return self.store.fetch([link.key for link in links])
        return False

    def left(self, segment: Segment, failures: Mapping[str, Outcome] = {}, is_doubted: bool = False) -> None:
        """A segment is in this host's hands no more, whether it came to its end or not. A look tells when it was given."""
        if self._in_hand.pop(segment.end, None) is not None:
            self._left.append(Left(segment, failures, is_doubted))

    def look(self) -> Look:
        """See what others have done, and give what this host has."""
        is_due = time.monotonic() - self._looked > (RETRY_SECONDS if self.is_out_of_reach else LOOK_SECONDS)
        if not is_due and (self.is_out_of_reach or not self._left):
            return self._told()
        held = None
        with self._reaching():
            self._give()
            if is_due:  # what has ended is given at once: others wait for it
                for segment in self._in_hand.values():
                    if segment.end not in self._lost and not self._give_segment(segment):
                        self._lost.add(segment.end)
                        self._look.lost.append(segment)
                held = self.leases.held_elsewhere()  # before the pull: who lets go of something has given all of it before
                self._pull()
        if is_due:
            self._looked = time.monotonic()
        return self._told(None if self.is_out_of_reach else held)

    def offer(self, segments: Collection[Segment]) -> None:
        """Give what the local cache has of these from earlier runs. Raises StorageUnavailable."""
        self.store.push(RECORD, [link.key for segment in segments for link in segment.links])
        for segment in segments:
            self.store.push(STATE, self._worth(segment))

    def _told(self, held: set[str] | None = None) -> Look:
        look, self._look = self._look._replace(held=held), Look(News([], {}, []), [], [], None)
        return look

    def _give(self) -> None:
        while self._left:
            given = self._given(self._left[0])
            keys = [link.key for link in given.segment.links]
            if given.is_lost:
                self._pull()
                self.store.forsake(keys, (RECORD, STATE))
            self.leases.release(keys)
            self._lost.discard(given.segment.end)
            self._look.given.append(given)
            del self._left[0]

    def _given(self, left: Left) -> Given:
        counts = not left.is_doubted or self.store.doubt(left.failures.keys(), self.leases.host) or not self.leases.others()
        is_ours = left.segment.end not in self._lost and self._give_segment(left.segment, left.failures if counts else {}, whole=True)
        return Given(left.segment, not is_ours, is_ours and counts and bool(left.failures))

    def _give_segment(self, segment: Segment, failures: Mapping[str, Outcome] = {}, whole: bool = False) -> bool:
        """What workers have left of a segment; returns whether it is still this host's.

        whole: records that were there before are compared, too: a link may have been run again for its checkpoint.
        """
        keys, worth = [link.key for link in segment.links], self._worth(segment)
        records = [key for key in keys if whole or not self.store.is_shared(RECORD, key)]
        if not self.store.hand_in(records, worth, failures, partial(self.leases.has, keys=keys)):
            return False
        newest = max((i for i, key in enumerate(keys) if self.store.holds_here(STATE, key)), default=0)
        superseded = [key for key in keys[:newest] if key not in worth and self.store.is_shared(STATE, key)]
        if superseded:
            self.store.withdraw(STATE, superseded)
        return True

    def _worth(self, segment: Segment) -> list[str]:
        keys = [link.key for link in segment.links]
        return [keys[i] for i in worth_giving(segment, [self.store.holds_here(STATE, key) for key in keys])]

    def _pull(self) -> None:
        news = self.store.pull()
        self._look.news.records.extend(news.records)
        self._look.news.failures.update(news.failures)
        self._look.news.replaced.extend(news.replaced)

    @contextlib.contextmanager
    def _reaching(self) -> Iterator[None]:
        """Goes on after the block when the database is out of reach, and says so once."""
        try:
            yield
        except StorageUnavailable as error:
            if not self.is_out_of_reach:
                self._say(f"{error}; what is in hand goes on, and the rest waits for it")
            self.is_out_of_reach = True
        else:
            if self.is_out_of_reach:
                self._say("the storage answers again")
            self.is_out_of_reach = False


def worth_giving(segment: Segment, is_here: Sequence[bool]) -> list[int]:
    """Which of a segment's checkpoints others may need, given which there are.

    Those that trials go on from: the last one where trials part, and the last of each phase before; and the newest of a
    segment that has not come to its end.
    """
    last = len(segment.links) - 1
    ends = {i for i in range(last) if segment.links[i + 1].phase != segment.links[i].phase} | ({last} if segment.children else set())
    newest = max((i for i, there in enumerate(is_here) if there), default=None)
    return [i for i, there in enumerate(is_here) if there and (i in ends or (i == newest and i != last))]

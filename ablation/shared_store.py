"""The cache of a host that shares a study with others: the one on disk, and what all have in the database.

Records (which all hosts have of all trials), failures of trials, and the checkpoints that segments start from.
Entries travel sealed, as they stand in the cache, so that their checksums are of what was computed. Of two records of
one key, the one that was first in the database is the study's: whoever has another takes it, so all reports are the same.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import Engine

from ablation.damage import checked, say
from ablation.runs import Outcome
from ablation.shared_entries import ARRIVING, Entries, Fence, always, batches
from ablation.store import HEADER, DiskStore
from ablation.subject import Link

RECORD, STATE, FAILURE, MARK = "record", "state", "failure", "mark"
DOUBT = "doubt"  # a trial failed on a host that had nothing to show that the fault is not its own; holds the host's name
MAX_STATE_BYTES = 1 << 28  # of a checkpoint that travels; a larger one is computed again by whoever needs it


class News(NamedTuple):
    """What other hosts have brought since one last looked."""

    records: list[str]  # keys of records that were not in the local cache, oldest first
    failures: dict[str, Outcome]  # key of a trial -> how it failed
    replaced: list[str]  # keys of records of which the local cache had others until now


class SharedStore(DiskStore):
    """A `DiskStore` whose checkpoints may also be in the database.

    Not for several threads. What the database does can raise StorageUnavailable; nothing is lost or half done then,
    and the same call again goes on. Worker processes use the cache on disk alone: see `pull` and `fetch`.
    """

    def __init__(self, root: Path, engine: Engine, study: str):
        super().__init__(root)
        self.entries = Entries(engine, study)
        self._seen = ARRIVING  # number of the last change that was pulled
        self._news = News([], {}, [])  # of a pull that did not come to its end
        self._replaced: set[str] = set()  # keys whose record here was another: so a checkpoint here may be of that
        self._there: dict[str, set[str]] = {kind: set() for kind in (RECORD, STATE, FAILURE, MARK, DOUBT)}

    def holds(self, kind: str, key: str) -> bool:
        return self.holds_here(kind, key) or (kind == STATE and key in self._there[STATE])

    def holds_here(self, kind: str, key: str) -> bool:
        """Whether the local cache has it."""
        return super().holds(kind, key)

    def is_shared(self, kind: str, key: str) -> bool:
        """Whether the database has it, as far as this host knows."""
        return key in self._there[kind]

    def pull(self) -> News:
        """Bring the others' records into the local cache, and learn which checkpoints and failures there are."""
        damaged, last = [], self._seen
        for kind, key, last, data in self.entries.changes(self._seen, without=STATE):
            is_new = key not in self._there[kind]
            if kind == FAILURE and is_new and (failure := _failure(key, data)) is not None:
                self._news.failures[key] = failure
            elif kind == RECORD and is_new and not self._receive(key, data, self._news):
                damaged.append(key)
            self._there[kind].add(key)
        news, self._news, self._seen = self._news, News([], {}, []), last
        self.forsake(news.replaced)
        if damaged:
            self.withdraw(RECORD, damaged)
        return news

    def push(self, kind: str, keys: Iterable[str]) -> None:
        """Give the others what the local cache has of these keys and the database has not.

        A record of which they have another is replaced by theirs, and its checkpoint goes unless it is theirs.
        """
        missing = [key for key in dict.fromkeys(keys) if key not in self._there[kind]]
        if kind == RECORD:
            self._add_records(missing, always, self._news)
            self.forsake(self._news.replaced)
        else:
            self._add_states([key for key in missing if key not in self._replaced], always)

    def hand_in(self, records: Sequence[str], states: Sequence[str], failures: Mapping[str, Outcome], fence: Fence) -> bool:
        """Give the others a segment's records, then its checkpoints, then how trials failed by it (key -> outcome).

        Each only while the fence says that the segment is this host's, in the transaction that gives it; returns whether
        it was. A record of which they have another is replaced by theirs; its checkpoint stays, as nobody else makes one.
        """
        return (
            self._add_records(records, fence, News([], {}, []))
            and self._add_states([key for key in states if key not in self._there[STATE]], fence)
            and self._add(FAILURE, [(key, json.dumps(asdict(outcome)).encode()) for key, outcome in failures.items()], fence) is not None
        )

    def push_failures(self, failures: Mapping[str, Outcome]) -> None:
        """Key of a trial -> how it failed."""
        self.hand_in([], [], failures, always)

    def mark(self, name: str) -> None:
        """Leave a mark for the others."""
        self._add(MARK, [(name, b"")])

    def doubt(self, keys: Collection[str], host: str) -> bool:
        """Note that these trials failed on a host, maybe by its own fault; whether all of them had on another before."""
        self._add(DOUBT, [(key, host.encode()) for key in keys])
        return host.encode() not in self.entries.read(DOUBT, keys).values()

    def fetch(self, keys: Iterable[str]) -> bool:
        """Bring those checkpoints of these that are shared into the local cache, in the place of others that it has.

        False if one of them is no longer whole.
        """
        shared, gone = [key for key in keys if key in self._there[STATE]], []
        seals = self.entries.seals(STATE, shared)
        for key in shared:
            mine = self._seal(STATE, key)
            if mine is not None and seals.get(key, mine) == mine:  # of one that was withdrawn, ours will do
                continue
            data = self.entries.read(STATE, [key]).get(key)
            if data is None or not self.adopt(STATE, key, data):
                gone.append(key)
        if gone:
            self.withdraw(STATE, gone)
        return all(self.holds_here(STATE, key) for key in gone)

    def forsake(self, keys: Iterable[str], kinds: Collection[str] = (STATE,)) -> None:
        """Remove what the local cache has of these keys and the database has not."""
        for key in keys:
            for kind in kinds:
                if key not in self._there[kind]:
                    self.path(kind, key).unlink(missing_ok=True)

    def forsake_after(self, keys: Collection[str], chains: Mapping[str, Sequence[Link]]) -> list[str]:
        """Remove the checkpoints from these links on that are this host's alone: they follow from records that count no more.

        Returns the trials whose chains pass through one of them.
        """
        passing, changed = [], frozenset(keys)
        for trial, links in chains.items() if changed else ():
            first = next((i for i, link in enumerate(links) if link.key in changed), None)
            if first is not None:
                self.forsake(link.key for link in links[first:])
                passing.append(trial)
        return passing

    def withdraw(self, kind: str, keys: Collection[str] | None = None) -> None:
        """Remove these from the database (default: all of the kind); the local cache keeps them."""
        self._there[kind] -= self._there[kind] if keys is None else set(keys)
        self.entries.remove(kind, keys)

    def _receive(self, key: str, sealed: bytes, news: News) -> bool:
        """Let the record that all share be this host's too; False, and nothing is done, if it was damaged on the way."""
        mine = self.sealed(RECORD, key)
        if mine == sealed:
            return True
        is_whole = self.adopt(RECORD, key, sealed)
        if is_whole and mine is None:
            news.records.append(key)
        elif is_whole:
            news.replaced.append(key)
            self._replaced.add(key)
        return is_whole

    def _add(self, kind: str, rows: Sequence[tuple[str, bytes]], fence: Fence = always) -> set[str] | None:
        before = self.entries.add(kind, rows, fence)
        if before is not None:
            self._there[kind].update(key for key, _ in rows)
        return before

    def _add_records(self, keys: Sequence[str], fence: Fence, news: News) -> bool:
        for some in batches(keys):
            rows = {key: data for key in some if (data := self.sealed(RECORD, key)) is not None}
            before = self._add(RECORD, list(rows.items()), fence)
            if before is None:
                return False
            seals = self.entries.seals(RECORD, before)
            others = self.entries.read(RECORD, [key for key, seal in seals.items() if seal != rows[key][: HEADER.size]])
            damaged = [key for key, data in others.items() if not self._receive(key, data, news)]
            if damaged:
                self.withdraw(RECORD, damaged)
        return True

    def _add_states(self, keys: Iterable[str], fence: Fence) -> bool:
        for key in keys:
            data = self._to_travel(key)
            if data is not None:
                if not self.entries.add_large(STATE, key, data, fence):
                    return False
                self._there[STATE].add(key)
        return True

    def _to_travel(self, key: str) -> bytes | None:
        """A checkpoint as it goes to the database; None if there is none, or it is too large."""
        try:
            n_bytes = self.path(STATE, key).stat().st_size  # first: one that is too large would be read at every look
        except OSError:
            return None
        if n_bytes > MAX_STATE_BYTES:
            say(f"{self.path(STATE, key)} has {n_bytes >> 20} MiB, too many for the storage; hosts that need it compute it again")
            return None
        return self.sealed(STATE, key)

    def _seal(self, kind: str, key: str) -> bytes | None:
        """The header of an entry of the local cache."""
        try:
            with self.path(kind, key).open("rb") as file:
                return file.read(HEADER.size)
        except OSError:
            return None


def _failure(key: str, data: bytes) -> Outcome | None:
    """How a trial has failed elsewhere; None, and it is said, if what is there does not tell."""
    try:
        outcome = Outcome(**checked(Outcome, json.loads(data)))
        if outcome.state != "FAILED" or not {"type", "message", "traceback"} <= (outcome.error or {}).keys():
            raise ValueError("it is of no failure")
    except (ValueError, RecursionError) as error:
        say(f"the failure of trial {key} in the storage is damaged ({error}), and is passed over")
        return None
    return outcome

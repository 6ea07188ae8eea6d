"""The cache of a host that shares a study with others: the one on disk, and what all have in the database.

Records (which all hosts have of all trials), failures of trials, and the checkpoints that segments start from.
Entries travel sealed, as they stand in the cache, so that their checksums are of what was computed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import Connection, Engine, case, null, select

from ablation.damage import checked, say
from ablation.runs import Outcome
from ablation.shared_database import ENTRIES, changing, reaching_storage
from ablation.store import DiskStore, remove

RECORD, STATE, FAILURE, MARK = "record", "state", "failure", "mark"
MAX_STATE_BYTES = 1 << 28  # of a checkpoint that travels; a larger one is computed again by whoever needs it
BATCH = 500  # rows of a query


class News(NamedTuple):
    """What other hosts have brought since one last looked."""

    records: list[str]  # keys of records that were not in the local cache, oldest first
    failures: dict[str, Outcome]  # key of a trial -> how it failed


class SharedStore(DiskStore):
    """A `DiskStore` whose checkpoints may also be in the database.

    Not for several threads. What the database does can raise StorageUnavailable; nothing is lost or half done then,
    and the same call again goes on. Worker processes use the cache on disk alone: see `pull` and `fetch`.
    """

    def __init__(self, root: Path, engine: Engine, study: str):
        super().__init__(root)
        self.engine, self.study = engine, study
        self._url = engine.url.render_as_string(hide_password=True)
        self._mine = ENTRIES.c.study == study
        self._seen = 0  # number of the last change that was pulled
        self._news = News([], {})  # of a pull that did not come to its end
        self._too_large: set[str] = set()
        self._there: dict[str, set[str]] = {RECORD: set(), STATE: set(), FAILURE: set(), MARK: set()}

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
        content = case((ENTRIES.c.kind == STATE, null()), else_=ENTRIES.c.data)
        query = select(ENTRIES.c.kind, ENTRIES.c.key, ENTRIES.c.sequence, content).where(self._mine, ENTRIES.c.sequence > self._seen)
        with reaching_storage(self._url), self.engine.connect() as connection:
            for kind, key, last, data in connection.execution_options(yield_per=BATCH).execute(query.order_by(ENTRIES.c.sequence)):
                is_new = key not in self._there[kind]
                if kind == FAILURE and is_new:
                    self._news.failures[key] = Outcome(**checked(Outcome, json.loads(data)))
                elif kind == RECORD and is_new:
                    self._take_over(key, data, damaged)
                self._there[kind].add(key)
        news, self._news, self._seen = self._news, News([], {}), last
        if damaged:
            self.withdraw(RECORD, damaged)
        return news

    def _take_over(self, key: str, sealed: bytes, damaged: list[str]) -> None:
        """A record that was not known to be in the database. It counts also where this host has another, whose checkpoint then goes."""
        own = self.sealed(RECORD, key)
        if own == sealed:
            return
        if not self.adopt(RECORD, key, sealed):
            damaged.append(key)
        elif own is None:
            self._news.records.append(key)
        else:
            remove(self.path(STATE, key))

    def push(self, kind: str, keys: Iterable[str]) -> None:
        """Give the others what the local cache has of these keys and the database has not."""
        missing = [key for key in dict.fromkeys(keys) if key not in self._there[kind] and key not in self._too_large]
        for some in _batches(missing, BATCH if kind == RECORD else 1):
            self._insert(kind, [(key, data) for key in some if (data := self._to_travel(kind, key)) is not None])

    def push_failures(self, failures: dict[str, Outcome], fence: Callable[[Connection], bool] = lambda connection: True) -> bool:
        """Key of a trial -> how it failed. Nothing is given, and False returned, if `fence` says no in the same transaction."""
        return self._insert(FAILURE, [(key, json.dumps(asdict(outcome)).encode()) for key, outcome in failures.items()], fence)

    def mark(self, name: str) -> None:
        """Leave a mark for the others."""
        self._insert(MARK, [(name, b"")])

    def fetch(self, keys: Iterable[str]) -> bool:
        """Bring those checkpoints of these into the local cache which it lacks; False if one of them is no longer whole."""
        missing = [key for key in keys if key in self._there[STATE] and not self.holds_here(STATE, key)]
        lost = []
        for key in missing:
            query = select(ENTRIES.c.data).where(self._mine, ENTRIES.c.kind == STATE, ENTRIES.c.key == key)
            with reaching_storage(self._url), self.engine.connect() as connection:
                data = connection.execute(query).scalar_one_or_none()
            if data is None or not self.adopt(STATE, key, data):
                lost.append(key)
        if lost:
            self.withdraw(STATE, lost)
        return not lost

    def withdraw(self, kind: str, keys: Collection[str] | None = None) -> None:
        """Remove these from the database (default: all of the kind); the local cache keeps them."""
        self._there[kind] -= self._there[kind] if keys is None else set(keys)
        which = [None] if keys is None else list(_batches(list(keys), BATCH))
        for some in which:
            among = () if some is None else (ENTRIES.c.key.in_(some),)
            with reaching_storage(self._url), changing(self.engine, self.study) as (connection, _):
                connection.execute(ENTRIES.delete().where(self._mine, ENTRIES.c.kind == kind, *among))

    def _to_travel(self, kind: str, key: str) -> bytes | None:
        path = self.path(kind, key)
        n_bytes = path.stat().st_size if path.is_file() else 0
        if n_bytes > MAX_STATE_BYTES:
            say(f"{path} has {n_bytes >> 20} MiB, too many for the storage; hosts that need it compute it again")
            self._too_large.add(key)
            return None
        return self.sealed(kind, key)

    def _insert(self, kind: str, rows: Sequence[tuple[str, bytes]], fence: Callable[[Connection], bool] = lambda connection: True) -> bool:
        """Add rows that are not there; whoever was first is right. False if the fence says that nothing may be added."""
        if not rows:
            return True
        with reaching_storage(self._url), changing(self.engine, self.study) as (connection, sequence):
            if not fence(connection):
                return False
            known = select(ENTRIES.c.key).where(self._mine, ENTRIES.c.kind == kind, ENTRIES.c.key.in_([key for key, _ in rows]))
            there = set(connection.execute(known).scalars())
            added = [
                {"study": self.study, "kind": kind, "key": key, "sequence": sequence, "data": data} for key, data in rows if key not in there
            ]
            if added:
                connection.execute(ENTRIES.insert(), added)
        self._there[kind].update(key for key, _ in rows)
        return True


def _batches(keys: Sequence[str], n: int) -> Iterator[Sequence[str]]:
    return (keys[i : i + n] for i in range(0, len(keys), n))



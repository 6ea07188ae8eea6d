"""The entries of a study in the database that its hosts share: rows of a kind and a key, numbered as they are committed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Sequence

from sqlalchemy import ColumnElement, Connection, Engine, LargeBinary, and_, case, func, null, select
from sqlalchemy.exc import IntegrityError

from ablation.shared_database import ENTRIES, changing, reaching_storage
from ablation.store import HEADER

Fence = Callable[[Connection], bool]  # asked in the transaction of a change, whether it may still be made
BATCH = 500  # rows of a query
ARRIVING = 0  # number of an entry whose bytes are still coming, which nobody sees


def always(connection: Connection) -> bool:
    return True


class Entries:
    """Every method can raise StorageUnavailable; the same call again goes on. Who was first with a key is right."""

    def __init__(self, engine: Engine, study: str):
        self.engine, self.study = engine, study
        self._url = engine.url.render_as_string(hide_password=True)
        self._mine = ENTRIES.c.study == study

    def changes(self, since: int, without: str) -> Iterator[tuple[str, str, int, bytes | None]]:
        """(kind, key, number, data) of what came after number `since`, oldest first; None for the data of the kind `without`."""
        content = case((ENTRIES.c.kind == without, null()), else_=ENTRIES.c.data)
        query = select(ENTRIES.c.kind, ENTRIES.c.key, ENTRIES.c.sequence, content).where(self._mine, ENTRIES.c.sequence > since)
        with reaching_storage(self._url), self.engine.connect() as connection:
            yield from connection.execution_options(yield_per=BATCH).execute(query.order_by(ENTRIES.c.sequence))

    def add(self, kind: str, rows: Sequence[tuple[str, bytes]], fence: Fence = always) -> set[str] | None:
        """Add those (key, data) that are not there; returns the keys that were. None, and nothing is added, if the fence says no."""
        if not rows:
            return set()
        with reaching_storage(self._url), changing(self.engine, self.study) as (connection, number):
            if not fence(connection):
                return None
            before = set(connection.execute(select(ENTRIES.c.key).where(self._of(kind, [key for key, _ in rows]))).scalars())
            added = [self._row(kind, key, number, data) for key, data in rows if key not in before]
            if added:
                connection.execute(ENTRIES.insert(), added)
        return before

    def add_large(self, kind: str, key: str, data: bytes, fence: Fence = always) -> bool:
        """The same of one whose bytes take their time: no other host waits for them. Returns what the fence says."""
        arriving = and_(self._of(kind, [key]), ENTRIES.c.sequence == ARRIVING)
        with reaching_storage(self._url):
            with contextlib.suppress(IntegrityError), self.engine.begin() as connection:  # it is there, or another brings it
                connection.execute(ENTRIES.delete().where(arriving))  # of a host that was lost at it
                connection.execute(ENTRIES.insert().values(**self._row(kind, key, ARRIVING, data)))
            with changing(self.engine, self.study) as (connection, number):
                is_ours = fence(connection)
                connection.execute(ENTRIES.update().where(arriving).values(sequence=number) if is_ours else ENTRIES.delete().where(arriving))
        return is_ours

    def read(self, kind: str, keys: Collection[str]) -> dict[str, bytes]:
        """Those of these that are there."""
        return self._read(ENTRIES.c.data, kind, keys)

    def seals(self, kind: str, keys: Collection[str]) -> dict[str, bytes]:
        """The headers of those of these entries of a cache that are there: where they are equal, all is."""
        return self._read(func.substr(ENTRIES.c.data, 1, HEADER.size, type_=LargeBinary), kind, keys)

    def remove(self, kind: str, keys: Collection[str] | None = None) -> None:
        """Remove these; by default, all of the kind."""
        for which in [and_(self._mine, ENTRIES.c.kind == kind)] if keys is None else [self._of(kind, some) for some in batches(list(keys))]:
            with reaching_storage(self._url), changing(self.engine, self.study) as (connection, _):
                connection.execute(ENTRIES.delete().where(which))

    def _read(self, column: ColumnElement[bytes], kind: str, keys: Collection[str]) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        for some in batches(list(keys)):
            query = select(ENTRIES.c.key, column).where(self._of(kind, some), ENTRIES.c.sequence > ARRIVING)
            with reaching_storage(self._url), self.engine.connect() as connection:
                found |= {key: data for key, data in connection.execute(query)}
        return found

    def _of(self, kind: str, keys: Collection[str]) -> ColumnElement[bool]:
        return and_(self._mine, ENTRIES.c.kind == kind, ENTRIES.c.key.in_(keys))

    def _row(self, kind: str, key: str, number: int, data: bytes) -> dict[str, object]:
        return {"study": self.study, "kind": kind, "key": key, "sequence": number, "data": data}


def batches(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    return (keys[i : i + BATCH] for i in range(0, len(keys), BATCH))

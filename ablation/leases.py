"""Leases: which host of a study has which links in hand, kept in the database that they share.

A lease is on the keys of a segment's links, not on its name: hosts may cut the same chains differently for a
moment, since one hears sooner than another that a trial has failed. It holds for as long as its host beats; the
time is the database's, so that no host's clock matters.
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
from collections.abc import Collection
from typing import Any

import sqlalchemy
from sqlalchemy import Engine, and_, func, select

from ablation.shared_database import HOSTS, LEASES, StorageUnavailable, changing, reaching_storage

TIMEOUT_SECONDS = 60.0
BEATS = 8  # within the timeout: so many may be missed
FORGET = 10  # timeouts after which a host that is gone is forgotten


def this_host() -> str:
    """A name that no other process has, now or later."""
    return f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"


class Leases:
    """The leases of one host on one study. Every method is one transaction, and can raise StorageUnavailable.

    `beat` may be called by another thread. Of several hosts that `take` a key at once, one gets it. A host whose beat is
    older than `timeout` (seconds; the same on every host, or each judges the others by its own) may lose its keys to
    others, and does no harm if it goes on: equal keys mean equal results.
    """

    def __init__(self, engine: Engine, study: str, host: str, timeout: float = TIMEOUT_SECONDS):
        self.engine, self.study, self.host, self.timeout = engine, study, host, timeout
        self._url = engine.url.render_as_string(hide_password=True)

    def beat(self) -> None:
        """Say that this host is alive."""
        with reaching_storage(self._url), self.engine.begin() as connection:
            self._beat(connection)

    def take(self, keys: Collection[str]) -> bool:
        """Have all of these keys, which no living host has; False, and none is taken, if one of them is another's."""
        with reaching_storage(self._url), changing(self.engine, self.study) as (connection, _):
            self._beat(connection)
            wanted = and_(LEASES.c.study == self.study, LEASES.c.key.in_(keys))
            if connection.execute(self._of_others().where(wanted).limit(1)).first() is not None:
                return False
            connection.execute(LEASES.delete().where(wanted))
            connection.execute(LEASES.insert(), [{"study": self.study, "key": key, "host": self.host} for key in keys])
            return True

    def release(self, keys: Collection[str]) -> None:
        """Let go of what this host has of these keys."""
        with reaching_storage(self._url), changing(self.engine, self.study) as (connection, _):
            mine = and_(LEASES.c.study == self.study, LEASES.c.host == self.host)
            connection.execute(LEASES.delete().where(mine, LEASES.c.key.in_(keys)))

    def owns(self, keys: Collection[str], connection: sqlalchemy.Connection) -> bool:
        """Whether all of these are still this host's, and stay so until the transaction ends if it is one of `changing`."""
        mine = and_(LEASES.c.study == self.study, LEASES.c.host == self.host, LEASES.c.key.in_(keys))
        return connection.execute(select(func.count()).select_from(LEASES).where(mine)).scalar_one() == len(set(keys))

    def held_elsewhere(self) -> set[str]:
        """The keys that other living hosts have."""
        with reaching_storage(self._url), self.engine.connect() as connection:
            return set(connection.execute(self._of_others()).scalars())

    def others(self) -> list[str]:
        """The other living hosts of the study."""
        with reaching_storage(self._url), self.engine.connect() as connection:
            living = and_(HOSTS.c.study == self.study, HOSTS.c.host != self.host, self._is_alive())
            return list(connection.execute(select(HOSTS.c.host).where(living).order_by(HOSTS.c.host)).scalars())

    def leave(self) -> None:
        """Let go of everything; the host lives no more."""
        with reaching_storage(self._url), changing(self.engine, self.study) as (connection, _):
            connection.execute(LEASES.delete().where(LEASES.c.host == self.host))
            connection.execute(HOSTS.delete().where(HOSTS.c.host == self.host))
            gone = select(HOSTS.c.host).where(HOSTS.c.study == self.study, HOSTS.c.beat < self._now() - FORGET * self.timeout)
            connection.execute(LEASES.delete().where(LEASES.c.host.in_(gone)))
            connection.execute(HOSTS.delete().where(HOSTS.c.host.in_(gone)))

    def _beat(self, connection: sqlalchemy.Connection) -> None:
        if not connection.execute(HOSTS.update().where(HOSTS.c.host == self.host).values(beat=self._now())).rowcount:
            connection.execute(HOSTS.insert().values(host=self.host, study=self.study, beat=self._now()))

    def _of_others(self) -> sqlalchemy.Select:
        owned = LEASES.join(HOSTS, HOSTS.c.host == LEASES.c.host)
        others = and_(LEASES.c.study == self.study, LEASES.c.host != self.host, self._is_alive())
        return select(LEASES.c.key).select_from(owned).where(others)

    def _is_alive(self) -> sqlalchemy.ColumnElement[bool]:
        return HOSTS.c.beat > self._now() - self.timeout

    def _now(self) -> Any:
        """Seconds since 1970 by the database's clock."""
        if self.engine.dialect.name == "sqlite":
            return (func.julianday("now") - 2440587.5) * 86400.0
        return func.extract("epoch", func.clock_timestamp())


class Heart:
    """Beats for a host, in a thread of its own, while the study runs. A database out of reach is tried again."""

    def __init__(self, leases: Leases):
        self._leases, self._stopped = leases, threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> Heart:
        self._leases.beat()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(self._leases.timeout / BEATS):
            try:
                self._leases.beat()
            except StorageUnavailable:  # the study's own thread says so
                pass

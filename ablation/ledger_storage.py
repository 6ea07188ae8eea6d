"""Optuna's database as the ledger uses it: opened for several processes, a file of the project or a team's PostgreSQL."""

from __future__ import annotations

import importlib.util
from typing import Any

import optuna
import sqlalchemy
from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import ArgumentError

from ablation.database import let_several_write, making, require_usable
from ablation.errors import InputError, Problem
from ablation.redaction import redacted

OPTION = "--storage"
DRIVERS = ("psycopg", "psycopg2")  # of PostgreSQL, the better one first
SQLITE_TIMEOUT_SECONDS = 60
CONNECTING = {  # seconds, but for the last (milliseconds): a network that is cut is noticed, and not waited for
    "connect_timeout": 10, "keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3, "tcp_user_timeout": 30_000,
}  # fmt: skip


class Storage(optuna.storages.RDBStorage):
    """One that can be closed."""

    def close(self) -> None:
        self.remove_session()
        self.engine.dispose()


def storage_url(text: str) -> str:
    """The URL of a team's database, with the driver that is installed. Raises InputError if it is none."""
    try:
        url = sqlalchemy.make_url(text)
    except (ArgumentError, ValueError):  # whose text holds the URL, or a part of the password
        raise InputError(
            [
                Problem(
                    OPTION,
                    redacted(text),
                    "is no database URL; write postgresql://user@host/database",
                )
            ]
        ) from None
    if "@" in f"{url.host}{url.database}":
        raise InputError(
            [
                Problem(
                    OPTION,
                    redacted(text),
                    "special characters in a password are written as %40 (@), %2F (/) and so on",
                )
            ]
        )
    if url.get_backend_name() == "sqlite" and url.database not in (None, "", ":memory:"):
        return text
    if url.get_backend_name() not in ("postgresql", "postgres"):
        message = "must be postgresql://user@host/database (or sqlite:///file, for processes of one machine)"
        raise InputError([Problem(OPTION, redacted(text), message)])
    if "+" not in url.drivername:
        driver = next((name for name in DRIVERS if importlib.util.find_spec(name)), None)
        if driver is None:
            raise InputError(
                [
                    Problem(
                        OPTION,
                        redacted(text),
                        "needs a driver for PostgreSQL: pip install 'ablate-lt[postgres]'",
                    )
                ]
            )
        url = url.set(drivername=f"postgresql+{driver}")
    return url.render_as_string(hide_password=False)


def open_storage(url: str) -> Storage:
    """The storage at `url`; on SQLite, one that several processes can write to."""
    require_usable(url)
    address = sqlalchemy.make_url(url)
    if address.get_backend_name() != "sqlite":
        return _storage(url)
    with making(url):
        storage = _storage(url, engine_kwargs={"connect_args": {"timeout": SQLITE_TIMEOUT_SECONDS}})
    let_several_write(storage.engine)
    storage.engine.dispose()  # the constructor has opened connections without these
    return storage


def _storage(url: str, **options: Any) -> Storage:
    if url.startswith("postgresql"):
        options["engine_kwargs"] = {"pool_pre_ping": True, "connect_args": CONNECTING}
    try:
        return Storage(url, **options)
    except RuntimeError as error:  # another version of Optuna has made the tables
        raise StorageInternalError(str(error)) from None

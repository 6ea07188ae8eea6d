"""Optuna's database as the ledger uses it: a file of the project, or a team's PostgreSQL."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import optuna
import sqlalchemy
from filelock import FileLock, Timeout
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from ablation.errors import InputError, Problem, Unavailable
from ablation.redaction import redacted
from ablation.storage.sqlite import first_line, making, require_usable, sqlite_file

OPTION = "--storage"
# drivers for PostgreSQL, the better one first
DRIVERS = ("psycopg", "psycopg2")
SQLITE_TIMEOUT_SECONDS = 60
# how long to wait for another process that holds the ledger
PATIENCE_SECONDS = 60.0
# A network that is cut is noticed, and not waited for. Seconds, but for the last: milliseconds.
CONNECTING = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
# ImportError: no driver for the database.
UNREACHABLE = (SQLAlchemyError, StorageInternalError, OSError, ImportError)


class LedgerUnavailable(Unavailable):
    """Optuna's database cannot be opened, read or written."""

    def __init__(self, url: str, error: BaseException):
        # Optuna says only that something was raised
        cause = first_line(error.__cause__ or error)
        super().__init__(
            f"Optuna's ledger at {redacted(url)} is not available: {redacted(cause, url)}"
        )


def storage_url(text: str) -> str:
    """The URL of a team's database, with the driver that is installed.

    Raises InputError if it is none.
    """
    try:
        url = sqlalchemy.make_url(text)
    except (ArgumentError, ValueError):
        # the error is not shown: its text holds the URL, or a part of the password
        raise _refusal(text, "is no database URL; write postgresql://user@host/database") from None
    if "@" in f"{url.host}{url.database}":
        raise _refusal(
            text,
            "special characters in a password are written as %40 (@), %2F (/) and so on",
        )
    if url.get_backend_name() == "sqlite" and url.database not in (None, "", ":memory:"):
        return text
    if url.get_backend_name() not in ("postgresql", "postgres"):
        raise _refusal(
            text,
            "must be postgresql://user@host/database "
            "(or sqlite:///file, for processes of one machine)",
        )
    if "+" not in url.drivername:
        driver = next((name for name in DRIVERS if importlib.util.find_spec(name)), None)
        if driver is None:
            raise _refusal(text, "needs a driver for PostgreSQL: pip install 'ablate-lt[postgres]'")
        url = url.set(drivername=f"postgresql+{driver}")
    return url.render_as_string(hide_password=False)


def _refusal(text: str, message: str) -> InputError:
    return InputError([Problem(OPTION, redacted(text), message)])


@contextmanager
def opened(url: str) -> Iterator[RDBStorage]:
    """The storage at `url`; a file is held for this process.

    Raises LedgerUnavailable, whatever the database raises, here or inside the `with`.
    """
    try:
        with ExitStack() as stack:
            path = sqlite_file(url)
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                lock = FileLock(path.with_name(f"{path.name}.lock"), timeout=PATIENCE_SECONDS)
                try:
                    stack.enter_context(lock)
                except Timeout:
                    raise OSError("another process is writing to it") from None
            require_usable(url)
            storage = _open(url)
            stack.callback(storage.engine.dispose)
            stack.callback(storage.remove_session)
            yield storage
    except UNREACHABLE as error:
        # The error's own traceback can hold credentials.
        raise LedgerUnavailable(url, error) from None


def _open(url: str) -> RDBStorage:
    options: dict[str, Any] = {}
    if url.startswith("postgresql"):
        options = {"pool_pre_ping": True, "connect_args": CONNECTING}
    elif sqlite_file(url):
        options = {"connect_args": {"timeout": SQLITE_TIMEOUT_SECONDS}}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with making(url):
            storage = RDBStorage(url, engine_kwargs=options)
    except RuntimeError as error:
        # another version of Optuna has made the tables
        raise StorageInternalError(str(error)) from None
    if sqlite_file(url):
        _let_several_write(storage.engine)
    return storage


def _let_several_write(engine: sqlalchemy.Engine) -> None:
    """Let the transactions of several processes on a SQLite file wait for each other."""

    @sqlalchemy.event.listens_for(engine, "connect")
    def configure(connection: Any, _record: Any) -> None:
        connection.execute("PRAGMA journal_mode = WAL")
        # A power cut loses the last commits, never the file.
        connection.execute("PRAGMA synchronous = NORMAL")
        # transactions begin explicitly, see below
        connection.isolation_level = None

    @sqlalchemy.event.listens_for(engine, "begin")
    def begin(connection: sqlalchemy.Connection) -> None:
        # SELECT ... FOR UPDATE locks nothing in SQLite, so a transaction locks all from its begin:
        # else two processes could start one trial.
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    # Optuna's constructor has opened connections without these settings
    engine.dispose()

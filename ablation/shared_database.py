"""The database that the hosts of a study share: where it is, its tables, and what happens when it is out of reach.

PostgreSQL for hosts that are machines; SQLite serves processes of one machine, and tests. Optuna's tables may be
in the same database.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator

import sqlalchemy
from sqlalchemy import Column, Float, Index, Integer, LargeBinary, MetaData, String, Table, Text
from sqlalchemy.exc import ArgumentError, OperationalError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from ablation.database import first_line, let_several_write, making
from ablation.errors import InputError, Problem, Stuck
from ablation.redaction import redacted

OPTION = "--storage"
DRIVERS = ("psycopg", "psycopg2")  # of PostgreSQL, the better one first
CONNECTING = {  # seconds, but for the last (milliseconds): a network that is cut is noticed, and not waited for
    "connect_timeout": 10, "keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3, "tcp_user_timeout": 30_000,
}  # fmt: skip
SETTINGS = {  # the same for the server's end, which would hold locks of a host that is gone
    "idle_in_transaction_session_timeout": "30s",  # a host that stops in the middle of a transaction holds nobody up for long
    "lock_timeout": "60s",
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "30s",
}

METADATA = MetaData()
STUDIES = Table(
    "ablate_studies", METADATA,
    Column("study", String(200), primary_key=True),
    Column("sequence", Integer, nullable=False),  # counts changes; who changes a study's rows locks its row here first
    Column("definition", Text, nullable=False),  # JSON, see `ablation.definition`; "" before there is one
)  # fmt: skip
HOSTS = Table(
    "ablate_hosts", METADATA,
    Column("host", String(200), primary_key=True),
    Column("study", String(200), nullable=False, index=True),
    Column("beat", Float, nullable=False),  # when it last said that it is alive, seconds by the database's clock
)  # fmt: skip
LEASES = Table(
    "ablate_leases", METADATA,
    Column("study", String(200), primary_key=True),
    Column("key", String(200), primary_key=True),
    Column("host", String(200), nullable=False, index=True),
)  # fmt: skip
ENTRIES = Table(
    "ablate_entries", METADATA,
    Column("study", String(200), primary_key=True),
    Column("kind", String(20), primary_key=True),
    Column("key", String(200), primary_key=True),
    Column("sequence", Integer, nullable=False),  # of the change that brought it
    Column("data", LargeBinary, nullable=False),
    Index("ablate_entries_sequence", "study", "sequence"),
)  # fmt: skip


class StorageUnavailable(Stuck):
    """The database cannot be opened, read or written; what has been computed is safe in the host's own files."""

    def __init__(self, url: str, error: BaseException):
        super().__init__(f"the storage at {redacted(url)} is not available: {redacted(first_line(error), url)}")


def storage_url(text: str) -> str:
    """The URL with the driver that is installed. Raises InputError if it is none that hosts can share."""
    try:
        url = sqlalchemy.make_url(text)
    except (ArgumentError, ValueError):  # whose text holds the URL, or a part of the password
        raise InputError([Problem(OPTION, redacted(text), "is no database URL; write postgresql://user@host/database")]) from None
    if "@" in f"{url.host}{url.database}":
        raise InputError([Problem(OPTION, redacted(text), "special characters in a password are written as %40 (@), %2F (/) and so on")])
    if url.get_backend_name() == "sqlite" and url.database not in (None, "", ":memory:"):
        return text
    if url.get_backend_name() not in ("postgresql", "postgres"):
        message = "must be postgresql://user@host/database (or sqlite:///file, for processes of one machine)"
        raise InputError([Problem(OPTION, redacted(text), message)])
    if "+" not in url.drivername:
        driver = next((name for name in DRIVERS if importlib.util.find_spec(name)), None)
        if driver is None:
            raise InputError([Problem(OPTION, redacted(text), "needs a driver for PostgreSQL: pip install 'ablate-lt[postgres]'")])
        url = url.set(drivername=f"postgresql+{driver}")
    return url.render_as_string(hide_password=False)


def open_database(url: str) -> sqlalchemy.Engine:
    """The database of a `storage_url`, with our tables in it. Raises StorageUnavailable."""
    with reaching_storage(url):
        engine = _engine(url)
        with making(url):
            try:
                METADATA.create_all(engine)
            except SQLAlchemyError:  # another host may have made them at the same moment
                METADATA.create_all(engine)
    return engine


@contextlib.contextmanager
def reaching_storage(url: str) -> Iterator[None]:
    """Turns whatever the database raises into `StorageUnavailable`."""
    try:
        yield
    except (SQLAlchemyError, ImportError) as error:  # the last: no driver
        raise StorageUnavailable(url, error) from None  # the error's own traceback can hold credentials


@contextlib.contextmanager
def changing(engine: sqlalchemy.Engine, study: str) -> Iterator[tuple[sqlalchemy.Connection, int]]:
    """A transaction that changes rows of the study, and its number. One host at a time: they are numbered as they commit."""
    mine = STUDIES.c.study == study
    with engine.begin() as connection:
        if not connection.execute(STUDIES.update().where(mine).values(sequence=STUDIES.c.sequence + 1)).rowcount:
            raise OperationalError("", {}, LookupError(f"the study '{study}' is not in the storage (any more)"))
        yield connection, connection.execute(sqlalchemy.select(STUDIES.c.sequence).where(mine)).scalar_one()


def enroll(engine: sqlalchemy.Engine, study: str) -> None:
    """Make the study's row, unless it is there."""
    with contextlib.suppress(sqlalchemy.exc.IntegrityError), engine.begin() as connection:
        if connection.execute(sqlalchemy.select(STUDIES.c.study).where(STUDIES.c.study == study)).first() is None:
            connection.execute(STUDIES.insert().values(study=study, sequence=0, definition=""))


def _engine(url: str) -> sqlalchemy.Engine:
    if sqlalchemy.make_url(url).get_backend_name() == "sqlite":
        engine = sqlalchemy.create_engine(url, poolclass=NullPool, connect_args={"timeout": 60})
        let_several_write(engine)
        return engine
    engine = sqlalchemy.create_engine(url, pool_pre_ping=True, connect_args=CONNECTING)

    @sqlalchemy.event.listens_for(engine, "connect")
    def configure(connection, _record) -> None:
        with connection.cursor() as cursor:
            for name, value in SETTINGS.items():
                cursor.execute(f"SET {name} = '{value}'")
        connection.commit()

    return engine

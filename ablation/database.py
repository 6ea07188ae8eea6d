"""SQLite files: whether one can be used, asked before Optuna or MLflow do, which wait long, and say much, if it cannot;
and how several processes write to one."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO
from urllib.parse import quote

from ablation.files import put_aside

if TYPE_CHECKING:
    from sqlalchemy import Engine

BEGUN = "begun\n"  # beside a file that was not there before
MEANINGFUL = set(
    "?%{}"
)  # in a URL; the braces are Optuna's, which fills in what stands between them
PATIENCE_SECONDS = 5.0  # with another program that has locked it; training waits as long


def sqlite_url(path: Path) -> str:
    """The `sqlite:///` URL of a file, the inverse of `sqlite_file`.

    Counted from the working directory where the names of folders above it have characters with a meaning in a URL. Such
    characters cannot be written in a way that all understand: SQLAlchemy decodes them since 2.1, and MLflow makes the
    folder as the URL has it, not decoded.
    """
    absolute = path.absolute()
    if not MEANINGFUL & set(str(absolute)):
        return f"sqlite:///{absolute}"
    return f"sqlite:///{quote(os.path.relpath(absolute), safe=' /')}"


def sqlite_file(url: str) -> Path | None:
    """The file of a `sqlite:///` URL; None if the database is no file."""
    backend, _, path = url.partition(":///")
    if (
        backend.partition("+")[0] != "sqlite"
        or path in ("", ":memory:")
        or path.startswith("file:")
    ):
        return None
    from sqlalchemy import make_url

    return Path(make_url(url).database or "")


def why_unusable(path: Path) -> str | None:
    """Why nobody can write to the file now: it is locked, or no database. None if one can, or if there is no file yet."""
    if not path.exists():
        return None
    try:
        with closing(
            sqlite3.connect(path, timeout=PATIENCE_SECONDS, isolation_level=None)
        ) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("SELECT count(*) FROM sqlite_master")
            connection.execute("ROLLBACK")
    except sqlite3.Error as error:
        return str(error)
    return None


def require_usable(url: str) -> None:
    """Raises OSError saying why the database cannot be used now: it is a file that cannot be, or its address cannot be read."""
    _require_address(url)
    path = sqlite_file(url)
    why = why_unusable(path) if path else None
    if why:
        raise OSError(why)


def let_several_write(engine: Engine) -> None:
    """Configure an engine on a SQLite file, before it connects, so that the transactions of several processes wait for each other."""
    from sqlalchemy import event

    @event.listens_for(engine, "connect")
    def configure(connection, _record) -> None:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(
            "PRAGMA synchronous = NORMAL"
        )  # a power cut loses the last commits, never the file
        connection.isolation_level = None  # begin explicitly, below

    @event.listens_for(engine, "begin")
    def begin(connection) -> None:
        # SELECT ... FOR UPDATE locks nothing in SQLite, so whoever begins locks all: else two could start one trial.
        connection.exec_driver_sql("BEGIN IMMEDIATE")


@contextmanager
def making(url: str) -> Iterator[None]:
    """Hold while a library may make its tables in the file: it does so in steps, and stumbles over another process at it,
    and for ever over the tables of one that was killed at it. Such a file, which held nothing yet, is put aside.
    """
    path = sqlite_file(url)
    if path is None:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with _held(path.with_name(f"{path.name}.making")) as note:
        note.seek(0)
        if note.read() == BEGUN:
            for file in (
                path,
                *(path.with_name(path.name + suffix) for suffix in ("-journal", "-wal", "-shm")),
            ):
                if file.exists():
                    put_aside(file)
        note.truncate(0)
        is_new = not path.exists()
        if is_new:
            note.write(BEGUN)
            note.flush()
        try:
            yield
        except BaseException:
            if not is_new:
                os.unlink(note.name)
            raise
        os.unlink(note.name)


@contextmanager
def _held(path: Path) -> Iterator[TextIO]:
    """Hold a file that whoever held it before may have removed; the system lets go of it when the process ends, however it ends."""
    while True:
        with path.open("a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not _is_at(file, path):
                continue
            yield file
            return


def _is_at(file: TextIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _require_address(url: str) -> None:
    """SQLAlchemy says what it stumbled over, which may be a part of the password."""
    if "://" not in url or url.startswith(("http://", "https://")):
        return
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        make_url(url)
    except (ValueError, ArgumentError):
        raise OSError(
            "its address cannot be read; special characters in a password are written as %40 (@), %2F (/) and so on"
        ) from None


def first_line(error: BaseException) -> str:
    """What a database or its library says, without the statement, its values, and hints on where to read on."""
    return str(getattr(error, "orig", None) or error).strip().split("\n")[0]

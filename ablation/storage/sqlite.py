"""Check that an SQLite file can be used, before Optuna and MLflow wait for it."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

from filelock import FileLock

from ablation.storage.files import put_aside

# said beside a file that was not there before
BEGUN = "begun\n"
# files that belong to a SQLite database
BESIDE = ("-wal", "-shm", "-journal")
# In a URL. The braces are Optuna's, which fills in what stands between them.
MEANINGFUL = set("?%{}")
# to wait for another program that has locked it; training waits as long
PATIENCE_SECONDS = 5.0


def sqlite_url(path: Path) -> str:
    """The `sqlite:///` URL of a file, the inverse of `sqlite_file`.

    Counted from the working directory where the names of folders above it have characters with a
    meaning in a URL. Such characters cannot be written in a way that all understand: SQLAlchemy
    decodes them since 2.1, and MLflow makes the folder as the URL has it, not decoded.
    """
    absolute = str(path.absolute())
    if MEANINGFUL & set(absolute):
        absolute = quote(os.path.relpath(absolute), safe=" /")
    return f"sqlite:///{absolute}"


def sqlite_file(url: str) -> Path | None:
    """The file of a `sqlite:///` URL; None if the database is no file."""
    found = re.fullmatch(r"sqlite(\+\w+)?:///(?!file:)(.+)", url, re.DOTALL)
    if found is None or found[2] == ":memory:":
        return None
    from sqlalchemy import make_url

    return Path(make_url(url).database or "")


def why_unusable(path: Path) -> str | None:
    """Why the file cannot be written to now: it is locked, or no database. None: it can."""
    if not path.exists():
        return None
    try:
        with closing(sqlite3.connect(path, PATIENCE_SECONDS, isolation_level=None)) as database:
            database.execute("BEGIN IMMEDIATE")
            database.execute("SELECT count(*) FROM sqlite_master")
            database.execute("ROLLBACK")
    except sqlite3.Error as error:
        return str(error)
    return None


def require_usable(url: str) -> None:
    """Raises OSError saying why the database cannot be used now: its address, or its file."""
    if "://" in url and not url.startswith(("http://", "https://")):
        from sqlalchemy import make_url
        from sqlalchemy.exc import ArgumentError

        try:
            make_url(url)
        except (ValueError, ArgumentError):
            # which may quote a part of the password
            raise OSError(
                "its address cannot be read; special characters in a password "
                "are written as %40 (@), %2F (/) and so on"
            ) from None
    path = sqlite_file(url)
    why = why_unusable(path) if path else None
    if why:
        raise OSError(why)


@contextmanager
def making(url: str) -> Iterator[None]:
    """Hold while a library may make its tables in the file.

    It does so in steps, stumbles over another process at it, and for ever over the tables of one
    that was killed at it. Such a file, which held nothing yet, is put aside.
    """
    path = sqlite_file(url)
    if path is None:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    note = path.with_name(f"{path.name}.making")
    with FileLock(note):
        if note.read_text() == BEGUN:
            for file in (path, *(path.with_name(path.name + suffix) for suffix in BESIDE)):
                if file.exists():
                    put_aside(file)
        is_unmade = not path.exists()
        note.write_text(BEGUN if is_unmade else "")
        try:
            yield
            is_unmade = False
        finally:
            if not is_unmade:
                note.unlink()


def first_line(error: BaseException) -> str:
    """What a database or its library says, without the statement, its values, and hints."""
    return str(getattr(error, "orig", None) or error).strip().split("\n")[0]

"""Paths and databases of a project, all below the folder in which `ablate` is started.

SQLite files are checked before Optuna and MLflow wait for them.
"""

from __future__ import annotations

import os
import re
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from filelock import FileLock

from ablation.errors import InputError, Problem
from ablation.storage.cache import DiskStore
from ablation.storage.files import put_aside
from ablation.storage.runs import RunFolder

# as SQLAlchemy's text() finds them
BOUND = re.compile(r"(?<![:\w\\]):[\w$]+(?![:\w$])")
FOLDERS = ("runs", ".ablate", "reports")


@dataclass(frozen=True)
class ProjectPaths:
    """Folders and databases of a project. Optuna and MLflow have separate databases."""

    root: Path = Path(".")
    # URL of the team's database that holds the ledger; None: it is a file of the project.
    storage: str | None = None

    @property
    def store(self) -> DiskStore:
        """The cache of epochs, which all studies of the project share."""
        return DiskStore(self.root / ".ablate" / "cache")

    @property
    def ledger_url(self) -> str:
        """URL of Optuna's database; makes the folder of a file."""
        if self.storage:
            return self.storage
        (self.root / ".ablate").mkdir(parents=True, exist_ok=True)
        return sqlite_url(self.root / ".ablate" / "optuna.db")

    @property
    def timings(self) -> Path:
        """File of how long epochs took, for forecasts."""
        return self.root / ".ablate" / "timings.json"

    def progress(self, study: str) -> Path:
        """The note in which a running study keeps its forecast, for `ablate status`."""
        return self.root / ".ablate" / "progress" / f"{study}.json"

    def runs(self, study: str) -> RunFolder:
        """The files of a study's trials."""
        return RunFolder(self.root / "runs" / study)

    def report(self, study: str) -> Path:
        """The folder of a study's report."""
        return self.root / "reports" / study

    @property
    def report_folders(self) -> list[Path]:
        """Folders of reports: of own runs, and those that are committed as evidence."""
        return [self.root / "reports", self.root / "docs" / "results"]

    def require_writable(self, *folders: str) -> None:
        """Make the folders (default: all of `FOLDERS`), and write to each.

        Raises InputError naming those that refuse.
        """
        problems = []
        for folder in folders or FOLDERS:
            path = self.root / folder
            try:
                path.mkdir(parents=True, exist_ok=True)
                with tempfile.NamedTemporaryFile(dir=path, prefix=".probe-") as probe:
                    probe.write(b"0")
            except OSError as error:
                cause = f"cannot be written: {error.strerror or error}"
                if path.is_file():
                    cause = "is a file, and a folder is needed"
                problems.append(Problem("", str(path), cause))
        if problems:
            raise InputError(problems)


def tracking_uri() -> str | None:
    """MLFLOW_TRACKING_URI; None where it is not set, or blank."""
    return os.environ.get("MLFLOW_TRACKING_URI", "").strip() or None


def require_usable_name(root: Path) -> None:
    """Raises InputError if MLflow cannot keep its records below a folder of this name.

    It writes the path into SQL as Python's repr() has it, where `:word` stands for a value.
    """
    path = str(root.absolute())
    bound = BOUND.search(path)
    if path != path.encode(errors="ignore").decode():
        why = "is not UTF-8"
    elif {"'", '"'} <= set(path):
        why = "has both kinds of quotes"
    elif bound:
        why = f"has '{bound[0]}', which MLflow takes for a placeholder"
    else:
        return
    message = f"the project cannot be kept here: the folder's name {why}; rename the folder"
    raise InputError([Problem("", ascii(path), message)])


def report_files(folder: Path) -> list[Path]:
    """The files of the report in `reports/<study>/`."""
    patterns = ("*.md", "*.html", "*.csv", "figures/*")
    return sorted(path for pattern in patterns for path in folder.glob(pattern))


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
    """Why an SQLite file cannot be written to now, such as a lock; None if it can."""
    if not path.exists():
        return None
    try:
        with closing(
            sqlite3.connect(path, timeout=PATIENCE_SECONDS, isolation_level=None)
        ) as database:
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
    """Lock an SQLite file while a library makes its tables in it.

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
    """The first line of a database's error, without the SQL statement, its values, and hints."""
    return str(getattr(error, "orig", None) or error).strip().split("\n")[0]

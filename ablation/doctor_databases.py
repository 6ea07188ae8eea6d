"""Whether Optuna's and MLflow's databases can be used.

Both are made of the files in runs/. So one that is no database (any more) is moved aside, and filled anew.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection
from contextlib import closing
from pathlib import Path

from ablation.database import PATIENCE_SECONDS, sqlite_file, why_unusable
from ablation.doctor_check import Check, Found, place
from ablation.files import put_aside
from ablation.ledger import LedgerUnavailable, reaching_ledger
from ablation.ledger_storage import open_storage
from ablation.places import Places
from ablation.tracking_store import TrackingUnavailable, default_uri, experiments

HOPELESS = ("file is not a database", "malformed")
NONE = Found("none yet")
BESIDE = ("-wal", "-shm", "-journal")  # files that belong to a SQLite database


def database_checks(places: Places, running: Collection[str]) -> list[Check]:
    """running: studies that are being run, whose databases are not moved."""
    return [
        Check(
            "Optuna's database",
            lambda: (
                _look(places.ledger_url, _open_ledger, running)
                if (places.root / ".ablate").is_dir()
                else NONE
            ),
        ),
        Check(
            "MLflow's database",
            lambda: _look(default_uri(), lambda uri: experiments(uri, 1), running),
        ),
    ]


def _look(url: str, reach: Callable[[str], object], running: Collection[str]) -> Found:
    path = sqlite_file(url)
    if path is not None and not path.exists():
        return NONE
    why = (why_unusable(path) or _unsound(path)) if path else None
    if why and any(cause in why for cause in HOPELESS):
        mend = None if running else lambda: _move_aside(path)
        return Found(
            f"{place(url)}: {why}", False, "moves it aside, and fills another from runs/", mend
        )
    if why:
        return Found(
            f"{place(url)}: {why}",
            False,
            "end the program that holds it, or let it be written to, and look again",
        )
    try:
        reach(url)
    except (LedgerUnavailable, TrackingUnavailable) as error:
        return Found(str(error), False, "see what it says")
    return Found(f"{place(url)} {'can be written to, and is sound' if path else 'answers'}")


def _open_ledger(url: str) -> None:
    with reaching_ledger(url):
        open_storage(url).engine.dispose()


def _unsound(path: Path) -> str | None:
    with closing(sqlite3.connect(path, timeout=PATIENCE_SECONDS)) as connection:
        try:
            (said,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        except sqlite3.Error as error:
            return str(error)
    return None if said == "ok" else f"malformed: {said.splitlines()[-1]}"


def _move_aside(path: Path) -> str:
    aside = put_aside(path)
    for suffix in BESIDE:
        beside = path.with_name(path.name + suffix)
        if beside.exists():
            beside.rename(aside.with_name(aside.name + suffix))
    return f"moved to {aside.name}"

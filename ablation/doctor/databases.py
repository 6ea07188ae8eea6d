"""Whether Optuna's and MLflow's databases can be used, and whether Optuna holds what files say.

Both are made of the files in runs/. So one that is no database (any more) is moved aside, and
filled anew.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection
from contextlib import closing
from pathlib import Path

from ablation.doctor.check import Check, Found, here, named, place
from ablation.storage.files import put_aside
from ablation.storage.project import Places
from ablation.storage.runs import Manifest, RunFolder
from ablation.storage.sqlite import BESIDE, PATIENCE_SECONDS, sqlite_file, why_unusable
from ablation.tracking.ledger import ledger_differences, update_ledger
from ablation.tracking.ledger_storage import LedgerUnavailable, opened
from ablation.tracking.mlflow_store import TrackingUnavailable, default_uri, experiments

HOPELESS = ("file is not a database", "malformed")
NONE = Found("none yet")


def database_checks(places: Places, running: Collection[str]) -> list[Check]:
    """running: studies that are being run, whose databases are not moved."""

    def ledger() -> Found:
        if not (places.root / ".ablate").is_dir():
            return NONE
        return _look(places.ledger_url, _open_ledger, running)

    def mlflow() -> Found:
        return _look(default_uri(), lambda uri: experiments(uri, 1), running)

    return [Check("Optuna's database", ledger), Check("MLflow's database", mlflow)]


def ledger_check(places: Places, folder: RunFolder, manifest: Manifest) -> Check:
    return Check("Optuna", lambda: _compare(places.ledger_url, folder, manifest))


def _look(url: str, reach: Callable[[str], object], running: Collection[str]) -> Found:
    path = sqlite_file(url)
    if path is not None and not path.exists():
        return NONE
    why = (why_unusable(path) or _unsound(path)) if path else None
    if why and any(cause in why for cause in HOPELESS):
        mend = None if running or path is None else lambda: _move_aside(path)
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
    with opened(url):
        pass


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


def _compare(url: str, folder: RunFolder, manifest: Manifest) -> Found:
    try:
        differing = ledger_differences(url, manifest, folder)
    except LedgerUnavailable as error:
        remedy = f"see Optuna's database above; then `ablate sync {manifest.study}`"
        return Found(str(error), False, remedy)
    if not differing:
        return Found(f"{place(url)} has the trials that have ended as the files have them")

    def mend() -> str:
        update_ledger(url, folder, is_running=False)
        return "now as the files have it"

    what = f"in {place(url)}: trials that are not as in the files, {named(differing)}"
    return Found(what, False, f"brings it up to the files in {here(folder.path)}", mend)

"""Optuna's ledger and MLflow's record, kept up with the files of a study."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

from rich.console import Console

from ablation.database import sqlite_file
from ablation.errors import Unavailable
from ablation.execution import Listener
from ablation.places import Places, report_files, tracking_uri
from ablation.redaction import redacted
from ablation.runs import RunFolder, write_atomically

SYNC_SECONDS = 20.0  # between deliveries while a study runs
LONGEST_SECONDS = 1280.0  # between attempts while they fail


class Delivery(Listener):
    """Keeps Optuna's ledger and MLflow's record up with the files; the only writer to both.

    Everything is delivered from the files, so what could not be delivered now is delivered later.
    """

    def __init__(self, places: Places, name: str, console: Console):
        self.places, self.name, self.console = places, name, console
        self.tracker = None
        self.last = time.monotonic()
        self.interval = SYNC_SECONDS  # doubled by each failure: an attempt holds up all workers for as long as a server is silent

    def tick(self) -> None:
        if time.monotonic() - self.last > self.interval:
            self.deliver()

    def deliver(self) -> bool:
        """Bring both up to date; a store that cannot be reached costs nothing but a message."""
        is_delivered = self._deliver()
        self.interval = SYNC_SECONDS if is_delivered else min(2 * self.interval, LONGEST_SECONDS)
        self.last = time.monotonic()
        return is_delivered

    def _deliver(self) -> bool:
        folder = self.places.runs(self.name)
        is_running = self.is_running()  # if by nobody, no record may stay RUNNING
        is_delivered = True
        for update in (self._update_ledger, self._update_tracking):
            try:
                update(folder, is_running)
            except Unavailable as error:
                promise = (
                    f", `ablate sync {self.name}` delivers them later" if error.is_for_now else ""
                )
                self.console.print(
                    f"{error}; the files are complete{promise}", markup=False, soft_wrap=True
                )
                is_delivered = False
        if is_delivered:
            write_atomically(self._note, self._digest(is_running))
        return is_delivered

    def _update_tracking(self, folder: RunFolder, is_running: bool) -> None:
        from ablation.tracking import Tracker

        self.tracker = self.tracker or Tracker()
        self.tracker.sync(folder, self.places.report(self.name), is_running)

    def _update_ledger(self, folder: RunFolder, is_running: bool) -> None:
        from ablation.ledger_import import update_ledger

        update_ledger(self.places.ledger_url, folder, is_running)

    def deliver_news(self) -> bool:
        """`deliver`, unless all this was delivered before: to look through ten thousand runs takes MLflow seconds.

        What others have changed since in a database that is no file here is not seen; `deliver` mends it.
        """
        digest = self._digest(self.is_running())
        is_known = self._note.is_file() and self._note.read_text(encoding="utf-8") == digest
        return is_known or self.deliver()

    def is_running(self) -> bool:
        """Whether this process, or any other, runs the study."""
        return self.places.runs(self.name).is_being_run()

    @property
    def _note(self) -> Path:
        """Holds the digest of the last delivery."""
        return self.places.root / ".ablate" / "delivered" / self.name

    def _digest(self, is_running: bool) -> str:
        """Of the databases, of whether any process runs the study, and of manifest and report, which hold every result."""
        uri = tracking_uri() or str(self.places.root / "mlflow.db")
        database, ledger = sqlite_file(uri) or Path(uri), self.places.root / ".ablate" / "optuna.db"
        changed = database.stat().st_mtime_ns if database.is_file() else None
        which = ledger.stat().st_ino if ledger.is_file() else None
        digest = hashlib.sha256(
            repr((uri, redacted(self.places.storage or ""), changed, which, is_running)).encode()
        )
        for file in [
            self.places.runs(self.name).path / "study.json",
            *report_files(self.places.report(self.name)),
        ]:
            digest.update(file.read_bytes())
        return digest.hexdigest()

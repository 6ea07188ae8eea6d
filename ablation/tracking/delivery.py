"""Deliver a study's results from its files to Optuna and MLflow."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from ablation.errors import Unavailable
from ablation.formatting import redacted
from ablation.storage.project import ProjectPaths, report_files, sqlite_file, tracking_uri
from ablation.storage.runs import write_atomically
from ablation.tracking.mlflow_content import FORMAT_VERSION

if TYPE_CHECKING:
    from ablation.tracking.mlflow_sync import Tracker

# time between deliveries while a study runs
SYNC_SECONDS = 20.0
# Of a study's time, that deliveries may take: each looks at all trials.
DELIVERY_SHARE = 0.5
# the longest time between attempts while they fail
LONGEST_SECONDS = 1280.0


class Delivery:
    """Delivers results to Optuna and MLflow while a study runs; the only writer to both.

    Everything is delivered from the files, so what could not be delivered now is delivered later.
    """

    def __init__(self, places: ProjectPaths, name: str, console: Console):
        self.places, self.name, self.console = places, name, console
        self.folder = places.runs(name)
        # the file that holds the digest of the last delivery
        self.note = places.root / ".ablate" / "delivered" / name
        self.tracker: Tracker | None = None
        self.last = time.monotonic()
        # Doubled by each failure: a silent server delays all workers during an attempt. Longer also
        # where a delivery takes long.
        self.interval = SYNC_SECONDS

    def is_due(self) -> bool:
        """Whether it is time for a delivery while the study runs."""
        return time.monotonic() - self.last > self.interval

    def deliver(self) -> bool:
        """Bring both up to date. A store that cannot be reached causes a message, and no error."""
        begun = time.monotonic()
        # If no process runs the study, no record may stay RUNNING.
        is_running, is_delivered = self.folder.is_being_run(), True
        for update in (self._update_ledger, self._update_tracking):
            try:
                update(is_running)
            except Unavailable as error:
                later = f", `ablate sync {self.name}` delivers them later"
                promise = later if error.is_for_now else ""
                message = f"{error}; the files are complete{promise}"
                self.console.print(message, markup=False, soft_wrap=True)
                is_delivered = False
        if is_delivered:
            write_atomically(self.note, self._digest(is_running))
        self.last = time.monotonic()
        due = max(SYNC_SECONDS, (self.last - begun) / DELIVERY_SHARE)
        self.interval = due if is_delivered else min(2 * self.interval, LONGEST_SECONDS)
        return is_delivered

    @property
    def page(self) -> str | None:
        """The link to the study on an MLflow server; None without one, or if nothing was new."""
        return self.tracker.page if self.tracker else None

    def deliver_news(self) -> bool:
        """`deliver`, unless the same was delivered before: it takes seconds at 10,000 trials.

        What others change in a database that is no file here is not seen; `deliver` mends it.
        """
        digest = self._digest(self.folder.is_being_run())
        is_known = self.note.is_file() and self.note.read_bytes() == digest.encode()
        return is_known or self.deliver()

    def _update_ledger(self, is_running: bool) -> None:
        from ablation.tracking.ledger import update_ledger

        update_ledger(self.places.ledger_url, self.folder, is_running)

    def _update_tracking(self, is_running: bool) -> None:
        from ablation.tracking.mlflow_sync import Tracker

        self.tracker = self.tracker or Tracker()
        self.tracker.sync(self.folder, self.places.report(self.name), is_running)

    def _digest(self, is_running: bool) -> str:
        """A hash of the databases, manifest and report, which hold every result."""
        uri = tracking_uri() or str(self.places.root / "mlflow.db")
        database, ledger = sqlite_file(uri) or Path(uri), self.places.root / ".ablate" / "optuna.db"
        changed = database.stat().st_mtime_ns if database.is_file() else None
        # what others have written stands beside a database that is written ahead, for a while
        ahead = database.with_name(f"{database.name}-wal")
        n_ahead = ahead.stat().st_size if ahead.is_file() else 0
        which = ledger.stat().st_ino if ledger.is_file() else None
        storage = redacted(self.places.storage or "")
        known = (FORMAT_VERSION, uri, storage, changed, n_ahead, which, is_running)
        digest = hashlib.sha256(repr(known).encode())
        for file in [self.folder.path / "study.json", *report_files(self.places.report(self.name))]:
            digest.update(file.read_bytes())
        return digest.hexdigest()

"""Delivery to Optuna and MLflow by the hosts of a study: to each of them by one host at a time."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from ablation.delivery import Delivery
from ablation.places import Places, tracking_uri
from ablation.redaction import redacted
from ablation.runs import RunFolder
from ablation.shared_database import StorageUnavailable
from ablation.shared_store import MARK
from ablation.sharing import Sharing

LEDGER = "(ledger)"  # key of the lease of the host that writes to Optuna, which has it for as long as that takes
TRACKING = "(tracking)"  # key of the entry that says where the study's first host delivers to
WAIT_SECONDS = 1.0
PATIENCE_SECONDS = 600.0  # with a host that delivers the end of the study


class SharedDelivery(Delivery):
    """Delivers while it has the lease for that: of the hosts with the same MLflow, one at a time writes to it.

    A host whose study has grown meanwhile, so that its own is a part of it, leaves the delivery to those that run the whole.
    """

    def __init__(self, places: Places, name: str, console: Console, sharing: Sharing):
        super().__init__(places, name, console)
        self.sharing = sharing
        uri = tracking_uri()
        self._where = redacted(uri) if uri else f"{os.uname().nodename}:{places.root.absolute() / 'mlflow.db'}"
        self._digest_of_where = hashlib.sha256(self._where.encode()).hexdigest()[:16]
        self._lease = f"(delivery to {self._digest_of_where})"
        self._said: set[str] = set()
        self._may_say_running = False  # the last delivery was before all others had left, or another host's

    def deliver(self) -> bool:
        self.last = time.monotonic()
        try:
            if self._has_grown():
                return True
            self._compare_tracking()
            self._may_say_running = True
            if not self.sharing.leases.take([self._lease]):
                return True
            self._may_say_running = self.is_running()
            return super().deliver()
        except StorageUnavailable:  # which the execution says
            return False

    def deliver_news(self) -> bool:
        """Deliver the end of the study, unless another host does."""
        leases, store, end = self.sharing.leases, self.sharing.store, time.monotonic() + PATIENCE_SECONDS
        try:
            self._compare_tracking()
            while not self._has_grown():
                is_ours = leases.take([self._lease])
                store.pull()
                if store.is_shared(MARK, self._ending()):
                    return True
                if is_ours:
                    break
                if time.monotonic() > end:
                    self._say(f"another host delivers for more than {PATIENCE_SECONDS:.0f} s; `ablate sync {self.name}` brings what it leaves")
                    return False
                time.sleep(WAIT_SECONDS)
            else:
                return True
            if not super().deliver():
                return False
            store.mark(self._ending())
        except StorageUnavailable as error:
            self._say(f"{error}; `ablate sync {self.name}` delivers later")
            return False
        return True

    def deliver_if_last(self) -> None:
        """This host has left a study that is not complete: if no other is there any more, no record may stay RUNNING.

        Of hosts that stop together each sees the others, while it delivers; the last to leave sees none.
        """
        try:
            if self._may_say_running and not self.sharing.leases.others():
                self.deliver()
                self.sharing.leases.leave()
        except StorageUnavailable as error:
            self._say(f"{error}; `ablate sync {self.name}` delivers later")

    def is_running(self) -> bool:
        try:
            return super().is_running() or bool(self.sharing.leases.others())
        except StorageUnavailable:
            return True

    def _update_ledger(self, folder: RunFolder, is_running: bool) -> None:
        with self._ledger():
            super()._update_ledger(folder, is_running)

    @contextmanager
    def _ledger(self) -> Iterator[None]:
        """Be the one host that writes to Optuna: hosts with another MLflow have the same."""
        while not self.sharing.leases.take([LEDGER]):
            time.sleep(WAIT_SECONDS)
        try:
            yield
        finally:
            self.sharing.leases.release([LEDGER])

    def _has_grown(self) -> bool:
        has_grown = self.sharing.has_grown()
        if has_grown:
            self._say(f"{self.name} has other trials by now than when this host joined it; those that run it as it is now deliver it")
        return has_grown

    def _compare_tracking(self) -> None:
        entries = self.sharing.store.entries
        entries.add(MARK, [(TRACKING, self._where.encode())])
        theirs = entries.read(MARK, [TRACKING]).get(TRACKING, b"").decode(errors="replace")
        if theirs != self._where:
            self._say(f"this host delivers to {self._where}, and the study's first one to {theirs}; set MLFLOW_TRACKING_URI alike to have one record")

    def _say(self, text: str) -> None:
        """Once."""
        if text not in self._said:
            self._said.add(text)
            self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _ending(self) -> str:
        """A digest of how all trials have ended, the same on every host with the same MLflow."""
        folder = self.places.runs(self.name)
        ends = [(spec.key, folder.state(spec, folder.outcome(spec.trial))) for spec in folder.manifest().trials]
        return hashlib.sha256(repr((self._digest_of_where, sorted(ends))).encode()).hexdigest()[:32]

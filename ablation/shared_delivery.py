"""Delivery to Optuna and MLflow by the hosts of a study: one of them at a time."""

from __future__ import annotations

import hashlib
import os
import time

from rich.console import Console

from ablation.delivery import Delivery
from ablation.places import Places
from ablation.shared_database import StorageUnavailable
from ablation.shared_store import MARK
from ablation.sharing import Sharing

WAIT_SECONDS = 1.0


class SharedDelivery(Delivery):
    """Delivers while it has the lease for that: of the hosts with the same MLflow, one at a time writes to it and to Optuna."""

    def __init__(self, places: Places, name: str, console: Console, sharing: Sharing):
        super().__init__(places, name, console)
        self.sharing = sharing
        where = os.environ.get("MLFLOW_TRACKING_URI") or f"{os.uname().nodename}:{places.root.absolute()}"
        self._where = hashlib.sha256(where.encode()).hexdigest()[:16]  # a host without the study's MLflow does not deliver for the others
        self._lease = f"(delivery to {self._where})"

    def deliver(self) -> bool:
        self.last = time.monotonic()
        try:
            if not self.sharing.leases.take([self._lease]):
                return True
        except StorageUnavailable:  # which the execution says
            return False
        was_running, is_delivered = self.is_running(), super().deliver()
        if is_delivered and was_running and not self.is_running():  # all others have left meanwhile: no record may stay RUNNING
            return super().deliver()
        return is_delivered

    def deliver_news(self) -> bool:
        """Deliver the end of the study, unless another host does."""
        leases, store = self.sharing.leases, self.sharing.store
        try:
            while True:
                is_ours = leases.take([self._lease])
                store.pull()
                if store.is_shared(MARK, self._ending()):
                    return True
                if is_ours:
                    break
                time.sleep(WAIT_SECONDS)
            if not super().deliver():
                return False
            store.mark(self._ending())
        except StorageUnavailable as error:
            self.console.print(f"{error}; `ablate sync {self.name}` delivers later", markup=False, soft_wrap=True)
            return False
        return True

    def is_running(self) -> bool:
        try:
            return super().is_running() or bool(self.sharing.leases.others())
        except StorageUnavailable:
            return True

    def _ending(self) -> str:
        """A digest of how all trials have ended, the same on every host with the same MLflow."""
        folder = self.places.runs(self.name)
        ends = [(spec.key, folder.state(spec, folder.outcome(spec.trial))) for spec in folder.manifest().trials]
        return hashlib.sha256(repr((self._where, sorted(ends))).encode()).hexdigest()[:32]

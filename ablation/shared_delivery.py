"""Delivery to Optuna and MLflow by the hosts of a study: one of them at a time."""

from __future__ import annotations

import hashlib
import time

from rich.console import Console

from ablation.delivery import Delivery
from ablation.places import Places
from ablation.shared_database import StorageUnavailable
from ablation.shared_store import MARK
from ablation.sharing import Sharing

DELIVERY = "(delivery)"  # the key of the lease of the host that delivers
WAIT_SECONDS = 1.0


class SharedDelivery(Delivery):
    """Delivers while it has the lease for that: one host at a time writes to Optuna and MLflow."""

    def __init__(self, places: Places, name: str, console: Console, sharing: Sharing):
        super().__init__(places, name, console)
        self.sharing = sharing

    def deliver(self) -> bool:
        self.last = time.monotonic()
        try:
            if not self.sharing.leases.take([DELIVERY]):
                return True
        except StorageUnavailable:  # which the execution says
            return False
        return super().deliver()

    def deliver_news(self) -> bool:
        """Deliver the end of the study, unless another host does."""
        leases, store = self.sharing.leases, self.sharing.store
        try:
            while True:
                is_ours = leases.take([DELIVERY])
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
        """A digest of how all trials have ended, the same on every host."""
        folder = self.places.runs(self.name)
        ends = [(spec.key, folder.state(spec, folder.outcome(spec.trial))) for spec in folder.manifest().trials]
        return hashlib.sha256(repr(sorted(ends)).encode()).hexdigest()[:32]

"""What training functions and commands have in common: each is a chain of one link.

The worker tells them where they run (`Place`). Epochs that they report go to the study at once;
the record of the link, which holds them all, follows at the end.
"""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ablation.subject.checkpoint import forget_checkpoint
from ablation.subject.protocol import (
    Fault,
    History,
    Link,
    Record,
    Report,
    ReportedEpoch,
    Store,
    digest_of,
)

PHASE = "train"


class Place(NamedTuple):
    """The trial in whose name own code runs, and where its epochs go."""

    trial: str
    # folder for files of the trial; it is removed when the trial has ended
    folder: Path
    # the file that gets what is printed, as messages name it
    log: str = "the trial's stdout.log"
    # Called with each epoch as it is known so far, again when more is reported of it. True: a
    # checkpoint of it has been saved, so that it is never trained again.
    on_epoch: Callable[[ReportedEpoch, bool], None] = lambda epoch, is_saved: None


# fact of own code: name -> fingerprint of each of its files and modules
SOURCES = "sources"
# fact of own code: version of the reading of what it prints
READER_FACT = "output_reader"


class PlanChanged(Exception):
    """The code is not what it was when the study was planned. The harness knows it by its name."""


class OwnCode(ABC):
    """A subject of which nothing is known but its text: its settings are its own business."""

    # of all that the code is read from, and of its files and modules by their names
    source_fingerprint: str
    sources: dict[str, str]
    # of the libraries that it imports
    versions: dict[str, str]
    # version of the reading of what it prints, see `measured.READER`; 0 where that is not read
    reader = 0
    # whether a trial that was broken off goes on from a checkpoint, and does not begin anew
    is_resumable = False

    @abstractmethod
    def run(
        self, settings: Mapping[str, Any], seed: int, key: str, store: Store, place: Place
    ) -> Record:
        """Run the code to its end; returns the record of the trial's link, which has this key.

        Raises Interrupted if this process was asked to stop meanwhile.
        """

    def used(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The settings that can change a trial: all of them, as far as is known."""
        return dict(settings)

    def describe(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Fingerprints of the source, and versions of the libraries that it imports."""
        return {
            **({READER_FACT: self.reader} if self.reader else {}),
            "source_fingerprint": self.source_fingerprint,
            SOURCES: self.sources,
            "versions": self.versions,
        }

    def chain(
        self, settings: Mapping[str, Any], seed: int, records: Callable[[str], Record | None]
    ) -> list[Link]:
        """One link, whose key holds source, versions, settings that can change it, and seed."""
        told = [self.source_fingerprint, self.versions, self.used(settings), seed]
        key = digest_of([*told, self.reader] if self.reader else told)
        return [Link(key, PHASE, 1, 1.0)]

    def advance(
        self,
        settings: Mapping[str, Any],
        seed: int,
        until: str | None,
        store: Store,
        report: Report,
        place: Place,
    ) -> None:
        """Run the code, unless its record is in the store.

        Raises PlanChanged where that would be another record than `until`, Interrupted if this
        process was asked to stop meanwhile, and what the code raises.
        """
        key = self.chain(settings, seed, lambda _: None)[0].key
        if until not in (None, key):
            # what is imported may be the old code, and what is read the new: neither is kept
            raise PlanChanged("the code or a library that it imports has changed")
        if store.holds("record", key):
            return
        record = self.run(settings, seed, key, store, place)
        store.save("record", key, json.dumps(record).encode(), record["seconds"])
        forget_checkpoint(store, key)
        report(key, record)

    def check(self, settings: Mapping[str, Any]) -> list[Fault]:
        """No fault: what the code does with its settings is not known."""
        return []

    def resolve(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The settings as they are: the code's own defaults are not known."""
        return dict(settings)

    def baselines(self) -> Mapping[str, Mapping[str, Any]]:
        """None are built in."""
        return {}

    def metrics(self, settings: Mapping[str, Any]) -> Collection[str] | None:
        """None: which metrics there are is known once it has run."""
        return None


def unfinished(epoch: ReportedEpoch) -> Record:
    """The record of an epoch within the link, as a trial's files have it."""
    return {
        "phase": PHASE,
        "seconds": 0.0,
        "vectors": {},
        "epoch": epoch["epoch"],
        "metrics": epoch["metrics"],
    }


def record_of(history: History, metrics: Mapping[str, float], seconds: float) -> Record:
    """The record of the link: `metrics` on top of those of the last epoch."""
    last = max(history, default=1)
    return {
        "phase": PHASE,
        "epoch": last,
        "time": time.time(),
        "seconds": seconds,
        "metrics": history.get(last, {}) | dict(metrics),
        "vectors": {},
        "history": [{"epoch": epoch, "metrics": history[epoch]} for epoch in sorted(history)],
    }

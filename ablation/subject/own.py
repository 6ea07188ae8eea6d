"""What training functions and commands have in common: each is a chain of one link.

The worker tells them where they run (`Place`). Epochs that they report go to the study at once;
the record of the link, which holds them all, follows at the end.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ablation.subject.protocol import Fault, Record, ReportedEpoch

PHASE = "train"

History = dict[int, dict[str, float]]
"""Epoch -> what was reported of it."""


class Place(NamedTuple):
    """The trial in whose name own code runs, and where its epochs go."""

    trial: str = ""
    # folder for files of the trial; it is removed when the trial has ended
    folder: Path | None = None
    # the file that gets what is printed, as messages name it
    log: str = "the trial's stdout.log"
    # Called with each epoch as it is known so far, again when more is reported of it. True: a
    # checkpoint of it has been saved, so that it is never trained again.
    on_epoch: Callable[[ReportedEpoch, bool], None] = lambda epoch, is_saved: None


NOWHERE = Place()


class OwnCode:
    """Methods of a subject whose settings are its own business."""

    def check(self, settings: Mapping[str, Any]) -> list[Fault]:
        """No fault: what the code does with its settings is not known."""
        return []

    def resolve(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The settings as they are: the code's own defaults are not known."""
        return dict(settings)

    def baselines(self) -> Mapping[str, Mapping[str, Any]]:
        """None are built in."""
        return {}

    def metrics(self, settings: Mapping[str, Any]) -> None:
        """None: which metrics there are is known once it has run."""


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


def digest_of(parts: list[Any]) -> str:
    """A key of these JSON-able parts."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]

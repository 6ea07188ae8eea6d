"""How long epochs take, remembered from one pass to the next, so that a plan can say what it costs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ablation.damage import UNREADABLE
from ablation.execution import Listener
from ablation.runs import TrialSpec, write_atomically
from ablation.subject import Record

START, SEGMENT = "(start)", "(segment)"
"""Beside the phases: what a worker's first segment, and each later one, takes apart from its epochs."""


@dataclass
class Timings(Listener):
    """Mean seconds of an epoch by phase, as the last pass measured them.

    They are remembered for an experiment under exactly these `settings`, and for the experiment under any: a first
    pass with another network or batch size (`-S`) is forecast from other settings, the next one from its own. Arms
    whose epochs differ in cost are averaged, and so is what workers take from each other: the times are those of
    the number of jobs that they were measured with.
    """

    path: Path
    experiment: str
    settings: Mapping[str, Any]  # common to all variants
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def recorded(self, specs: Sequence[TrialSpec], record: Record) -> None:
        self.seconds.setdefault(record["phase"], []).append(record["seconds"])

    def ran(self, is_first: bool, seconds: float) -> None:
        self.seconds.setdefault(START if is_first else SEGMENT, []).append(seconds)

    def known(self) -> dict[str, float]:
        """Phase -> mean seconds, of this pass or else of the last one."""
        measured = {phase: sum(s) / len(s) for phase, s in self.seconds.items()}
        remembered = self._all()
        return remembered.get(self._exactly, remembered.get(self.experiment, {})) | measured

    def save(self) -> None:
        if self.seconds:
            both = dict.fromkeys([self.experiment, self._exactly], self.known())
            write_atomically(self.path, json.dumps(self._all() | both, indent=1) + "\n")

    @property
    def _exactly(self) -> str:
        text = json.dumps(sorted(self.settings.items()), default=str)
        return f"{self.experiment} {hashlib.sha256(text.encode()).hexdigest()[:8]}"

    def _all(self) -> dict[str, dict[str, float]]:
        """What was remembered; nothing if the file is absent or damaged: it is written again after the next pass."""
        try:
            found = json.loads(self.path.read_bytes())
        except UNREADABLE:
            return {}
        return found if _is_whole(found) else {}


def _is_whole(found: Any) -> bool:
    phases = list(found.values()) if isinstance(found, dict) else [None]
    return all(
        isinstance(phase, dict)
        and all(isinstance(seconds, (int, float)) for seconds in phase.values())
        for phase in phases
    )

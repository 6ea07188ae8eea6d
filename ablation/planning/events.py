"""What happens while a study runs, for those that follow it: the tracker, the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from ablation.storage.runs import Outcome, TrialSpec
from ablation.subject.protocol import Record


class Listener:
    """Hears how the study goes: the tracker, the terminal. Overrides what it needs."""

    def found(self, spec: TrialSpec, outcome: Outcome) -> None:
        """A trial had ended before this pass."""

    def resumed(self, spec: TrialSpec, records: Sequence[Record]) -> None:
        """Some epochs of a trial are there already."""

    def began(self, specs: Sequence[TrialSpec]) -> None:
        """A worker has begun a segment of these trials."""

    def left(self, specs: Sequence[TrialSpec]) -> None:
        """A worker has ended a segment of these trials."""

    def recorded(self, specs: Sequence[TrialSpec], record: Record) -> None:
        """An epoch of these trials is finished."""

    def ran(self, is_first: bool, seconds: float) -> None:
        """A segment, its worker's first or not, took so long apart from its epochs."""

    def finished(self, spec: TrialSpec, outcome: Outcome) -> None:
        """A trial has ended."""

    def stopping(self, n_busy: int) -> None:
        """Nothing more is begun, and so many workers finish the epoch in hand."""

    def tick(self) -> None:
        """Called about twice a second."""


class Listeners(Listener):
    """Several listeners as one: each event is passed on to all of them, in their order."""

    def __init__(self, listeners: Sequence[Listener]):
        for event in vars(Listener):
            if not event.startswith("_"):
                calls = [getattr(listener, event) for listener in listeners]
                setattr(self, event, lambda *told, calls=calls: [call(*told) for call in calls])

"""Events of a running study, and the interface of what listens to them."""

from __future__ import annotations

from collections.abc import Sequence

from ablation.planning.plan import Plan
from ablation.storage.runs import Outcome, TrialSpec
from ablation.subject.protocol import Record


class Listener:
    """Base class of listeners such as tracker and terminal; they override what they need."""

    def found(self, spec: TrialSpec, outcome: Outcome) -> None:
        """A trial had ended before this pass."""

    def resumed(self, spec: TrialSpec, records: Sequence[Record]) -> None:
        """Some epochs of a trial were recorded before this pass."""

    def replanned(self, plan: Plan) -> None:
        """The study's plan has changed: chains have become longer, or trials were added."""

    def began(self, specs: Sequence[TrialSpec]) -> None:
        """A worker has begun a segment of these trials."""

    def left(self, specs: Sequence[TrialSpec]) -> None:
        """A worker has ended a segment of these trials."""

    def recorded(self, specs: Sequence[TrialSpec], record: Record) -> None:
        """An epoch of these trials is finished."""

    def ran(self, is_first: bool, seconds: float) -> None:
        """A segment has ended. seconds: its time besides epochs; is_first: of its worker."""

    def finished(self, spec: TrialSpec, outcome: Outcome) -> None:
        """A trial has ended."""

    def stopping(self, n_busy: int) -> None:
        """The study is stopping: `n_busy` workers finish their current epoch."""

    def tick(self) -> None:
        """Called about twice a second."""


class Listeners(Listener):
    """Several listeners as one: each event is passed on to all of them, in their order."""

    def __init__(self, listeners: Sequence[Listener]):
        for event in vars(Listener):
            if not event.startswith("_"):
                calls = [getattr(listener, event) for listener in listeners]
                setattr(self, event, lambda *told, calls=calls: [call(*told) for call in calls])

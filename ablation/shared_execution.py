"""Runs a plan together with other hosts, each of which runs the same: a segment is for whoever has its lease."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ablation.errors import Stuck
from ablation.execution import CHANGED, Execution
from ablation.forest import Segment
from ablation.plan import revise
from ablation.workers import Worker

if TYPE_CHECKING:
    from ablation.hosts import Hosts


class SharedExecution(Execution):
    """One pass over a study's unfinished trials, until they have ended here or elsewhere.

    Who has taken a segment has all that others did before: so no segment is run twice, unless its host fell silent.
    """

    def __init__(self, *args: Any, hosts: Hosts, **kwargs: Any):
        self.hosts = hosts
        self.elsewhere: dict[str, Segment] = {}  # segments that this host could run, had another not taken them
        self.n_elsewhere = 0  # links that others have run in this pass
        self._ended: Segment | None = None  # whose worker's last message is being handled
        super().__init__(*args, **kwargs)
        self.names = {trial.spec.key: name for name, trial in self.plan.trials.items()}

    def _must_wait(self) -> bool:
        return super()._must_wait() or bool(self.elsewhere)

    def _take(self) -> Segment | None:
        """The most urgent segment that is this host's to run; None if there is none."""
        while (segment := self.schedule.next()) is not None:
            if self._is_there(segment):
                self._advance(segment)
            elif not self.hosts.take(segment):
                self.elsewhere[segment.end] = segment
            elif self._is_needed(segment) and self.hosts.bring(self._chain(segment)):
                return segment
            else:
                self.hosts.left(segment)
                self._reschedule()
        return None

    def _is_needed(self, segment: Segment) -> bool:
        """Whether a segment that was taken is still to be run, now that all is known that others did."""
        before, failed = self.plan, self._adopt_failures()
        for name in segment.trials:
            if name in self.open:  # a warm-up may have been found to end before
                self.plan = revise(self.study, self.plan, self.shared_store, name)
        is_wanted = any(name in self.open for name in segment.trials)
        return is_wanted and not failed and self.plan is before and not self._is_there(segment)

    def _chain(self, segment: Segment) -> list[Any]:
        """All links up to a segment's end."""
        links = self.plan.trials[self._on_behalf_of(segment)].links
        return links[: 1 + next(i for i, link in enumerate(links) if link.key == segment.end)]

    def _handle(self, worker: Worker, message: dict[str, Any]) -> None:
        task = worker.task
        self._ended = task.segment if task is not None else None
        super()._handle(worker, message)
        if task is not None and worker.task is None:
            self.hosts.left(task.segment)

    def _hear_of_others(self) -> None:
        """Take note of what others have done."""
        held = self.hosts.look()
        if self._adopt_failures():
            self._reschedule()
        keys, self.hosts.records = self.hosts.records, []
        for key in keys:
            segment = self._segments.get(key)
            if segment is not None:
                self.n_elsewhere += 1
                self._record(segment, key, self.shared_store.record(key))
        if held is None:
            return
        for segment in list(self.elsewhere.values()):
            if self.elsewhere.get(segment.end) is not segment:  # all was scheduled anew
                continue
            if self._is_there(segment):
                del self.elsewhere[segment.end]
                self._advance(segment)
            elif held.isdisjoint(link.key for link in segment.links):
                del self.elsewhere[segment.end]
                self.schedule.put_back(segment.end)

    def _adopt_failures(self) -> bool:
        """Close the trials that have failed elsewhere; returns whether one was open."""
        found = {self.names[key]: outcome for key, outcome in self.hosts.failures.items() if key in self.names}
        self.hosts.failures.clear()
        adopted = [name for name in found if name in self.open]
        for name in adopted:
            if not self._complete_if_whole(name):  # which counts more than a failure
                self._close(self.plan.trials[name].spec, found[name])
        return bool(adopted)

    def _fail(self, name: str, error: dict[str, str]) -> None:
        """Let a trial have failed for all hosts, if the segment was still this one's; else it stays open.

        Raises Stuck where the fault may be the host's: a broken installation would fail whatever it gets hold of.
        """
        if name not in self.open:
            return
        if error["type"] == CHANGED["type"] or (not self.n_trained and self.hosts.others()):
            what = "data or source have changed here" if error["type"] == CHANGED["type"] else "it has finished no epoch yet"
            raise Stuck(f"this host stops, and leaves {name} to the others: {what}, and {error['type']}: {error['message']}")
        if self.hosts.catch_up() and self._complete_if_whole(name):
            return
        outcome = self._failure(name, error)
        if self.hosts.fail(self._ended, self.plan.trials[name].spec.key, outcome):
            self._close(self.plan.trials[name].spec, outcome)

    def _reschedule(self) -> None:
        super()._reschedule()
        self.elsewhere.clear()
        self._segments = {link.key: segment for segment in self.schedule.segments.values() for link in segment.links}

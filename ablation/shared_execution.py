"""Runs a plan together with other hosts, each of which runs the same: a segment is for whoever has its lease.

What a segment came to counts when it has been given to the others while it was still this host's. A trial has failed if
it failed on a host that can run trials: one that has finished an epoch in this pass. On another it may be the host, so
the failure is kept back until an epoch is finished, or until there is nothing else to try; then it counts if another
host has met it too, or none is there, and else the host stops, and leaves the trial to the others.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ablation import interruption
from ablation.errors import Stuck
from ablation.execution import CHANGED, Execution
from ablation.forest import Segment
from ablation.outcome import reason
from ablation.plan import revise
from ablation.runs import Outcome, TrialSpec
from ablation.shared_store import RECORD, News
from ablation.supervision import Task
from ablation.workers import Worker, Workers

if TYPE_CHECKING:
    from ablation.hosts import Given, Hosts

MAX_DOUBTS = 3  # segments that fail on a host that has finished no epoch, before it stops
LOST = {"type": "LeaseLost", "message": "another host has taken over what this worker was doing", "traceback": ""}


class Ended(NamedTuple):
    """What came of a segment, before the others have it."""

    segment: Segment
    is_done: bool
    failures: dict[str, Outcome]  # trial -> how it failed


class SharedExecution(Execution):
    """One pass over a study's unfinished trials, until they have ended here or elsewhere.

    Who has taken a segment has all that others did before: so no segment is run twice, unless its host fell silent.
    """

    def __init__(self, *args: Any, hosts: Hosts, **kwargs: Any):
        self.hosts = hosts
        self.elsewhere: dict[str, Segment] = {}  # segments that this host could run, had another not taken them
        self.n_elsewhere = 0  # links that others have run in this pass
        self._ends: dict[str, Ended] = {}  # of segments that no worker has any more, and others do not have yet
        self._doubts: list[str] = []  # ends of those that are kept back
        self._is_proven = False  # an epoch was finished here
        self._without_records: set[str] = set()  # trials that have failed before their records were whole
        super().__init__(*args, **kwargs)
        self._without_records |= {name for name in self.failed if not self._is_whole(name)}  # in earlier passes
        self.names = {trial.spec.key: name for name, trial in self.plan.trials.items()}

    def _must_wait(self) -> bool:
        return super()._must_wait() or bool(self.elsewhere)

    def _hand_out(self, workers: Workers) -> None:
        self._workers = workers
        super()._hand_out(workers)
        is_idle = self.running.keys() <= self._ends.keys()
        if self._doubts and (is_idle or len(self._doubts) >= MAX_DOUBTS):
            self._hand_in_doubts(is_doubted=True)

    def _take(self) -> Segment | None:
        """The most urgent segment that is this host's to run; None if there is none."""
        while (segment := self.schedule.next()) is not None:
            if self._is_there(segment):
                self._advance(segment)
            elif (news := self.hosts.take(segment)) is None:
                self.elsewhere[segment.end] = segment
            elif self._is_needed(segment, news) and self.hosts.bring(self._chain(segment)):
                return segment
            else:
                self.hosts.left(segment)
                self._reschedule()
        return None

    def _is_needed(self, segment: Segment, news: News) -> bool:
        """Whether a segment that was taken is still to be run, now that all is known that others did."""
        before, has_changed = self.plan, self._adopt(news)
        for name in segment.trials:
            if name in self.open:  # a warm-up may have been found to end before
                self.plan = revise(self.study, self.plan, self.shared_store, name)
        is_wanted = any(name in self.open for name in segment.trials)
        return is_wanted and not has_changed and self.plan is before and not self._is_there(segment)

    def _chain(self, segment: Segment) -> list[Any]:
        """All links up to a segment's end."""
        links = self.plan.trials[self._on_behalf_of(segment)].links
        return links[: 1 + next(i for i, link in enumerate(links) if link.key == segment.end)]

    def _handle(self, worker: Worker, message: dict[str, Any]) -> None:
        if message["event"] == "record" and any(link.key == message["key"] for link in worker.task.segment.links):
            self._is_proven = True
        super()._handle(worker, message)

    def _struck(self, task: Task, message: dict[str, Any]) -> Sequence[str]:
        return [] if message.get("error") == LOST else super()._struck(task, message)

    def _ended(self, segment: Segment, is_done: bool, failures: dict[str, Outcome]) -> None:
        """Go on when the others have what came of it: until then the segment counts as running."""
        self._ends[segment.end] = Ended(segment, is_done, failures)
        if failures and not self._is_proven:
            self._doubts.append(segment.end)
        else:
            self._hand_in(segment.end)

    def _hand_in(self, end: str, is_doubted: bool = False) -> None:
        segment, _, failures = self._ends[end]
        self.hosts.left(segment, {self.plan.trials[name].spec.key: outcome for name, outcome in failures.items()}, is_doubted)

    def _hand_in_doubts(self, is_doubted: bool) -> None:
        for end in self._doubts:
            self._hand_in(end, is_doubted)
        self._doubts.clear()

    def _hear_of_others(self) -> None:
        """Take note of what others have done, and of what they have from this host."""
        if self._is_proven:
            self._hand_in_doubts(is_doubted=False)
        news, given, lost, held = self.hosts.look()
        if self._adopt(news):
            self._reschedule()
        for segment in lost:
            for worker in self._workers.busy():
                if worker.task.segment is segment:
                    worker.kill(LOST)
        self._go_on(given)
        if interruption.requested() and (self.hosts.is_out_of_reach or self._doubts):  # the files have it, for the next time
            for end in self._ends:
                del self.running[end]
            self._ends.clear()
            self._doubts.clear()
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

    def _go_on(self, given: Collection[Given]) -> None:
        """Go on after segments that the others have by now. Raises Stuck if this host is not fit to."""
        refused = []
        for segment, is_lost, has_failed in given:
            ended = self._ends.pop(segment.end, None)
            if ended is None:  # it was taken, and was not needed
                continue
            failures = ended.failures if has_failed else {}
            if ended.failures and not has_failed and not is_lost:
                refused += ended.failures.items()
            super()._ended(segment, ended.is_done and not is_lost, failures)
        if refused:
            name, outcome = refused[0]
            raise Stuck(f"this host stops, and leaves {name} to the others: it has finished no epoch yet, and {reason(outcome)}")

    def _changed(self, segment: Segment) -> None:
        what = f"data or source have changed here, and {CHANGED['type']}: {CHANGED['message']}"
        raise Stuck(f"this host stops, and leaves {segment.trials[0]} to the others: {what}")

    def _adopt(self, news: News) -> bool:
        """Take over what others have done; returns whether trials were closed, or opened again, by it."""
        before = self.open.copy()
        for key in news.records:
            segment = self._segments.get(key)
            if segment is not None:
                self.n_elsewhere += 1
                self._record(segment, key, self.shared_store.record(key))
        chains = {name: trial.links for name, trial in self.plan.trials.items()} if news.replaced else {}
        again = set(self.shared_store.forsake_after(news.replaced, chains)) - self.open - self._without_records
        if news.records:
            again |= {name for name in self._without_records if self._is_whole(name)}  # which counts more than a failure
        for name in again:
            self._open_again(name)
        for key, outcome in news.failures.items():
            name = self.names.get(key)
            if name in self.open and not self._complete_if_whole(name):
                self._close(self.plan.trials[name].spec, outcome)
        return self.open != before or bool(again)

    def _open_again(self, name: str) -> None:
        """A trial that had ended, and has other records now; it may have ended by these, too."""
        self.failed.pop(name, None)
        self._without_records.discard(name)
        self.open.add(name)
        self.plan = revise(self.study, self.plan, self.shared_store, name)
        self._start_over(name)

    def _is_whole(self, name: str) -> bool:
        return all(self.shared_store.holds_here(RECORD, link.key) for link in self.plan.trials[name].links)

    def _close(self, spec: TrialSpec, outcome: Outcome) -> None:
        super()._close(spec, outcome)
        if not self._is_whole(spec.trial):
            self._without_records.add(spec.trial)

    def _reschedule(self) -> None:
        super()._reschedule()
        self.elsewhere.clear()
        self._segments = {link.key: segment for segment in self.schedule.segments.values() for link in segment.links}

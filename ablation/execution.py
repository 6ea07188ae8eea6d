"""Runs a plan: hands segments to workers, longest remaining path first, and writes what comes back.

A shared prefix is one segment and runs once; the segments that need it wait for it. Results do not depend on
the number of workers or on who finishes first: only keys decide what is computed, and records come from the
store.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from ablation import interruption
from ablation.errors import Stuck
from ablation.grid import Study
from ablation.limits import Limits
from ablation.outcome import expanded, failure_of, outcome_of, reason
from ablation.plan import Plan, revise
from ablation.runs import Outcome, RunFolder, TrialSpec
from ablation.schedule import Schedule, Segment, has_records, is_there
from ablation.store import DiskStore
from ablation.subject import Link, Record
from ablation.supervision import Supervision, Task
from ablation.workers import Worker, Workers

TICK_SECONDS = 0.5
LOOKS = 5  # for something to run, before it is said that there is nothing
OF_A_PROCESS = ("WorkerDied", "OutOfMemory")
CHANGED = {
    "type": "PlanChanged",
    "message": "the worker ran, and did not leave what was planned: data or source changed while the study ran; run it again",
    "traceback": "",
}


class Listener:
    """Who is told how the study goes: the tracker, the terminal. Overrides what it wants to hear."""

    def found(
        self, spec: TrialSpec, outcome: Outcome
    ) -> None: ...  # a trial that had ended before this pass
    def resumed(
        self, spec: TrialSpec, records: Sequence[Record]
    ) -> None: ...  # a trial of which some epochs are there
    def began(
        self, specs: Sequence[TrialSpec]
    ) -> None: ...  # a segment of these trials is in a worker's hands
    def left(self, specs: Sequence[TrialSpec]) -> None: ...  # and is no more
    def recorded(self, specs: Sequence[TrialSpec], record: Record) -> None: ...
    def ran(
        self, is_first: bool, seconds: float
    ) -> None: ...  # a segment, its worker's first or not; seconds apart from epochs
    def finished(self, spec: TrialSpec, outcome: Outcome) -> None: ...
    def stopping(
        self, n_busy: int
    ) -> None: ...  # nothing more is begun, and so many workers finish the epoch in hand
    def tick(self) -> None: ...


class Execution:
    """One pass over a study's unfinished trials.

    Without `share`, every trial computes all of its epochs, in a store of its own that goes when the trial is
    complete: the check that sharing changes nothing.
    """

    def __init__(
        self, study: Study, plan: Plan, store: DiskStore, folder: RunFolder, listener: Listener, share: bool = True,
        limits: Limits = Limits(),
    ):  # fmt: skip
        self.study, self.plan, self.shared_store, self.folder, self.listener = (
            study,
            plan,
            store,
            folder,
            listener,
        )
        self.share, self.supervision = share, Supervision(limits)
        self.open: set[str] = set()
        self.failed: dict[str, str] = {}  # trial -> reason, in this pass and in earlier ones
        for name, trial in plan.trials.items():
            outcome = folder.ending(trial.spec)
            if outcome is None:
                self.open.add(name)
                continue
            listener.found(trial.spec, outcome)
            if outcome.state == "FAILED":
                self.failed[name] = reason(outcome)
        self.n_failed_before = len(self.failed)
        self.running: dict[str, Segment] = {}
        self.n_trained = 0  # links run in this pass
        self._written: defaultdict[str, set[str]] = defaultdict(
            set
        )  # open trial -> keys of the links in its metrics.jsonl
        for name in list(self.plan.trials):
            if name in self.open:
                self._start_over(name)

    def run(self, jobs: int, make_workers: Callable[[int], Workers] | None = None) -> Plan:
        """Run to the end, or until this process is asked to stop; returns the plan with every chain's length as known then.

        Raises Stuck when a disk is full.
        """
        if not self.open:
            return self.plan
        self._reschedule()
        is_stopping = False
        with (make_workers or Workers)(jobs) as workers:
            while self.open and (self.running or not is_stopping):
                if not interruption.requested():
                    self._hand_out(workers)
                elif not is_stopping:
                    is_stopping = True
                    workers.stop()
                    self.listener.stopping(len(self.running))
                for event in workers.wait(TICK_SECONDS):
                    self._handle(event.worker, event.message)
                self.supervision.enforce(workers.busy())
                self.listener.tick()
        return self.plan

    def _hand_out(self, workers: Workers) -> None:
        """Give every idle worker the most urgent segment that can run."""
        while (worker := workers.idle()) is not None:
            segment = self._next()
            if segment is None:
                return
            self.running[segment.end] = segment
            trial = self._on_behalf_of(segment)
            worker.send(
                self._request(segment, trial),
                Task(segment, trial, worker.is_new, *self._seconds_known(segment, trial)),
            )
            self.listener.began(self._specs(segment))

    def _next(self) -> Segment | None:
        """The most urgent segment that can run; None if all must wait for others, or no trial is open."""
        for _ in range(LOOKS):
            segment = self.schedule.next()
            if segment is not None or self.running or not self.open:
                return segment
            self._reschedule()  # another study may have left what was missing when trials were last closed
        raise RuntimeError(
            f"nothing can run, and {len(self.open)} trials are not finished: {', '.join(sorted(self.open)[:3])}"
        )

    def _handle(self, worker: Worker, message: dict[str, Any]) -> None:
        task: Task | None = worker.task
        if message["event"] == "record":
            self.n_trained += 1
            is_new = self._record(task.segment, message["key"], message["record"])
            self.supervision.recorded(task, message["key"], message["record"]["seconds"], is_new)
            return
        worker.task = None
        if task is None:  # an idle worker died: another takes its place
            return
        self.listener.left(self._specs(task.segment))
        if message["event"] == "blocked":
            raise Stuck(message["message"])
        if message["event"] == "done":
            self.listener.ran(task.is_first, time.monotonic() - task.begun - task.epoch_seconds)
        failures = {
            name: self._failure(name, message["error"])
            for name in self._struck(task, message)
            if name in self.open
        }
        del self.running[task.segment.end]
        for name, outcome in failures.items():
            self._close(self.plan.trials[name].spec, outcome)
        if message["event"] == "done":
            self._advance(task.segment)
        else:  # the rest of it is tried again by the trials that have not failed
            self._reschedule()

    def _struck(self, task: Task, message: dict[str, Any]) -> Sequence[str]:
        """The trials that fail by the last message of a segment; if it was not finished, the others of it try again."""
        if message["event"] in ("done", "stopped"):
            return []
        if message["event"] == "lost":
            return (
                [task.trial]
                if not interruption.requested() and self.supervision.blames(task)
                else []
            )
        # a death takes the trial whose worker it was; an exception, or a limit, would meet all
        return [task.trial] if message["error"]["type"] in OF_A_PROCESS else task.segment.trials

    def _advance(self, segment: Segment) -> None:
        """Go on after a segment: close what it completes, and make way for what waited for it."""
        before, is_recorded = self.plan, has_records(segment, self._store(segment.trials[0]))
        for name in segment.trials:
            if name in self.open:
                self.plan = revise(self.study, self.plan, self._store(name), name)
        reached = [
            name
            for name in segment.trials
            if self.plan.trials[name].links[-1].key == segment.links[-1].key
        ]
        unclosed = [name for name in reached if not self._complete_if_whole(name)]
        if (
            self.plan is before and not is_recorded
        ):  # its checkpoint may be evicted by now; who needs it makes it again
            self._changed(segment)
            self._reschedule()
        elif (
            self.plan is not before
            or unclosed
            or self.schedule.segments.get(segment.end) != segment
        ):
            self._reschedule()
        else:
            self.schedule.done(segment.end)

    def _changed(self, segment: Segment) -> None:
        """A worker has run a segment, and left something else."""
        for name in segment.trials:
            if name in self.open:
                self._close(self.plan.trials[name].spec, self._failure(name, CHANGED))

    def _reschedule(self) -> None:
        in_hand = {
            name for segment in self.running.values() for name in segment.trials
        }  # closed when their worker says so
        for name in [
            name for name in self.plan.trials if name in self.open and name not in in_hand
        ]:
            self._complete_if_whole(name)
        chains = {
            name: self.plan.trials[name].links for name in self.plan.trials if name in self.open
        }
        busy = (
            [link.key for segment in self.running.values() for link in segment.links]
            if self.share
            else self.running
        )
        self.schedule = Schedule(chains, self.share, self._is_there, busy)

    def _specs(self, segment: Segment) -> list[TrialSpec]:
        return [self.plan.trials[name].spec for name in segment.trials]

    def _store(self, trial: str) -> DiskStore:
        return (
            self.shared_store
            if self.share
            else self.shared_store.alone(self.folder.path.name, trial)
        )

    def _is_there(self, segment: Segment) -> bool:
        return is_there(segment, self._store(segment.trials[0]))

    def _on_behalf_of(self, segment: Segment) -> str:
        """A trial whose length is undecided goes first: it leaves a checkpoint where it turns off."""
        candidates = [name for name in segment.trials if name in self.open]
        return next(
            (name for name in candidates if self.plan.trials[name].undecided), candidates[0]
        )

    def _seconds_known(self, segment: Segment, trial: str) -> tuple[dict[str, float], int]:
        """What the epochs of a chain that are there took, by key and in order, up to the end of a segment; and after how many
        of them a checkpoint lets it go on. Nothing where no limit asks for it."""
        if self.supervision.limits.seconds is None:
            return {}, 0
        links, store = self.plan.trials[trial].links, self._store(trial)
        links = links[: [link.key for link in links].index(segment.end) + 1]
        seconds = {link.key: record["seconds"] for link, record in zip(links, _known(store, links))}
        return seconds, max(
            (i for i, key in enumerate(seconds, 1) if store.holds("state", key)), default=0
        )

    def _request(self, segment: Segment, trial: str) -> dict[str, Any]:
        spec = self.plan.trials[trial].spec
        return {
            "subject": self.study.experiment.subject, "settings": spec.settings, "seed": spec.seed, "until": segment.links[-1].key,
            "cache": str(self._store(trial).root.resolve()), "log": str((self.folder.trial_path(trial) / "stdout.log").resolve()),
        }  # fmt: skip

    def _start_over(self, name: str) -> None:
        """The trial's folder as the store has it: config, and the records that are there already."""
        trial = self.plan.trials[name]
        path = self.folder.trial_path(name)
        for stale in ("outcome.json", "metrics.jsonl"):
            (path / stale).unlink(missing_ok=True)
        self.folder.write_config(trial.spec, self.study.subject.resolve(trial.spec.settings))
        if not self._complete_if_whole(name):
            known = _known(self._store(name), trial.links)
            self._written[name] = {link.key for link, _ in zip(trial.links, known)}
            if known:
                self.folder.write_records(name, list(expanded(known)))
                self.listener.resumed(trial.spec, known)

    def _record(self, segment: Segment, key: str, record: Record) -> bool:
        """Write an epoch to the trials that have none of it yet; whether there are any. A worker that goes on from a checkpoint
        repeats those after it."""
        names = [
            name for name in segment.trials if name in self.open and key not in self._written[name]
        ]
        for name in names:
            self._written[name].add(key)
            for entry in expanded([record]):
                self.folder.append_record(name, entry)
        self.listener.recorded([self.plan.trials[name].spec for name in names], record)
        return bool(names)

    def _complete_if_whole(self, name: str) -> bool:
        """Close the trial if all its records are there."""
        trial, store = self.plan.trials[name], self._store(name)
        if name not in self.open or not all(
            store.holds("record", link.key) for link in reversed(trial.links)
        ):
            return False
        records = _known(store, trial.links)
        if len(records) < len(trial.links):  # one was damaged: it is run again
            return False
        self.folder.write_records(name, list(expanded(records)))
        self._close(trial.spec, outcome_of(trial.spec, records, self.study.grid.metric))
        return True

    def _failure(self, name: str, error: dict[str, str]) -> Outcome:
        """How a trial has failed; its folder then has what was recorded of it."""
        trial = self.plan.trials[name]
        records = _known(self._store(name), trial.links)
        if records:
            self.folder.write_records(name, list(expanded(records)))
        return failure_of(trial.spec, records, error)

    def _close(self, spec: TrialSpec, outcome: Outcome) -> None:
        self.open.discard(spec.trial)
        self._written.pop(spec.trial, None)
        self.folder.write_outcome(spec.trial, outcome)
        if outcome.state == "FAILED":
            self.failed[spec.trial] = reason(outcome)
        elif not self.share:
            self._store(
                spec.trial
            ).clear()  # all that is still needed of it is in the trial's folder
        self.listener.finished(spec, outcome)


def _known(store: DiskStore, links: Sequence[Link]) -> list[Record]:
    """The records of a chain up to the first that is missing."""
    records = []
    for link in links:
        record = store.record(link.key)
        if record is None:
            break
        records.append(record)
    return records

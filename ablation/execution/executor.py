"""Run a plan: send segments to workers, longest remaining path first, and write their records.

A shared prefix is one segment and runs once; the segments that need it wait for it. Results do not
depend on the number of workers or on the order in which they finish: only keys decide what is
computed, and records are read from the store.
"""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence

from ablation import interruption
from ablation.errors import DiskFull
from ablation.execution.systematic import Failures
from ablation.execution.workers import (
    NO_LIMITS,
    Limits,
    Message,
    Request,
    Supervision,
    Task,
    Worker,
    Workers,
)
from ablation.grid.load import Study
from ablation.planning.forecast import Listener
from ablation.planning.plan import (
    Plan,
    Planner,
    Schedule,
    Segment,
    has_records,
    is_there,
)
from ablation.storage.cache import DiskStore
from ablation.storage.runs import (
    LOG,
    MISSING,
    UNSCORED,
    WORK,
    Failure,
    Outcome,
    RunFolder,
    TrialSpec,
    expanded,
    failure,
    failure_of,
    outcome_of,
    reason,
    up_to,
)
from ablation.subject.command import CommandSubject
from ablation.subject.measured import line_naming
from ablation.subject.own import record_of
from ablation.subject.protocol import LinkLike, Record

TICK_SECONDS = 0.5
# name of what a subject raises where it does not compute what was planned
PLAN_CHANGED = "PlanChanged"
# for a segment that can run, while other studies write to the cache
LOOKS = 5
CHANGED = failure(
    PLAN_CHANGED,
    "the worker ended without the planned records: "
    "data or source changed while the study ran; run it again",
)


class Execution:
    """One pass over a study's unfinished trials.

    Without `share`, every trial computes all of its epochs, in a store of its own that goes when
    the trial is complete: the check that sharing changes nothing.
    """

    def __init__(
        self,
        study: Study,
        plan: Plan,
        store: DiskStore,
        folder: RunFolder,
        listener: Listener,
        share: bool = True,
        limits: Limits = NO_LIMITS,
        planner: Planner | None = None,
        keep_going: bool = False,
        only: Collection[str] = (),
    ):
        self.planner = planner or Planner(study)
        self.study, self.plan, self.folder, self.listener = study, plan, folder, listener
        self.shared_store, self.share = store, share
        self.supervision = Supervision(limits)
        # arms whose trials alone are taken up; all, if there are none
        self.only = only
        # trials of the others that have not ended
        self.n_left_out = 0
        self.open: set[str] = set()
        # trial -> reason, in this pass and in earlier ones
        self.failed: dict[str, str] = {}
        self.n_failed_before = 0
        self.failures = Failures()
        if keep_going:
            self.failures.ran()
        # name of a segment -> the segment, of those that workers compute
        self.running: dict[str, Segment] = {}
        # whether code or data are no longer what was planned: nothing more is begun
        self.is_outdated = False
        # links run in this pass
        self.n_trained = 0
        # open trial -> keys of the links in its metrics.jsonl
        self._written: defaultdict[str, set[str]] = defaultdict(set)
        # open trial -> the last epoch that own code has reported of a link that goes on; those
        # before it are in its metrics.jsonl
        self._within: dict[str, Record] = {}
        # open trial of own code that the planner has ended -> its record up to then
        self._cut: dict[str, Record] = {}
        # whether trials have ended since the planner was last asked for more
        self._have_ended = True
        self._take_up(plan.trials)
        self._grow()

    def run(self, jobs: int, make_workers: Callable[[int], Workers] | None = None) -> Plan:
        """Run to the end, or until this process is asked to stop, or the study is given up.

        Returns the plan as it is then.

        Raises DiskFull when a disk is full.
        """
        if not self.open:
            return self.plan
        self._reschedule()
        self._grow_and_reschedule()
        is_stopping = False
        with (make_workers or Workers)(jobs) as workers:
            while self.open and (self.running or not (is_stopping or self._is_given_up)):
                if not interruption.requested():
                    # those in hand may yet show that trials can run: then the study goes on
                    if not self._is_given_up:
                        self._hand_out(workers)
                elif not is_stopping:
                    is_stopping = True
                    workers.stop()
                    self.listener.stopping(len(self.running))
                for event in workers.wait(TICK_SECONDS):
                    self._handle(event.worker, event.message)
                self._grow_and_reschedule()
                self.supervision.enforce(workers.busy())
                self.listener.tick()
        return self.plan

    @property
    def _is_given_up(self) -> bool:
        return self.is_outdated or bool(self.given_up_for)

    @property
    def given_up_for(self) -> list[str]:
        """The trials whose failures show that those which are open would fail, too; [] if none."""
        # asked in each turn, and there may be 10,000 trials: they are looked at only if need be
        specs = (trial.spec for trial in self.plan.trials.values())
        planned = (spec for spec in specs if self._is_due(spec))
        if not (self.open and self.failures.are_systematic(planned)):
            return []
        return [spec.trial for spec in self.failures.specs]

    def _is_due(self, spec: TrialSpec) -> bool:
        return not self.only or spec.arm in self.only

    def _take_up(self, names: Iterable[str]) -> None:
        """Sort trials that are new to this pass: ended before, or open."""
        taken = []
        for name in names:
            spec = self.plan.trials[name].spec
            outcome, is_due = self.folder.ending(spec), self._is_due(spec)
            if outcome is None:
                self.n_left_out += not is_due
                taken += [name] * is_due
                continue
            if is_due:
                self.listener.found(spec, outcome)
            if outcome.state == "FAILED":
                self.failed[name] = reason(outcome)
                self.n_failed_before += 1
            else:
                self.failures.ran()
        self.open.update(taken)
        for name in taken:
            self._start_over(name)

    def _grow(self) -> bool:
        """Take up the trials that the planner adds; returns whether it added any."""
        before = self.plan
        while self._have_ended:
            self._have_ended = False
            known = self.plan.trials
            self._replan(self.planner.grown(self.plan))
            # some of them may have ended before: then more may be due
            self._take_up([name for name in self.plan.trials if name not in known])
            self._have_ended |= self.plan.trials is not known
        return self.plan is not before

    def _grow_and_reschedule(self) -> None:
        while self._grow():
            # may close some of them: then more may be due
            self._reschedule()

    def _replan(self, plan: Plan) -> bool:
        """Go on by this plan; returns whether it is another one."""
        if plan is self.plan:
            return False
        self.plan = plan
        self.listener.replanned(plan)
        return True

    def _hand_out(self, workers: Workers) -> None:
        """Give every idle worker the most urgent segment that can run."""
        while (worker := workers.idle()) is not None:
            segment = self._next()
            if segment is None:
                return
            self.running[segment.end] = segment
            trial = self._on_behalf_of(segment)
            seconds = self._seconds_before(segment, trial)
            task = Task(segment, trial, worker.is_new, seconds)
            worker.send(self._request(segment, trial), task)
            self.listener.began(self._specs(segment))

    def _next(self) -> Segment | None:
        """The most urgent segment that can run; None if all wait, or none is left."""
        for _ in range(LOOKS):
            segment = self.schedule.next()
            if segment is not None or self.running or not self.open:
                return segment
            # another study may have left what was missing when trials were last closed
            self._reschedule()
        left = ", ".join(sorted(self.open)[:3])
        raise RuntimeError(f"nothing can run, and {len(self.open)} trials are not finished: {left}")

    def _handle(self, worker: Worker, message: Message) -> None:
        task = worker.task
        if task is None:
            # an idle worker died: another takes its place
            return
        if message.event == "epoch" and message.record is not None:
            self._record_within(task, message.record, message.is_saved)
            if self._is_cut(task.segment) and not task.is_to_stop:
                task.is_to_stop = True
                worker.stop()
            return
        if message.record is not None:
            self.n_trained += 1
            task.recorded(message.record["seconds"])
            self._record(task, message.key, message.record)
            return
        worker.task = None
        if task.is_to_stop and message.event == "done":
            # the request may come yet, and another task must not take it for its own
            worker.end(kill=False)
        self.listener.left(self._specs(task.segment))
        if message.event == "blocked":
            raise DiskFull(message.error["message"])
        del self.running[task.segment.end]
        if message.event == "done":
            self.listener.ran(task.is_first, time.monotonic() - task.begun - task.epoch_seconds)
            self._advance(task.segment)
        elif message.event == "failed" and message.error["type"] == PLAN_CHANGED:
            # its trials stay open: the next plan has them
            self.is_outdated = True
        else:
            self._fail(self._to_blame(task, message), message.error)
            # the others try the rest of it again
            self._reschedule()

    def _to_blame(self, task: Task, message: Message) -> Sequence[str]:
        """The trials that fail because a segment was not finished; [] if it is only run again."""
        if message.event == "stopped":
            return []
        if message.event == "lost":
            if interruption.requested() or not self.supervision.is_lost_too_often(task.trial):
                return []
            return [task.trial]
        # an exception, or a limit, would meet all trials that share the segment
        is_of_process = message.error["type"] == "WorkerDied"
        return [task.trial] if is_of_process else task.segment.trials

    def _advance(self, segment: Segment) -> None:
        """Close the trials that a segment completes; make the segments after it available."""
        before, is_recorded = self.plan, has_records(segment, self._store(segment.trials[0]))
        for name in segment.trials:
            if name in self.open:
                self._replan(self.planner.revised(self.plan, name, self._store(name)))
        is_revised = self.plan is not before
        if not is_recorded and not is_revised:
            self._fail(segment.trials, CHANGED)
        last = segment.links[-1].key
        ending = [name for name in segment.trials if self.plan.trials[name].links[-1].key == last]
        are_closed = all([self._complete_if_whole(name) for name in ending])
        is_as_scheduled = self.schedule.segments.get(segment.end) == segment
        if is_recorded and not is_revised and are_closed and is_as_scheduled:
            self.schedule.done(segment.end)
        else:
            self._reschedule()

    def _reschedule(self) -> None:
        # trials that a worker is computing are closed when it reports their end
        in_hand = {name for segment in self.running.values() for name in segment.trials}
        for name in self.plan.trials:
            if name in self.open and name not in in_hand:
                self._complete_if_whole(name)
        # seed by seed: what all arms have in common, such as an error, is soon known
        due = sorted(self.plan.trials.values(), key=lambda trial: trial.spec.seed)
        chains = {trial.spec.trial: trial.links for trial in due if trial.spec.trial in self.open}
        links = [link.key for segment in self.running.values() for link in segment.links]
        busy = links if self.share else self.running
        self.schedule = Schedule(chains, self.share, self._is_there, busy)

    def _specs(self, segment: Segment) -> list[TrialSpec]:
        return [self.plan.trials[name].spec for name in segment.trials]

    def _store(self, trial: str) -> DiskStore:
        if self.share:
            return self.shared_store
        return self.shared_store.alone(self.folder.path.name, trial)

    def _is_there(self, segment: Segment) -> bool:
        return is_there(segment, self._store(segment.trials[0]))

    def _on_behalf_of(self, segment: Segment) -> str:
        """A trial of undecided length goes first: it leaves a checkpoint where it turns off."""
        candidates = [name for name in segment.trials if name in self.open]
        undecided = (name for name in candidates if self.plan.trials[name].undecided)
        return next(undecided, candidates[0])

    def _seconds_before(self, segment: Segment, trial: str) -> float:
        """What a trial's epochs took up to the last checkpoint; 0 if no limit asks for it."""
        if self.supervision.limits.seconds is None:
            return 0.0
        links, store = self.plan.trials[trial].links, self._store(trial)
        links = links[: [link.key for link in links].index(segment.links[-1].key)]
        records = _known(store, links)
        n_done = max(
            (i for i, link in enumerate(links, 1) if store.holds("state", link.key)), default=0
        )
        return sum(record["seconds"] for record in records[:n_done])

    def _request(self, segment: Segment, trial: str) -> Request:
        spec, path = self.plan.trials[trial].spec, self.folder.trial_path(trial).resolve()
        return {
            "subject": self.study.experiment.subject,
            "settings": spec.settings,
            "seed": spec.seed,
            "until": segment.links[-1].key,
            "cache": str(self._store(trial).root.resolve()),
            "log": str(path / LOG),
            "trial": trial,
            "folder": str(path / WORK),
        }

    def _start_over(self, name: str) -> None:
        """Write the trial's folder as the store has it: config, and the records so far."""
        trial = self.plan.trials[name]
        path = self.folder.trial_path(name)
        before = self.folder.outcome(name)
        if before is not None and before.key != trial.spec.key:
            self.folder.remove_kept(name)
        for stale in ("outcome.json", "metrics.jsonl"):
            (path / stale).unlink(missing_ok=True)
        self.folder.write_config(trial.spec, self.study.subject.resolve(trial.spec.settings))
        if not self._complete_if_whole(name):
            known = _known(self._store(name), trial.links)
            self._written[name] = {link.key for link in trial.links[: len(known)]}
            if known:
                self.folder.write_records(name, expanded(known))
                self.listener.resumed(trial.spec, known)

    def _record(self, task: Task, key: str, record: Record) -> None:
        """Append an epoch to the files of its trials, except where it is already written."""
        names = [
            name
            for name in task.segment.trials
            if name in self.open and name not in self._cut and key not in self._written[name]
        ]
        for name in names:
            self._written[name].add(key)
            within = self._within.pop(name, None)
            for entry in expanded([record]):
                if within is None or entry["epoch"] >= within["epoch"]:
                    self.folder.append_record(name, entry)
        self.listener.recorded([self.plan.trials[name].spec for name in names], record)
        if names:
            self.supervision.made_progress(task.trial)

    def _record_within(self, task: Task, record: Record, is_saved: bool) -> None:
        """Take what own code has reported of an epoch within a link that goes on.

        It is written to the trials' files once a later epoch has begun: then it is whole.
        """
        trials = [name for name in task.segment.trials if name in self.open]
        names = [name for name in trials if name not in self._cut]
        for name in names:
            last = self._within.get(name, record)
            if last["epoch"] < record["epoch"]:
                self.folder.append_record(name, last)
                if self.planner.ends_after(name, last):
                    self._cut[name] = self._reported(name, time.monotonic() - task.begun)
            if last["epoch"] <= record["epoch"]:
                self._within[name] = record
        self.listener.reported([self.plan.trials[name].spec for name in names], record)
        if is_saved:
            self.supervision.made_progress(task.trial)

    def _is_cut(self, segment: Segment) -> bool:
        """Whether the planner has ended all trials that a segment is computed for."""
        trials = [name for name in segment.trials if name in self.open]
        return bool(trials) and self._cut.keys() >= set(trials)

    def _reported(self, name: str, seconds: float) -> Record:
        """The record of a trial of own code up to the last epoch in its files."""
        reported = self.folder.records(name)
        return record_of({one["epoch"]: one["metrics"] for one in reported}, {}, seconds)

    def _up_to_end(self, name: str, record: Record) -> Record:
        """The record of a link, up to the epoch with which the planner ends the trial."""
        if "history" not in record:
            return record
        *epochs, _ = expanded([record])
        for epoch in epochs:
            if self.planner.ends_after(name, epoch):
                return up_to(record, epoch["epoch"])
        return record

    def _complete_if_whole(self, name: str) -> bool:
        """Close the trial if all its records are there, and no more are asked for."""
        if name not in self.open:
            return False
        records = [self._cut[name]] if name in self._cut else self._all_records(name)
        if not records:
            return False
        trial = self.plan.trials[name]
        if name in self._cut and not self._store(name).holds("record", trial.links[-1].key):
            self.n_trained += 1
        self.folder.write_records(name, expanded(records))
        outcome = outcome_of(trial.spec, records, self.study.grid.metric)
        if outcome.error is None:
            self.failures.ran()
        else:
            self.failures.failed([trial.spec], outcome.error)
            error = self._with_line(name, records[-1], outcome.error)
            outcome = failure_of(trial.spec, records, error)
        self._close(trial.spec, outcome)
        return True

    def _with_line(self, name: str, record: Record, error: Failure) -> Failure:
        """Of a missing metric, the failure with the line by which a command has told it.

        As it is where the record holds one of that name but for what stands before it, such as
        test/acc or acc.1.
        """
        metric = self.study.grid.metric["name"]
        held = {part.lower() for name in record["metrics"] for part in re.split(r"[/.]", name)}
        is_told = error["type"] != MISSING or "printed as" in error["message"]
        is_read = metric.rpartition("/")[2].lower() in held
        subject = self.study.subject
        if is_told or is_read or not isinstance(subject, CommandSubject) or not subject.reader:
            return error
        line = line_naming(metric, self.folder.printed(name))
        is_error = subject.command.metrics == "stderr"
        stream, other = ("error", "stdout") if is_error else ("output", "stderr")
        remedy = (
            f"print {metric}=0.5 to standard {stream}, or set `metrics: {other}` or a `pattern`"
        )
        hint = f"; '{line}' is not read: {remedy}" if line else ""
        return {**error, "message": error["message"] + hint}

    def _all_records(self, name: str) -> list[Record]:
        """The records of a trial's chain; [] if one is missing, or more links are asked for."""
        store = self._store(name)
        while True:
            trial = self.plan.trials[name]
            if not all(store.holds("record", link.key) for link in reversed(trial.links)):
                return []
            if not self._replan(self.planner.revised(self.plan, name, store)):
                break
        records = [self._up_to_end(name, record) for record in _known(store, trial.links)]
        # one was damaged: it is run again
        return records if len(records) == len(trial.links) else []

    def _fail(self, names: Iterable[str], error: Failure) -> None:
        """Close the trials that are open; their folders then have what was recorded of them."""
        # one that the planner has ended may fail as it stops
        names = [name for name in names if name in self.open and name not in self._cut]
        self.failures.failed([self.plan.trials[name].spec for name in names], error)
        for name in names:
            trial = self.plan.trials[name]
            records = _known(self._store(name), trial.links)
            if records:
                self.folder.write_records(name, expanded(records))
            elif name in self._within:
                self.folder.append_record(name, self._within[name])
            self._close(trial.spec, failure_of(trial.spec, records, error))

    def _close(self, spec: TrialSpec, outcome: Outcome) -> None:
        self.open.discard(spec.trial)
        self._have_ended = True
        self._written.pop(spec.trial, None)
        self._within.pop(spec.trial, None)
        self._cut.pop(spec.trial, None)
        # of one that failed for want of its metric, too: it may be complete by another one
        has_run = outcome.error is None or outcome.error["type"] in UNSCORED
        keep = getattr(self.study.subject, "keep", ()) if has_run else ()
        self.folder.remove_work(spec.trial, keep)
        self.folder.write_outcome(spec.trial, outcome)
        if outcome.state == "FAILED":
            self.failed[spec.trial] = reason(outcome)
        elif not self.share:
            # all that is still needed of it is in the trial's folder
            self._store(spec.trial).clear()
        self.listener.finished(spec, outcome)


def _known(store: DiskStore, links: Sequence[LinkLike]) -> list[Record]:
    """The records of a chain up to the first that is missing."""
    records = []
    for link in links:
        record = store.record(link.key)
        if record is None:
            break
        records.append(record)
    return records

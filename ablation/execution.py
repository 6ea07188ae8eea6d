"""Runs a plan: hands segments to workers, longest remaining path first, and writes what comes back.

A shared prefix is one segment and runs once; the segments that need it wait for it. Results do not depend on
the number of workers or on who finishes first: only keys decide what is computed, and records come from the
store.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from typing import Any

from ablation.forest import Segment
from ablation.grid import Study
from ablation.plan import Plan, revise
from ablation.runs import Outcome, RunFolder, TrialSpec
from ablation.schedule import Schedule
from ablation.store import DiskStore
from ablation.subject import Link, Record
from ablation.workers import Workers

TICK_SECONDS = 0.5
CHANGED = {
    "type": "PlanChanged",
    "message": "the worker ran, and did not leave what was planned: data or source changed while the study ran; run it again",
    "traceback": "",
}


class Listener:
    """Who is told how the study goes: the tracker, the terminal. Overrides what it wants to hear."""

    def recorded(self, specs: Sequence[TrialSpec], record: Record) -> None: ...
    def finished(self, spec: TrialSpec, outcome: Outcome) -> None: ...
    def tick(self) -> None: ...


class Execution:
    """One pass over a study's unfinished trials.

    Without `share`, every trial computes all of its epochs, in a store of its own: the check that sharing
    changes nothing.
    """

    def __init__(self, study: Study, plan: Plan, store: DiskStore, folder: RunFolder, listener: Listener, share: bool = True):
        self.study, self.plan, self.shared_store, self.folder, self.listener = study, plan, store, folder, listener
        self.share = share
        self.open = {name for name, trial in plan.trials.items() if not is_finished(folder, trial.spec)}
        self.running: dict[str, Segment] = {}
        self.requested: dict[str, str] = {}  # segment -> the trial on whose behalf it runs
        self.n_trained = 0  # links run in this pass
        for name in list(self.plan.trials):
            if name in self.open:
                self._start_over(name)

    def run(self, jobs: int) -> Plan:
        """Run to the end; returns the plan with every chain's final length."""
        if not self.open:
            return self.plan
        self._reschedule()
        with Workers(jobs) as workers:
            while self.open:
                self._hand_out(workers)
                for event in workers.wait(TICK_SECONDS):
                    self._handle(event.worker, event.message)
                self.listener.tick()
        return self.plan

    def _hand_out(self, workers: Workers) -> None:
        """Give every idle worker the most urgent segment that can run."""
        while (worker := workers.idle()) is not None:
            segment = self.schedule.next()
            if segment is None:
                if not self.running:
                    raise RuntimeError(f"nothing can run, and {len(self.open)} trials are not finished: {', '.join(sorted(self.open)[:3])}")
                return
            self.running[segment.end] = segment
            worker.send(self._request(segment), segment)

    def _handle(self, worker: Any, message: dict[str, Any]) -> None:
        segment: Segment | None = worker.task
        if message["event"] == "record":
            self.n_trained += 1
            self._record(segment, message["record"])
            return
        worker.task = None
        if segment is None:  # an idle worker died: another takes its place
            return
        del self.running[segment.end]
        if message["event"] == "done":
            self._advance(segment)
            return
        # a death takes the trial whose worker it was, and the others try again; an exception would meet all
        struck = [self.requested[segment.end]] if message["event"] == "died" else segment.trials
        for name in struck:
            self._fail(name, message["error"])
        self._reschedule()

    def _advance(self, segment: Segment) -> None:
        """Go on after a segment: close what it completes, and make way for what waited for it."""
        before = self.plan
        for name in segment.trials:
            if name in self.open:
                self.plan = revise(self.study, self.plan, self._store(name), name)
        reached = [name for name in segment.trials if self.plan.trials[name].links[-1].key == segment.links[-1].key]
        unclosed = [name for name in reached if not self._complete_if_whole(name)]
        if self.plan is before and not self._is_there(segment):
            for name in segment.trials:
                self._fail(name, CHANGED)
            self._reschedule()
        elif self.plan is not before or unclosed or self.schedule.segments.get(segment.end) != segment:
            self._reschedule()
        else:
            self.schedule.done(segment.end)

    def _reschedule(self) -> None:
        in_hand = {name for segment in self.running.values() for name in segment.trials}  # closed when their worker says so
        for name in [name for name in self.plan.trials if name in self.open and name not in in_hand]:
            self._complete_if_whole(name)
        chains = {name: self.plan.trials[name].links for name in self.plan.trials if name in self.open}
        busy = [link.key for segment in self.running.values() for link in segment.links] if self.share else self.running
        self.schedule = Schedule(chains, self.share, self._is_there, busy)

    def _store(self, trial: str) -> DiskStore:
        return self.shared_store if self.share else DiskStore(self.shared_store.root / "alone" / trial)

    def _is_there(self, segment: Segment) -> bool:
        """All its records, and the checkpoint that its children start from."""
        store = self._store(segment.trials[0])
        has_records = all(store.holds("record", link.key) for link in reversed(segment.links))
        return has_records and (not segment.children or store.holds("state", segment.end))

    def _request(self, segment: Segment) -> dict[str, Any]:
        # a trial whose length is undecided goes first: it leaves a checkpoint where it turns off
        candidates = [name for name in segment.trials if name in self.open]
        name = next((name for name in candidates if self.plan.trials[name].undecided), candidates[0])
        self.requested[segment.end] = name
        spec = self.plan.trials[name].spec
        return {
            "subject": self.study.experiment.subject, "settings": spec.settings, "seed": spec.seed, "until": segment.links[-1].key,
            "cache": str(self._store(name).root.resolve()), "log": str((self.folder.trial_path(name) / "stdout.log").resolve()),
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
            if known:
                self.folder.write_records(name, list(_expanded(known)))

    def _record(self, segment: Segment, record: Record) -> None:
        names = [name for name in segment.trials if name in self.open]
        for name in names:
            for entry in _expanded([record]):
                self.folder.append_record(name, entry)
        self.listener.recorded([self.plan.trials[name].spec for name in names], record)

    def _complete_if_whole(self, name: str) -> bool:
        """Close the trial if all its records are there."""
        trial, store = self.plan.trials[name], self._store(name)
        if name not in self.open or not all(store.holds("record", link.key) for link in reversed(trial.links)):
            return False
        records = _known(store, trial.links)
        if len(records) < len(trial.links):  # one was damaged: it is run again
            return False
        self.folder.write_records(name, list(_expanded(records)))
        self._close(trial.spec, outcome_of(trial.spec, records, self.study.grid.metric))
        return True

    def _fail(self, name: str, error: dict[str, str]) -> None:
        if name in self.open:
            trial = self.plan.trials[name]
            records = _known(self._store(name), trial.links)
            seconds = sum(record["seconds"] for record in records)
            self._close(trial.spec, Outcome("FAILED", {}, seconds, error, finished=_now(), key=trial.spec.key))

    def _close(self, spec: TrialSpec, outcome: Outcome) -> None:
        self.open.discard(spec.trial)
        self.folder.write_outcome(spec.trial, outcome)
        self.listener.finished(spec, outcome)


def is_finished(folder: RunFolder, spec: TrialSpec) -> bool:
    """Whether this very trial, by its key, has an outcome already."""
    outcome = folder.outcome(spec.trial)
    return outcome is not None and outcome.key == spec.key


def outcome_of(spec: TrialSpec, records: Sequence[Record], metric: dict[str, str]) -> Outcome:
    """What a complete chain of records amounts to: the last epoch, and the best one of the headline metric."""
    own = [record for record in _expanded(records) if record["phase"] != "pretrain"]
    name = metric["name"]
    values = [record["metrics"][name] for record in own if name in record["metrics"]]
    if name not in own[-1]["metrics"]:
        return _failure(spec, "MissingMetric", f"the last record does not hold the metric '{name}'; it holds {', '.join(sorted(own[-1]['metrics']))}")
    if not math.isfinite(values[-1]):
        return _failure(spec, "NotFinite", f"the metric '{name}' is {values[-1]}")
    best = max(values) if metric["goal"] == "maximize" else min(values)
    times = [record["time"] for record in records if "time" in record]
    return Outcome(
        state="COMPLETE",
        metrics={**own[-1]["metrics"], f"best/{name}": best},
        wall_seconds=sum(record["seconds"] for record in records),
        started=_stamp(min(times)) if times else "",
        finished=_stamp(max(times)) if times else "",
        vectors=own[-1].get("vectors", {}),
        key=spec.key,
    )


def _failure(spec: TrialSpec, type_: str, message: str) -> Outcome:
    return Outcome("FAILED", {}, 0.0, {"type": type_, "message": message, "traceback": ""}, key=spec.key)


def _known(store: DiskStore, links: Sequence[Link]) -> list[Record]:
    """The records of a chain up to the first that is missing."""
    records = []
    for link in links:
        record = store.record(link.key)
        if record is None:
            break
        records.append(record)
    return records


def _expanded(records: Iterable[Record]) -> Iterable[Record]:
    """A link that went through several epochs of its own reports them in `history`."""
    for record in records:
        for entry in record.get("history", []):
            if entry["epoch"] < record["epoch"]:
                yield {"phase": record["phase"], "seconds": 0.0, "vectors": {}, **entry}
        yield {name: value for name, value in record.items() if name != "history"}


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _stamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="seconds")

"""Show a running study: a live table on a terminal, lines elsewhere, a note for other processes."""

from __future__ import annotations

import json
import math
import os
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ablation import interruption
from ablation.formatting import duration, listed, over_seeds, value
from ablation.planning.forecast import CLOSING, START, Listener, Timings, forecast
from ablation.storage.files import UNREADABLE, checked
from ablation.storage.runs import Outcome, TrialSpec, cause, reason, write_atomically
from ablation.study.phases import PhaseCounts
from ablation.subject.own import OwnCode
from ablation.subject.protocol import LinkLike, Record, Subject

if TYPE_CHECKING:
    from ablation.planning.plan import Plan
    from ablation.storage.asked import SearchLog
    from ablation.study.opening import PlannedStudy


# time between plain lines of progress
PLAIN_SECONDS = 10.0
# time between forecasts; less towards the end, and until there is one
FORECAST_SECONDS = 10.0
FIRST_SECONDS = 2.0
# of a phase's bar, in columns
BAR_WIDTH = 30
# of trials that failed alike, in a line
MAX_NAMES = 20
# share of a study's time that forecasts may take
FORECAST_SHARE = 0.01


@dataclass(frozen=True)
class ProgressNote:
    """The progress of a running study, as written to a file for other processes."""

    # the time left when the note was written; None where no epoch has been measured
    seconds: float | None
    # when the note was written, in seconds since 1970
    at: float
    jobs: int
    # the trials of which workers computed epochs
    in_hand: list[str]


@dataclass
class ArmProgress:
    """Counts over an arm's trials."""

    # those of the plan, and of a search all that it may still ask for
    n_trials: int = 0
    n_planned: int = 0
    n_complete: int = 0
    n_failed: int = 0
    n_epochs: int = 0
    # trial -> number of its epochs that are done
    epochs: dict[str, int] = field(default_factory=dict)
    # primary metric of each trial that is complete, and of the others the last one so far
    results: dict[str, float] = field(default_factory=dict)
    latest: dict[str, float] = field(default_factory=dict)
    # trial that runs -> the epoch that its own code has reported last
    reported: dict[str, int] = field(default_factory=dict)


class Progress(Listener):
    """Counts what the study has done, forecasts what is left, shows both, and keeps a note of it.

    Args:
        timings: that measure this pass
        share: whether epochs that trials have in common are trained once; else it does not say how
            long the study still takes
        logs: arm -> its events, if this is a search
        only: arms whose trials alone are run; all, if there are none
    """

    def __init__(
        self,
        planned: PlannedStudy,
        console: Console,
        timings: Timings,
        jobs: int,
        share: bool = True,
        logs: Mapping[str, SearchLog] | None = None,
        only: Collection[str] = (),
    ):
        self.only = only
        self.planned, self.timings, self.jobs = planned, timings, jobs
        self.logs = logs or {}
        self.phases = PhaseCounts(share)
        # of own code, one link is a whole trial
        self.is_own = isinstance(planned.study.subject, OwnCode)
        self.metric = planned.study.grid.metric["name"]
        self.plan, self.arms = planned.plan.of(only), dict[str, ArmProgress]()
        # trial -> its links as they were counted last
        self._links: dict[str, Sequence[LinkLike]] = {}
        self.replanned(planned.plan)
        # by what is the same in them, see `cause`
        self._failures = defaultdict[str, list[tuple[TrialSpec, Outcome]]](list)
        self._failures_before = defaultdict[str, list[tuple[TrialSpec, Outcome]]](list)
        self.n_before, self.n_trained, self.begun = 0, 0, time.monotonic()
        self.note = ProgressNote(None, time.time(), jobs, [])
        self._console, self._is_forecast = console, share
        # what takes seconds just now, besides training; "" if nothing does
        self._doing = ""
        # how many workers finish an epoch before the study stops
        self._n_busy: int | None = None
        self._has_recorded = self._has_ended = False
        # seconds from the last trial's end to the pass's; None where they were never measured
        self._closing = 0.0 if planned.n_expected else timings.known().get(CLOSING)
        self._ended: set[str] = set()
        self._in_hand: Counter[str] = Counter()
        # trial -> when a worker began it last
        self._began: dict[str, float] = {}
        self._shown, self._due = time.monotonic(), 0.0
        is_live = console.is_terminal
        self._live = Live(console=console, get_renderable=self.view) if is_live else None

    def __enter__(self) -> Progress:
        if self._live:
            self._live.start(refresh=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._has_ended = True
        if self._live:
            self._live.stop()
        for alike in self._failures.values():
            if len(alike) > 1:
                tell(self._console, self._failure(alike), style="red")
        self._file.unlink(missing_ok=True)

    def replanned(self, plan: Plan) -> None:
        """Count the trials and epochs of the plan as it is now."""
        self.plan = plan = plan.of(self.only)
        self.phases.replanned(plan)
        # most trials are as they were, and there may be 10,000
        changed = [
            trial for name, trial in plan.trials.items() if self._links.get(name) is not trial.links
        ]
        for trial in changed:
            name = trial.spec.trial
            arm = self.arms.setdefault(trial.spec.arm, ArmProgress())
            arm.n_planned += name not in self._links
            arm.n_epochs += len(trial.links) - len(self._links.get(name, ()))
            self._links[name] = trial.links
        names = [*(trial.spec.arm for trial in changed), *self.planned.n_expected]
        for name in dict.fromkeys(names):
            arm = self.arms.setdefault(name, ArmProgress())
            arm.n_trials = max(arm.n_planned, self.planned.n_expected.get(name, 0))

    def found(self, spec: TrialSpec, outcome: Outcome) -> None:
        """Count a trial that an earlier run has ended."""
        self.n_before += 1
        self._count(spec, outcome)
        if outcome.error is not None:
            self._failures_before[cause(spec, outcome.error)].append((spec, outcome))

    def resumed(self, spec: TrialSpec, records: Sequence[Record]) -> None:
        """Count the epochs that a trial already has."""
        self.arms[spec.arm].epochs[spec.trial] = len(records)
        self.phases.did(spec.trial, self.plan.trials[spec.trial].links[: len(records)])
        for record in records:
            self._measure(spec, record)

    def began(self, specs: Sequence[TrialSpec]) -> None:
        """Note that a worker computes epochs of these trials."""
        self._in_hand.update(spec.trial for spec in specs)
        self._began |= {spec.trial: time.monotonic() for spec in specs}

    def left(self, specs: Sequence[TrialSpec]) -> None:
        """Note that a worker no longer computes epochs of these trials."""
        self._in_hand.subtract(spec.trial for spec in specs)

    def recorded(self, specs: Sequence[TrialSpec], record: Record) -> None:
        """Count an epoch for each trial that has it."""
        self.n_trained += 1
        self._has_recorded = True
        for spec in specs[:1]:
            place = (record["phase"], record["epoch"])
            links = self.plan.trials[spec.trial].links
            self.phases.did(spec.trial, [one for one in links if (one.phase, one.epoch) == place])
        for spec in specs:
            epochs = self.arms[spec.arm].epochs
            # Epochs after the last checkpoint are trained again.
            epochs[spec.trial] = min(epochs.get(spec.trial, 0) + 1, self._n_epochs(spec))
            self._measure(spec, record)

    def reported(self, specs: Sequence[TrialSpec], record: Record) -> None:
        """Note the epoch that a function or command has reached."""
        self._has_recorded = True
        for spec in specs:
            self.arms[spec.arm].reported[spec.trial] = record["epoch"]
            self._measure(spec, record)

    def finished(self, spec: TrialSpec, outcome: Outcome) -> None:
        """Count a trial that has ended; print its failure, or its result without a live table.

        Of failures that are alike the first is printed now, and all of them in one line at the end.
        """
        self._count(spec, outcome)
        if outcome.error is not None:
            alike = self._failures[cause(spec, outcome.error)]
            alike.append((spec, outcome))
            if len(alike) == 1:
                self._print(self._failure(alike), style="red")
        elif not self._live:
            self._print(
                f"{spec.trial}: {self.metric} {value(outcome.metrics[self.metric], math.nan)}"
            )

    def stopping(self, n_busy: int) -> None:
        """Show that the study stops, and for how many workers it waits."""
        self._n_busy = n_busy
        if not self._live:
            self._print(self.summary())

    @contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """Show what takes seconds besides training, while it does."""
        self._doing = what
        try:
            yield
        finally:
            self._doing = ""

    def tick(self) -> None:
        """Write the note and print a line of progress, each when it is due."""
        if time.monotonic() >= self._due:
            begun = time.monotonic()
            self._write_note()
            took = time.monotonic() - begun
            left = self.note.seconds
            wait = FIRST_SECONDS if left is None else max(left / 4, 1.0)
            self._due = time.monotonic() + max(min(FORECAST_SECONDS, wait), took / FORECAST_SHARE)
        if not self._live and time.monotonic() - self._shown > PLAIN_SECONDS:
            self._print(self.summary())

    def summary(self) -> str:
        """Trials, epochs and time, and what comes next, in one line."""
        n_failed = sum(arm.n_failed for arm in self.arms.values())
        before = f" ({self.n_before} before)" if self.n_before else ""
        failed = f", {n_failed} failed" if n_failed else ""
        counted = f"{len(self._ended)}/{self._n_trials} trials{before}{failed}"
        # a trial of own code is counted already
        trained = "" if self.is_own else f"{self.n_trained} epochs trained"
        elapsed = duration(time.monotonic() - self.begun)
        return ", ".join(filter(None, [counted, trained, elapsed, self._outlook()]))

    def view(self) -> Group:
        """The summary, a bar per phase, and a row per arm."""
        parts = [self.table()] if self._has_ended else [self.bars(), "", self.table()]
        return Group(Text(self.summary()), *parts)

    def bars(self) -> Table:
        """A bar per phase, with the epochs that are done and all that there are.

        Of own code, whose trial is one link, with the trials.
        """
        unit = "trials" if self.is_own else "epochs"
        table = Table.grid(padding=(0, 2))
        for phase, n_planned in list(self.phases.n_planned.items()):
            if n_planned:
                n_done = self.phases.n_done[phase]
                bar = ProgressBar(total=n_planned, completed=n_done, width=BAR_WIDTH)
                left = f", {n_planned - n_done} left" if n_done < n_planned else ""
                table.add_row(phase, bar, f"{n_done}/{n_planned} {unit}{left}")
        return table

    def table(self) -> Table:
        """A row per arm, with the mean over its complete trials; of a search, with the best one.

        Until the first is complete, with the mean over those that run.
        """
        heading = "epoch" if self.is_own else "epochs"
        kind = ["pruned", "failed"] if self.logs else ["failed"]
        told = f"{'best ' * bool(self.logs)}{self.metric} so far"
        table = plain_table(["arm"], ["done", *kind, heading, told])
        for name, arm in list(self.arms.items()):
            found = over_seeds(list((arm.results or arm.latest).values()))
            n_pruned = ""
            if name in self.logs:
                best = self.logs[name].best(self.planned.study.grid.metric["goal"])
                found = value(best.value, math.nan) if best else ""
                asked = list(self.logs[name].trials.values())
                n = sum(one.pruned_at is not None and bool(one.state) for one in asked)
                n_pruned = str(n * len(self.planned.study.grid.seeds) or "")
            table.add_row(
                name,
                f"{arm.n_complete}/{arm.n_trials}",
                *([n_pruned] if self.logs else []),
                str(arm.n_failed or ""),
                _reported(arm) if self.is_own else f"{sum(arm.epochs.values())}/{arm.n_epochs}",
                found,
            )
        return table

    def _outlook(self) -> str:
        """What the study waits for, or how long it still takes; "" where that is not known."""
        if self._has_ended:
            return ""
        if interruption.requested() or self._n_busy is not None:
            first = f"{self._doing} first, then " if self._doing else ""
            n = "the" if self._n_busy is None else self._n_busy
            workers, subject = f"{n} worker{'s' * (n != 1)}", self.planned.study.subject
            if isinstance(subject, OwnCode):
                busy = f"{workers} stop{'s' * (n == 1)} the trials in hand"
                then = f"the same command {continuation(subject)}"
            else:
                busy = f"{workers} finish{'es' * (n == 1)} the epoch in hand"
                then = "the same command goes on from there"
            return f"stopping: {first}{busy}, {then}; a second signal (Ctrl-C) stops at once"
        if self._doing:
            return self._doing
        if len(self._ended) == self._n_trials:
            return "all trials have ended"
        n_busy = sum(n > 0 for n in list(self._in_hand.values()))
        if n_busy and not self._has_recorded:
            return f"starting workers: no {'trial' if self.is_own else 'epoch'} has ended yet"
        left = time_left(self.note)
        grid = self.planned.study.grid
        if left and self.planned.n_expected:
            return f"{left} of the search"
        n_seeds = len({spec.seed for spec in self.plan.specs})
        if left and grid.looks and n_seeds < len(grid.seeds):
            return f"{left} until the next look at the results"
        return f"{left}, then the report" if left and self._closing is None else left

    @property
    def failed_before(self) -> list[str]:
        """Why trials failed in earlier passes, a line for those that failed alike."""
        return [self._failure(alike) for alike in self._failures_before.values()]

    def _failure(self, alike: Sequence[tuple[TrialSpec, Outcome]]) -> str:
        """Which trials failed, why the first did, and the file that says more of it."""
        spec, outcome = alike[0]
        folder = self.planned.folder.trial_path(spec.trial)
        log = folder / "stdout.log"
        # a worker writes the log of one of the trials that share its epochs
        log = log if log.is_file() else folder / "outcome.json"
        why = reason(outcome)
        # a command's message names it
        where = "" if os.path.relpath(log) in why else f" ({log})"
        names = [spec.trial for spec, _ in alike]
        if len(names) == 1:
            return f"FAILED {names[0]}: {why}{where}"
        n_more = len(names) - MAX_NAMES
        shown = names if n_more <= 1 else [*names[:MAX_NAMES], f"{n_more} more"]
        return f"FAILED {len(names)} trials alike: {listed(shown)}; the first: {why}{where}"

    @property
    def _file(self) -> Path:
        return self.planned.places.progress(self.planned.name)

    @property
    def _n_trials(self) -> int:
        return sum(arm.n_trials for arm in self.arms.values())

    def _n_epochs(self, spec: TrialSpec) -> int:
        return len(self.plan.trials[spec.trial].links)

    def _measure(self, spec: TrialSpec, record: Record) -> None:
        if self.metric in record["metrics"]:
            self.arms[spec.arm].latest[spec.trial] = record["metrics"][self.metric]

    def _count(self, spec: TrialSpec, outcome: Outcome) -> None:
        arm = self.arms[spec.arm]
        arm.reported.pop(spec.trial, None)
        self._ended.add(spec.trial)
        if outcome.state == "COMPLETE":
            arm.n_complete += 1
            self.phases.did(spec.trial, self.plan.trials[spec.trial].links)
            arm.epochs[spec.trial] = self._n_epochs(spec)
            arm.results[spec.trial] = outcome.metrics[self.metric]
        else:
            arm.n_failed += 1
            self.phases.gave_up(spec.trial)

    def _print(self, text: str, style: str | None = None) -> None:
        tell(self._console, text, style)
        self._shown = time.monotonic()

    def _write_note(self) -> None:
        in_hand = [name for name, n in self._in_hand.items() if n > 0 and name not in self._ended]
        seconds = self._forecast(in_hand) if self._is_forecast else None
        self.note = ProgressNote(seconds, time.time(), self.jobs, in_hand)
        write_atomically(self._file, json.dumps(asdict(self.note)) + "\n")

    def _forecast(self, in_hand: Sequence[str]) -> float | None:
        plan = self.plan
        n_unplanned, n_ended = self._n_trials - len(plan.trials), len(self._ended) - self.n_before
        if n_unplanned > 0:
            # those that are not asked for yet take as long as those that have ended
            elapsed = time.monotonic() - self.begun
            return elapsed / n_ended * (self._n_trials - len(self._ended)) if n_ended else None
        left = [name for name in plan.trials if name not in self._ended]
        if any(plan.trials[name].undecided for name in left):
            plan = replace(self.planned, plan=plan).expected()
        # Workers have started.
        known = {key: seconds for key, seconds in self.timings.known().items() if key != START}
        chains = {name: plan.trials[name].links for name in left}
        seconds = forecast(chains, self.planned.store, known, self.jobs, True) if chains else 0.0
        if seconds is None:
            return None
        if self.is_own and in_hand:
            # one link is a whole trial: a part of those in hand is done
            taken = fmean(time.monotonic() - self._began[name] for name in in_hand)
            seconds = max(0.0, seconds - taken)
        return seconds + (self._closing or 0.0)


def continuation(subject: Subject) -> str:
    """What a run does with the trials that the run before it was interrupted in."""
    if not isinstance(subject, OwnCode):
        return "continues from their last epochs"
    if subject.is_resumable:
        return "continues from their last checkpoints"
    return "begins them anew"


def _reported(arm: ArmProgress) -> str:
    """The epochs that trials of own code are in: `3, 5`."""
    return ", ".join(map(str, arm.reported.values()))


def read_note(file: Path) -> ProgressNote | None:
    """Read a study's progress note; None if there is none, or it is damaged."""
    try:
        return checked(ProgressNote, json.loads(file.read_bytes()))
    except UNREADABLE:
        return None


def time_left(note: ProgressNote | None) -> str:
    """`about 1.7 h left`, `longer than forecast`; "" where nothing is known."""
    if note is None or note.seconds is None:
        return ""
    seconds = note.seconds - (time.time() - note.at)
    return f"about {duration(seconds)} left" if seconds > 0 else "longer than forecast"


# width of a console in columns
UNBOUNDED = 10_000


def output() -> Console:
    """A console on standard output; lines are not wrapped where that is no terminal."""
    console = Console()
    if console.is_terminal:
        return console
    # plain lines in a notebook, too: rich would make a block of HTML of each
    return Console(width=UNBOUNDED, force_jupyter=False, force_terminal=False)


@contextmanager
def working(console: Console, what: str) -> Iterator[None]:
    """On a terminal, show what takes seconds while it does."""
    if not console.is_terminal:
        yield
        return
    with console.status(what):
        yield


def tell(console: Console, text: str, style: str | None = None) -> None:
    """Print text as it is, on one line; nothing if there is none."""
    if text:
        console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def plain_table(names: Sequence[str], numbers: Sequence[str], title: str | None = None) -> Table:
    """A table without lines: columns of names, then of numbers. Long cells are folded, not cut."""
    table = Table(box=None, pad_edge=False, title=title, title_justify="left")
    for name in names:
        table.add_column(name, overflow="fold")
    for name in numbers:
        table.add_column(name, justify="right", overflow="fold")
    return table


def excess(table: Table, console: Console) -> int:
    """By how many columns a table is wider than the console."""
    unbounded = console.options.update(width=UNBOUNDED)
    return console.measure(table, options=unbounded).maximum - console.width


def fitting(table: Table, console: Console) -> Table | Text:
    """The table; on a console that is too narrow, its rows as text, so that nothing is cut."""
    if excess(table, console) <= 0:
        return table
    first, *others = [str(column.header) for column in table.columns]
    lines = [str(table.title)] if table.title else []
    for name, *cells in zip(*(column.cells for column in table.columns), strict=True):
        pairs = zip(others, cells, strict=True)
        told = ", ".join(f"{heading} {cell}" for heading, cell in pairs if cell)
        lines += [f"{first} {name}", f"  {told}"]
    return Text("\n".join(lines), overflow="fold")

"""Show a running study: a live table on a terminal, lines elsewhere, a note for other processes."""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ablation.formatting import duration, over_seeds, value
from ablation.planning.forecast import START, Listener, Timings, forecast
from ablation.storage.files import UNREADABLE
from ablation.storage.runs import Outcome, TrialSpec, write_atomically
from ablation.subject.protocol import Record

if TYPE_CHECKING:
    from ablation.planning.plan import Plan
    from ablation.study.opening import PlannedStudy


# time between plain lines of progress
PLAIN_SECONDS = 10.0
# time between forecasts, at least
FORECAST_SECONDS = 10.0
# share of a study's time that forecasts may take
FORECAST_SHARE = 0.01


@dataclass(frozen=True)
class ProgressNote:
    """What a running study wrote last, for other processes."""

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

    n_trials: int = 0
    n_complete: int = 0
    n_failed: int = 0
    n_epochs: int = 0
    # trial -> number of its epochs that are done
    epochs: dict[str, int] = field(default_factory=dict)
    # trial -> headline metric so far
    metrics: dict[str, float] = field(default_factory=dict)
    # trial that runs -> the epoch that its own code has reported last
    reported: dict[str, int] = field(default_factory=dict)


class Progress(Listener):
    """Counts what the study has done, forecasts what is left, shows both, and keeps a note of it.

    Args:
        timings: that measure this pass
        is_forecast: whether to say how long the study still takes
    """

    def __init__(
        self,
        planned: PlannedStudy,
        console: Console,
        timings: Timings,
        jobs: int,
        is_forecast: bool = True,
    ):
        self.planned, self.timings, self.jobs = planned, timings, jobs
        self.metric = planned.study.grid.metric["name"]
        self.plan, self.arms = planned.plan, dict[str, ArmProgress]()
        self.replanned(planned.plan)
        self.n_before, self.n_trained, self.begun = 0, 0, time.monotonic()
        self.note = ProgressNote(None, time.time(), jobs, [])
        self._console, self._is_forecast, self._stopping = console, is_forecast, ""
        self._ended: set[str] = set()
        self._in_hand: Counter[str] = Counter()
        self._shown, self._due = time.monotonic(), 0.0
        is_live = console.is_terminal
        self._live = Live(console=console, get_renderable=self.table) if is_live else None

    def __enter__(self) -> Progress:
        if self._live:
            self._live.start(refresh=True)
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()
        self._file.unlink(missing_ok=True)

    def replanned(self, plan: Plan) -> None:
        """Count the trials and epochs of the plan as it is now."""
        self.plan = plan
        for arm in self.arms.values():
            arm.n_trials = arm.n_epochs = 0
        for trial in plan.trials.values():
            arm = self.arms.setdefault(trial.spec.arm, ArmProgress())
            arm.n_trials += 1
            arm.n_epochs += len(trial.links)
        for name, n in self.planned.n_expected.items():
            arm = self.arms.setdefault(name, ArmProgress())
            arm.n_trials = max(arm.n_trials, n)

    def found(self, spec: TrialSpec, outcome: Outcome) -> None:
        """Count a trial that an earlier run has ended."""
        self.n_before += 1
        self._count(spec, outcome)

    def resumed(self, spec: TrialSpec, records: Sequence[Record]) -> None:
        """Count the epochs that a trial already has."""
        self.arms[spec.arm].epochs[spec.trial] = len(records)
        for record in records:
            self._measure(spec, record)

    def began(self, specs: Sequence[TrialSpec]) -> None:
        """Note that a worker computes epochs of these trials."""
        self._in_hand.update(spec.trial for spec in specs)

    def left(self, specs: Sequence[TrialSpec]) -> None:
        """Note that a worker no longer computes epochs of these trials."""
        self._in_hand.subtract(spec.trial for spec in specs)

    def recorded(self, specs: Sequence[TrialSpec], record: Record) -> None:
        """Count an epoch for each trial that has it."""
        self.n_trained += 1
        for spec in specs:
            epochs = self.arms[spec.arm].epochs
            # Epochs after the last checkpoint are trained again.
            epochs[spec.trial] = min(epochs.get(spec.trial, 0) + 1, self._n_epochs(spec))
            self._measure(spec, record)

    def reported(self, specs: Sequence[TrialSpec], record: Record) -> None:
        """Note the epoch that a function or command has reached."""
        for spec in specs:
            self.arms[spec.arm].reported[spec.trial] = record["epoch"]
            self._measure(spec, record)

    def finished(self, spec: TrialSpec, outcome: Outcome) -> None:
        """Count a trial that has ended; print its result where there is no live table."""
        self._count(spec, outcome)
        if self._live:
            return
        if outcome.error is None:
            said = f"{self.metric} {value(outcome.metrics[self.metric], math.nan)}"
        else:
            said = f"FAILED: {outcome.error['type']}: {outcome.error['message']}"
        self._print(f"{spec.trial}: {said}")

    def stopping(self, n_busy: int) -> None:
        """Show that the study stops, and for how many workers it waits."""
        then = "finish their current epoch; a second signal stops at once"
        self._stopping = f"; stopping: {n_busy} workers {then}"
        if not self._live:
            self._print(self.summary())

    def tick(self) -> None:
        """Write the note and print a line of progress, each when it is due."""
        if time.monotonic() >= self._due:
            begun = time.monotonic()
            self._write_note()
            took = time.monotonic() - begun
            self._due = time.monotonic() + max(FORECAST_SECONDS, took / FORECAST_SHARE)
        if not self._live and time.monotonic() - self._shown > PLAIN_SECONDS:
            self._print(self.summary())

    def summary(self) -> str:
        """Trials, epochs and time, in one line."""
        n_failed = sum(arm.n_failed for arm in self.arms.values())
        before = f" ({self.n_before} before)" if self.n_before else ""
        failed = f", {n_failed} failed" if n_failed else ""
        counted = f"{len(self._ended)}/{self._n_trials} trials{before}{failed}"
        trained = f"{self.n_trained} epochs trained, {duration(time.monotonic() - self.begun)}"
        left = time_left(self.note)
        return f"{counted}, {trained}" + (self._stopping or (left and f", {left}"))

    def table(self) -> Table:
        """A row per arm, and the summary below."""
        table = plain_table(["arm"], ["done", "failed", "epochs", f"{self.metric} so far"])
        table.caption = self.summary()
        for name, arm in self.arms.items():
            table.add_row(
                name,
                f"{arm.n_complete}/{arm.n_trials}",
                str(arm.n_failed or ""),
                _epochs(arm),
                over_seeds(list(arm.metrics.values())),
            )
        return table

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
            self.arms[spec.arm].metrics[spec.trial] = record["metrics"][self.metric]

    def _count(self, spec: TrialSpec, outcome: Outcome) -> None:
        arm = self.arms[spec.arm]
        arm.reported.pop(spec.trial, None)
        self._ended.add(spec.trial)
        if outcome.state == "COMPLETE":
            arm.n_complete += 1
            arm.epochs[spec.trial] = self._n_epochs(spec)
            arm.metrics[spec.trial] = outcome.metrics[self.metric]
        else:
            arm.n_failed += 1

    def _print(self, text: str) -> None:
        tell(self._console, text)
        self._shown = time.monotonic()

    def _write_note(self) -> None:
        in_hand = [name for name, n in self._in_hand.items() if n > 0 and name not in self._ended]
        seconds = self._forecast() if self._is_forecast else None
        self.note = ProgressNote(seconds, time.time(), self.jobs, in_hand)
        write_atomically(self._file, json.dumps(asdict(self.note)) + "\n")

    def _forecast(self) -> float | None:
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
        return forecast(chains, self.planned.store, known, self.jobs, True) if chains else 0.0


def _epochs(arm: ArmProgress) -> str:
    """`3/5`; of own code, of which one link is a whole trial, also the epochs that it is in."""
    within = ", ".join(map(str, arm.reported.values()))
    return f"{sum(arm.epochs.values())}/{arm.n_epochs}" + (f" (at {within})" if within else "")


def read_note(file: Path) -> ProgressNote | None:
    """None if the study has written nothing, or what it wrote is damaged."""
    try:
        told = json.loads(file.read_bytes())
        seconds = None if told["seconds"] is None else float(told["seconds"])
        in_hand = [str(name) for name in told["in_hand"]]
        return ProgressNote(seconds, float(told["at"]), int(told["jobs"]), in_hand)
    except (*UNREADABLE, KeyError, TypeError):
        return None


def time_left(note: ProgressNote | None) -> str:
    """`about 1.7 h left`, `nearly done`; "" where nothing is known."""
    if note is None or note.seconds is None:
        return ""
    seconds = note.seconds - (time.time() - note.at)
    return f"about {duration(seconds)} left" if seconds > 0 else "nearly done"


# width of a console in columns
UNBOUNDED = 10_000


def output() -> Console:
    """Standard output; what is printed is as wide as it need be where that is no terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=UNBOUNDED)


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


def fitting(table: Table, console: Console) -> Table | Text:
    """The table; on a console that is too narrow, its rows as text, so that nothing is cut."""
    unbounded = console.options.update(width=UNBOUNDED)
    if console.measure(table, options=unbounded).maximum <= console.width:
        return table
    first, *others = [str(column.header) for column in table.columns]
    lines = [str(table.title)] if table.title else []
    for name, *cells in zip(*(column.cells for column in table.columns), strict=True):
        pairs = zip(others, cells, strict=True)
        told = ", ".join(f"{heading} {cell}" for heading, cell in pairs if cell)
        lines += [f"{first} {name}", f"  {told}"]
    return Text("\n".join(lines), overflow="fold")

"""How a running study shows itself: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.live import Live
from rich.table import Table

from ablation.execution import Listener
from ablation.formatting import duration, value
from ablation.plan import Plan
from ablation.remaining import Remaining
from ablation.runs import Outcome, TrialSpec
from ablation.subject import Record

PLAIN_SECONDS = 10.0  # between plain progress lines


@dataclass
class ArmProgress:
    """Counts over an arm's trials, kept up so that showing them costs nothing per trial."""

    n_trials: int = 0
    n_complete: int = 0
    n_failed: int = 0
    n_epochs: int = 0
    done_epochs: int = 0
    n_measured: int = 0  # trials whose headline metric is known so far
    metric_sum: float = 0.0  # of their last evaluated epochs
    square_sum: float = 0.0

    def so_far(self) -> str:
        """Mean and standard deviation over the trials measured."""
        if not self.n_measured:
            return ""
        mean = self.metric_sum / self.n_measured
        variance = (
            (self.square_sum - self.n_measured * mean**2) / (self.n_measured - 1)
            if self.n_measured > 1
            else math.nan
        )
        return value(mean, math.sqrt(variance) if variance > 0 else math.nan)


@dataclass
class TrialProgress:
    """A trial's share of its arm's counts."""

    arm: ArmProgress
    n_epochs: int
    done_epochs: int = 0
    metric: float | None = None

    def advance(self, done_epochs: int, metric: float | None) -> None:
        self.arm.done_epochs += done_epochs - self.done_epochs
        self.done_epochs = done_epochs
        if metric is not None:
            self.arm.n_measured += self.metric is None
            self.arm.metric_sum += metric - (self.metric or 0.0)
            self.arm.square_sum += metric**2 - (self.metric or 0.0) ** 2
            self.metric = metric


class Progress(Listener):
    """A listener that counts; subclasses of it show."""

    def __init__(self, metric: str, plan: Plan, remaining: Remaining | None = None):
        self.metric, self.remaining, self.told = metric, remaining, ""
        self.n_trials, self.n_before, self.n_trained, self.begun_at = (
            len(plan.trials),
            0,
            0,
            time.monotonic(),
        )
        self.arms: dict[str, ArmProgress] = {}
        self.trials: dict[str, TrialProgress] = {}
        for name, trial in plan.trials.items():
            arm = self.arms.setdefault(trial.spec.arm, ArmProgress())
            arm.n_trials += 1
            arm.n_epochs += len(trial.links)
            self.trials[name] = TrialProgress(arm, len(trial.links))

    def found(self, spec: TrialSpec, outcome: Outcome) -> None:
        self.n_before += 1
        Progress.finished(self, spec, outcome)

    def resumed(self, spec: TrialSpec, records: Sequence[Record]) -> None:
        values = [
            record["metrics"][self.metric] for record in records if self.metric in record["metrics"]
        ]
        self.trials[spec.trial].advance(len(records), values[-1] if values else None)

    def recorded(self, specs: Sequence[TrialSpec], record: Record) -> None:
        self.n_trained += 1
        for spec in specs:
            trial = self.trials[spec.trial]
            done = min(
                trial.done_epochs + 1, trial.n_epochs
            )  # epochs after the last checkpoint are trained again
            trial.advance(done, record["metrics"].get(self.metric))

    def finished(self, spec: TrialSpec, outcome: Outcome) -> None:
        trial = self.trials[spec.trial]
        if outcome.state == "COMPLETE":
            trial.arm.n_complete += 1
            trial.advance(trial.n_epochs, outcome.metrics[self.metric])
        else:
            trial.arm.n_failed += 1

    def summary(self) -> str:
        n_failed = sum(arm.n_failed for arm in self.arms.values())
        n_ended = n_failed + sum(arm.n_complete for arm in self.arms.values())
        before = f" ({self.n_before} before)" if self.n_before else ""
        failed = f", {n_failed} failed" if n_failed else ""
        left = self.remaining.told() if self.remaining else ""
        seconds = time.monotonic() - self.begun_at
        counted = f"{n_ended}/{self.n_trials} trials{before}{failed}, {self.n_trained} epochs trained, {duration(seconds)}"
        return counted + (f"; {self.told}" if self.told else left and f", {left}")

    def stopping(self, n_busy: int) -> None:
        self.told = f"stopping: {n_busy} workers finish the epoch in hand; once more stops at once"


class PlainProgress(Progress):
    """A line when a trial ends and every few seconds."""

    def __init__(
        self, metric: str, plan: Plan, console: Console, remaining: Remaining | None = None
    ):
        super().__init__(metric, plan, remaining)
        self.console, self.last = console, time.monotonic()

    def __enter__(self) -> PlainProgress:
        return self

    def __exit__(self, *_: object) -> None: ...

    def finished(self, spec: TrialSpec, outcome: Outcome) -> None:
        super().finished(spec, outcome)
        if outcome.state == "COMPLETE":
            said = f"{self.metric} {value(outcome.metrics[self.metric], math.nan)}"
        else:
            said = f"FAILED: {outcome.error['type']}: {outcome.error['message']}"
        self.console.print(f"{spec.trial}: {said}", markup=False, highlight=False, soft_wrap=True)
        self.last = time.monotonic()

    def stopping(self, n_busy: int) -> None:
        super().stopping(n_busy)
        self._show()

    def tick(self) -> None:
        if time.monotonic() - self.last > PLAIN_SECONDS:
            self._show()

    def _show(self) -> None:
        self.last = time.monotonic()
        self.console.print(self.summary(), markup=False, highlight=False)


class LiveProgress(Progress):
    """A table with a row per arm, redrawn in place."""

    def __init__(
        self, metric: str, plan: Plan, console: Console, remaining: Remaining | None = None
    ):
        super().__init__(metric, plan, remaining)
        self.live = Live(console=console, refresh_per_second=4, get_renderable=self.table)

    def __enter__(self) -> LiveProgress:
        self.live.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.live.__exit__(*error)

    def table(self) -> Table:
        table = Table(caption=self.summary(), box=None, pad_edge=False)
        table.add_column("arm", overflow="fold")
        for name in ("done", "failed", "epochs", f"{self.metric} so far"):
            table.add_column(name, justify="right", overflow="fold")
        for name, arm in self.arms.items():
            table.add_row(
                name, f"{arm.n_complete}/{arm.n_trials}", str(arm.n_failed or ""), f"{arm.done_epochs}/{arm.n_epochs}",
                arm.so_far(),
            )  # fmt: skip
        return table


def progress(
    metric: str, plan: Plan, console: Console, remaining: Remaining | None
) -> PlainProgress | LiveProgress:
    """The display that suits where the output goes."""
    return (LiveProgress if console.is_terminal else PlainProgress)(
        metric, plan, console, remaining
    )

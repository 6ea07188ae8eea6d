"""How a running study shows itself: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Console
from rich.live import Live
from rich.table import Table

from ablation.plan import Plan
from ablation.runs import Outcome, TrialSpec
from ablation.subject import Record

PLAIN_SECONDS = 10.0  # between plain progress lines


class Progress:
    """A listener that counts; subclasses of it show."""

    def __init__(self, metric: str, plan: Plan):
        self.metric = metric
        self.n_epochs = {name: len(trial.links) for name, trial in plan.trials.items()}
        self.arm_of = {spec.trial: spec.arm for spec in plan.specs}
        self.done_epochs = dict.fromkeys(self.n_epochs, 0)
        self.latest: dict[str, float] = {}  # trial -> headline metric of its last evaluated epoch
        self.ended: dict[str, str] = {}
        self.n_trained = 0
        self.begun_at = time.monotonic()

    def started(self, spec: TrialSpec) -> None: ...

    def recorded(self, specs: Sequence[TrialSpec], record: Record) -> None:
        self.n_trained += 1
        for spec in specs:
            self.done_epochs[spec.trial] += 1
            if self.metric in record["metrics"]:
                self.latest[spec.trial] = record["metrics"][self.metric]

    def finished(self, spec: TrialSpec, outcome: Outcome) -> None:
        self.ended[spec.trial] = outcome.state
        if outcome.state == "COMPLETE":
            self.done_epochs[spec.trial] = self.n_epochs[spec.trial]
            self.latest[spec.trial] = outcome.metrics[self.metric]

    def tick(self) -> None: ...

    def summary(self) -> str:
        n_failed = sum(state == "FAILED" for state in self.ended.values())
        failed = f", {n_failed} failed" if n_failed else ""
        seconds = time.monotonic() - self.begun_at
        return f"{len(self.ended)}/{len(self.n_epochs)} trials{failed}, {self.n_trained} epochs trained, {seconds:.0f} s"


class PlainProgress(Progress):
    """A line when a trial ends and every few seconds."""

    def __init__(self, metric: str, plan: Plan, console: Console):
        super().__init__(metric, plan)
        self.console, self.last = console, time.monotonic()

    def __enter__(self) -> PlainProgress:
        return self

    def __exit__(self, *_: object) -> None: ...

    def finished(self, spec: TrialSpec, outcome: Outcome) -> None:
        super().finished(spec, outcome)
        if outcome.state == "COMPLETE":
            said = f"{self.metric} {outcome.metrics[self.metric]:.2f}"
        else:
            said = f"FAILED: {outcome.error['type']}: {outcome.error['message']}"
        self.console.print(f"{spec.trial}: {said}", markup=False, highlight=False, soft_wrap=True)
        self.last = time.monotonic()

    def tick(self) -> None:
        if time.monotonic() - self.last > PLAIN_SECONDS:
            self.last = time.monotonic()
            self.console.print(self.summary(), markup=False, highlight=False)


class LiveProgress(Progress):
    """A table with a row per arm, redrawn in place."""

    def __init__(self, metric: str, plan: Plan, console: Console):
        super().__init__(metric, plan)
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
            table.add_column(name, justify="right")
        for arm in dict.fromkeys(self.arm_of.values()):
            trials = [name for name, its in self.arm_of.items() if its == arm]
            states = [self.ended.get(name) for name in trials]
            values = [self.latest[name] for name in trials if name in self.latest]
            n_failed = states.count("FAILED")
            table.add_row(
                arm, f"{states.count('COMPLETE')}/{len(trials)}", str(n_failed) if n_failed else "",
                f"{sum(self.done_epochs[t] for t in trials)}/{sum(self.n_epochs[t] for t in trials)}",
                f"{sum(values) / len(values):.2f}" if values else "",
            )  # fmt: skip
        return table


def progress(metric: str, plan: Plan, console: Console) -> PlainProgress | LiveProgress:
    """The display that suits where the output goes."""
    return (LiveProgress if console.is_terminal else PlainProgress)(metric, plan, console)

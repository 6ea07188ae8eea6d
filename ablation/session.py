"""What the commands do, in terms of studies: open, plan, run, follow, sync."""

from __future__ import annotations

import contextlib
import fcntl
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ablation.errors import InputError, Problem
from ablation.execution import Listener
from ablation.grid import Study, load_study
from ablation.live import progress
from ablation.places import Places, study_name
from ablation.plan import Plan, build_plan
from ablation.reading import read_yaml
from ablation.runs import RunFolder
from ablation.section import NAME
from ablation.study import Bound, Done, Listeners, Timings, estimate_seconds, forget_failures, manifest_of, refuse_mixture, run_study, status_of
from ablation.subjects import load_subject

SYNC_SECONDS = 20.0  # between deliveries to MLflow while a study runs


@dataclass(frozen=True)
class Opened:
    """A study that has been checked, and its plan."""

    study: Study
    name: str
    plan: Plan
    places: Places
    published_file: Path

    @property
    def timings(self) -> Timings:
        return Timings(self.places.timings, self.study.experiment.name)


def open_study(grid: Path, experiment: str | None, overrides: Sequence[str], seeds: str | None, alias: str | None) -> Opened:
    """Check everything and plan; nothing is run. Raises InputError with all problems."""
    study = load_study(grid, experiment, overrides, seeds, load_subject)
    if alias and not re.fullmatch(NAME[0], alias):
        raise InputError([Problem("--as", alias, f"must be {NAME[1]}")])
    places = Places()
    name = alias or study_name(study, home=str(read_yaml(grid).get("experiment", study.experiment.name)))
    return Opened(study, name, build_plan(study, places.store), places, grid.parent / "published.yaml")


def describe_plan(opened: Opened, jobs: int) -> None:
    """Print arms, trials, epochs naive, shared, done and left, and what they will cost."""
    plan, store, console = opened.plan, opened.places.store, output()
    missing = plan.missing(store)
    table = Table("arm", *[factor.name for factor in opened.study.grid.factors], title=f"study {opened.name}", title_justify="left", box=None)
    for name in ("trials", "epochs", "of its own", "left to train"):
        table.add_column(name, justify="right")
    left_keys = {link.key for link in missing}
    owned: set[str] = set()
    for variant in opened.study.variants:
        trials = [trial for trial in plan.trials.values() if trial.spec.arm == variant.name]
        own = [link.key for trial in trials for link in trial.links if link.key not in owned]
        owned.update(own)
        levels = [variant.levels.get(factor.name, "") for factor in opened.study.grid.factors]
        n_epochs = sum(len(trial.links) for trial in trials)
        table.add_row(variant.name, *levels, str(len(trials)), str(n_epochs), str(len(own)), str(sum(key in left_keys for key in own)))
    console.print(table)
    n_naive, n_unique = plan.n_naive(), len(plan.unique())
    console.print(f"{len(plan.trials)} trials: {n_naive} epochs one by one, {n_unique} unique ({n_naive / n_unique:.1f} times fewer), {len(missing)} left to train")
    if any(trial.undecided for trial in plan.trials.values()):
        console.print("warm-ups that end at a plateau are planned at their longest until it is reached")
    seconds = estimate_seconds(missing, opened.timings.known())
    if not missing:
        console.print("nothing is left to train")
    elif seconds is None:
        cost = sum(link.cost for link in missing)
        console.print(f"cost: about {cost:.0f} epochs of pre-training; in seconds, once a first epoch of this experiment has been measured")
    else:
        console.print(f"cost: about {duration(seconds)} of one worker, {duration(seconds / jobs)} with {jobs} jobs")


def run(opened: Opened, jobs: int, share: bool, retry_failed: bool, cache_limit: int, offline: bool) -> Done:
    """Run what is missing, track it, write the report; print what happened."""
    console = output()
    opened.places.require_writable()
    folder = opened.places.runs(opened.name)
    manifest = manifest_of(opened.study, opened.name, opened.plan, opened.published_file)
    refuse_mixture(manifest, folder)
    if retry_failed:
        forget_failures(folder, opened.plan)
    timings, bound = opened.timings, Bound(opened.places.store, cache_limit)
    deliveries = [] if offline else [Delivery(opened.places, opened.name, folder, console)]
    with only_one(folder), progress(manifest.metric["name"], opened.plan, console) as shown:
        done = run_study(opened.study, opened.plan, manifest, opened.places, jobs, Listeners([timings, bound, shown, *deliveries]), share)
    timings.save()
    opened.places.store.trim(cache_limit)
    if done.n_trained or done.failed:
        console.print(f"{done.n_trained} epochs trained, {done.n_reused} reused")
    else:
        console.print(f"nothing to train: all {done.n_reused} epochs of {opened.name} are there already")
    if done.n_failed_before:
        console.print(f"{done.n_failed_before} trials that had failed before were not run again; --retry-failed does that")
    from ablation.report import write_report  # matplotlib and pandas

    path = write_report(folder, opened.places.report(opened.name))
    for delivery in deliveries:
        delivery.deliver()
    for trial, reason in done.failed.items():
        console.print(f"FAILED {trial}: {reason}", style="red", markup=False, highlight=False, soft_wrap=True)
    console.print(f"report: {path}", highlight=False, soft_wrap=True)
    return done


def sync(name: str) -> str | None:
    """Bring a study's files to Optuna and MLflow, and say so; None if either could not be reached."""
    places = Places()
    folder = places.runs(name)
    delivery = Delivery(places, name, folder, Console(stderr=True))
    if not delivery.deliver():
        return None
    return f"{name}: Optuna and MLflow have {sum(folder.outcome(spec.trial) is not None for spec in folder.manifest().trials)} finished trials"


def describe_status(name: str) -> None:
    """Print, per arm, how many trials are done and what they reached."""
    folder, console = Places().runs(name), output()
    metric = folder.manifest().metric["name"]
    table = Table("arm", title=f"study {name}", title_justify="left", box=None)
    for heading in ("done", "running", "waiting", "failed", "epochs", metric):
        table.add_column(heading, justify="right")
    for arm, row in status_of(folder).items():
        values = row["values"]
        counts = [str(row[state]) if row[state] else "" for state in ("COMPLETE", "RUNNING", "WAITING", "FAILED")]
        table.add_row(arm, *counts, f"{row['epochs']}/{row['planned']}", f"{sum(values) / len(values):.2f}" if values else "")
    console.print(table)


def output() -> Console:
    """Standard output; tables are as wide as they need be where it is no terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=200)


class Delivery(Listener):
    """Keeps Optuna's ledger and MLflow's record up with the files; the only writer to both.

    Everything is delivered from the files, so what could not be delivered now is delivered later.
    """

    def __init__(self, places: Places, name: str, folder: RunFolder, console: Console):
        self.places, self.name, self.folder, self.console = places, name, folder, console
        self.tracker = None
        self.last = time.monotonic()

    def tick(self) -> None:
        if time.monotonic() - self.last > SYNC_SECONDS:
            self.deliver()

    def deliver(self) -> bool:
        """Bring both up to date; a store that cannot be reached costs nothing but a message."""
        from ablation.ledger import LedgerUnavailable
        from ablation.ledger_import import update_ledger
        from ablation.tracking import Tracker
        from ablation.tracking_store import TrackingUnavailable

        self.last = time.monotonic()
        try:
            update_ledger(self.places.ledger_url, self.folder)
            self.tracker = self.tracker or Tracker()
            self.tracker.sync(self.folder, self.places.report(self.name))
        except (LedgerUnavailable, TrackingUnavailable) as error:
            self.console.print(f"{error}; the files are complete, `ablate sync {self.name}` delivers them later", markup=False, soft_wrap=True)
            return False
        return True


@contextlib.contextmanager
def only_one(folder: RunFolder) -> Iterator[None]:
    """Hold the study for this process; the system lets go of it when the process ends, however it ends."""
    folder.path.mkdir(parents=True, exist_ok=True)
    with (folder.path / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError([Problem(str(folder.path), "", "another process is running this study; see `ablate status`")]) from None
        yield


def duration(seconds: float) -> str:
    """Seconds in the unit that suits: 45 s, 3.2 min, 5.1 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"

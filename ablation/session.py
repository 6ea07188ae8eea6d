"""What the commands do, in terms of studies: open, plan, run, follow, sync."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from ablation import interruption
from ablation.changes import changes
from ablation.delivery import Delivery
from ablation.doctor_files import TrialFiles
from ablation.errors import InputError, Problem
from ablation.exits import refused
from ablation.formatting import duration
from ablation.grid import Study, load_study, yaml_path
from ablation.inputs import require_usable_inputs
from ablation.limits import Limits
from ablation.live import progress
from ablation.lock import only_one
from ablation.places import Places, study_name
from ablation.plan import Plan, build_plan, expected
from ablation.plan_view import show_plan
from ablation.reading import read_yaml
from ablation.remaining import Remaining
from ablation.runs import Manifest
from ablation.section import FILE_NAME
from ablation.study import (
    Bound,
    Done,
    Listeners,
    forget_failures,
    manifest_of,
    refuse_mixture,
    run_study,
)
from ablation.subjects import load_subject
from ablation.terminal import output
from ablation.timings import Timings
from ablation.workers import Workers


@dataclass(frozen=True)
class Opened:
    """A study that has been checked, and its plan."""

    study: Study
    name: str
    plan: Plan
    places: Places
    published_file: Path
    asked: Mapping[str, Any] = field(default_factory=dict)  # how it was opened

    @property
    def timings(self) -> Timings:
        return Timings(self.places.timings, self.study.experiment.name, self.study.common)

    @property
    def devices(self) -> set[str]:
        """What trials compute on; "" of those whose settings do not tell."""
        return {
            str(self.study.subject.resolve(variant.settings).get("device", ""))
            for variant in self.study.variants
        }


@refused()
def open_study(
    grid: Path, experiment: str | None, overrides: Sequence[str], seeds: str | None, alias: str | None, storage: str | None = None,
    may_be_absent: bool = False,
) -> Opened:  # fmt: skip
    """Check everything and plan; nothing is run. Raises InputError with all problems.

    storage: URL of the team's database that holds the ledger.
    may_be_absent: files that trials read; a study without them can be planned.
    """
    grid = yaml_path(grid)
    study = load_study(grid, experiment, overrides, seeds, load_subject, may_be_absent)
    if alias is not None and not re.fullmatch(FILE_NAME[0], alias):
        raise InputError([Problem("--as", alias, f"must be {FILE_NAME[1]}")])
    places = Places(storage=storage)
    name = alias or study_name(
        study, home=str(read_yaml(grid).get("experiment", study.experiment.name))
    )
    plan = build_plan(study, places.store, places.runs(name))
    asked = {
        "grid": str(grid),
        "experiment": experiment,
        "overrides": list(overrides),
        "seeds": seeds,
    }
    return Opened(study, name, plan, places, grid.parent / "published.yaml", asked)


def describe_plan(opened: Opened, jobs: int) -> None:
    """Print arms, phases and forks with their epochs, naive, unique and left, and how long `jobs` workers will take."""
    folder, store = opened.places.runs(opened.name), opened.places.store
    is_whole = not opened.study.absent  # without its data, nothing can be said of what has changed
    if is_whole:
        refuse_mixture(_manifest(opened), folder)
    plan = expected(opened.study, opened.plan, store, folder)
    console = output()
    console.print(f"study {opened.name}", style="italic")
    if is_whole:
        _tell_changes(opened, console)
    show_plan(
        console, opened.study, plan, plan.unfinished(folder), store, opened.timings.known(), jobs
    )
    if opened.study.absent:
        console.print("the study cannot be run yet:", style="bold")
    for problem in opened.study.absent:
        console.print(f"  {problem}", markup=False, highlight=False, soft_wrap=True)


@refused()
def run(
    opened: Opened, jobs: int, share: bool, retry_failed: bool, cache_limit: int, offline: bool, limits: Limits = Limits(),
    make_workers: Callable[[int], Workers] | None = None,
) -> Done:  # fmt: skip
    """Run what is missing, track it, write the report; print what happened.

    make_workers: default: processes of this machine, which see all of its GPUs.
    """
    console = output()
    opened.places.require_writable()
    folder = opened.places.runs(opened.name)
    manifest = _manifest(opened)
    refuse_mixture(manifest, folder)
    require_usable_inputs(opened.study, opened.plan, opened.places.store, folder)
    _tell_changes(opened, console)
    with only_one(folder.path):
        opened, manifest = _restored(opened, manifest, console)
        if retry_failed:
            forget_failures(
                folder, opened.plan, opened.places.store, opened.study.grid.metric["name"]
            )
    deliveries = [] if offline else [Delivery(opened.places, opened.name, console)]
    store, timings = opened.places.store, opened.timings
    bound, file = Bound(store, cache_limit), opened.places.progress(opened.name)
    remaining = (
        Remaining(opened.study, opened.plan, store, folder, timings, jobs, file) if share else None
    )
    heard = [timings, bound, *([remaining] if remaining else [])]
    shows = progress(manifest.metric["name"], opened.plan, console, remaining)
    try:
        with (
            only_one(folder.path),
            interruption.heeded(),
            remaining or nullcontext(),
            shows as shown,
        ):
            listeners = Listeners([*heard, shown, *deliveries])
            done = run_study(
                opened.study,
                opened.plan,
                manifest,
                opened.places,
                jobs,
                listeners,
                share,
                limits,
                make_workers,
            )
    except BaseException:
        for delivery in (
            deliveries if folder.exists() else ()
        ):  # no record stays RUNNING of what nobody runs any more
            with suppress(
                OSError
            ):  # of a full disk, or a terminal that is gone; what has ended the study is to be told
                delivery.deliver()
        raise
    timings.save()
    opened.places.store.trim(cache_limit)
    if done.n_open:
        for delivery in deliveries:
            delivery.deliver()
        console.print(
            f"interrupted with {done.n_open} trials to go; the same command goes on from their last epochs",
            soft_wrap=True,
        )
        return done
    if done.n_trained or done.failed:
        console.print(
            f"{done.n_trained} epochs trained, {done.n_reused} reused, {duration(done.seconds)}"
        )
    else:
        console.print(
            f"nothing to train: all {len(opened.plan.trials)} trials of {opened.name} are there already"
        )
    if done.n_failed_before:
        console.print(
            f"{done.n_failed_before} trials that had failed before were not run again; --retry-failed does that"
        )
    from ablation.report import write_report  # matplotlib and pandas

    path = write_report(folder, opened.places.report(opened.name))
    for delivery in deliveries:
        delivery.deliver_news()
    for trial, reason in done.failed.items():
        console.print(
            f"FAILED {trial}: {reason}", style="red", markup=False, highlight=False, soft_wrap=True
        )
    console.print(f"report: {path}", highlight=False, soft_wrap=True)
    return done


def _manifest(opened: Opened) -> Manifest:
    return replace(
        manifest_of(opened.study, opened.name, opened.plan, opened.published_file),
        asked=dict(opened.asked),
    )


def _tell_changes(opened: Opened, console: Console) -> None:
    said = changes(opened.study, opened.plan, opened.places.runs(opened.name)).said
    if said:
        console.print(said, markup=False, highlight=False, soft_wrap=True)


def _restored(opened: Opened, manifest: Manifest, console: Console) -> tuple[Opened, Manifest]:
    """The study once damaged files of its ended trials have been made again, as far as can be known without training."""
    folder, store = opened.places.runs(opened.name), opened.places.store
    restored = TrialFiles(folder, store, manifest, opened.study.subject).restore()
    for said in restored:
        console.print(said, markup=False, highlight=False, soft_wrap=True)
    if not restored:
        return opened, manifest
    plan = build_plan(
        opened.study, store, folder
    )  # what chains of undecided length came to is known again
    return replace(opened, plan=plan), replace(manifest, trials=plan.specs)


def sync(name: str, storage: str | None = None) -> str | None:
    """Bring a study's files to Optuna and MLflow, and say so; None if either could not be reached."""
    places = Places(storage=storage)
    folder = places.runs(name)
    if not Delivery(places, name, Console(stderr=True)).deliver():
        return None
    return f"{name}: Optuna and MLflow have {sum(folder.outcome(spec.trial) is not None for spec in folder.manifest().trials)} finished trials"

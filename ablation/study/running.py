"""Run a study: train what is missing, track it, and judge it in a report."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.text import Text

from ablation import interruption
from ablation.errors import InputError, Problem, nearest
from ablation.execution.executor import Execution
from ablation.execution.workers import Limits, Workers
from ablation.formatting import duration, parse_size
from ablation.planning.forecast import Listener, Listeners
from ablation.planning.plan import Plan, Planner
from ablation.search.seeds import Budget, UntilDecided
from ablation.search.tuning import SearchPlanner, Tuning
from ablation.storage.asked import SUFFIX
from ablation.storage.cache import DEFAULT_SIZE, DiskStore, remove
from ablation.storage.files import folder_lock
from ablation.storage.project import ProjectPaths
from ablation.storage.runs import UNSCORED, Manifest, RunFolder
from ablation.study.closing import Closing, other_seeds
from ablation.study.live import Progress, continuation, output, tell, working
from ablation.study.opening import (
    PlannedStudy,
    changes,
    due_plan,
    open_study,
    planned_search,
    refuse_mixture,
    require_usable_inputs,
)
from ablation.study.placement import Placement, placement
from ablation.study.repair import TrialFiles
from ablation.subject.imported import refused
from ablation.subject.own import OwnCode
from ablation.tracking.delivery import Delivery

UPDATING = "bringing Optuna and MLflow up to date"
# between looks at the cache's size while a study runs
TRIM_SECONDS = 60.0


@dataclass(frozen=True)
class RunOptions:
    """How a study is run: the options of `ablate run`, parsed; None where one was not given."""

    jobs: int | None = None
    # "local" | "ray"
    executor: str = "local"
    gpus: str | None = None
    trials_per_gpu: int | None = None
    ray_address: str | None = None
    cpus_per_trial: int | None = None
    seconds_per_trial: float | None = None
    bytes_per_worker: int | None = None
    cache_bytes: int = parse_size(DEFAULT_SIZE, "--cache-size")
    # epochs that trials have in common
    share: bool = True
    retry_failed: bool = False
    # arms whose trials alone are run; all, if there are none
    only: Sequence[str] = ()
    # also when all trials fail alike
    keep_going: bool = False
    offline: bool = False
    # of a study that adds seeds until its claims are decided: no further look begins once spent
    max_hours: float | None = None
    max_trials: int | None = None


@dataclass(frozen=True)
class RunResult:
    """The result of running a study once."""

    # epochs trained in this pass
    n_trained: int
    # epochs of the study that were there before it
    n_reused: int
    # of the study, as it is planned in the end
    n_trials: int
    # trial -> reason, of this pass and of earlier ones
    failed: dict[str, str]
    # trials that had failed before it, and were not run again
    n_failed_before: int
    # that it took, by the clock
    seconds: float
    # trials that have not ended: it was interrupted or given up
    n_open: int = 0
    # trials of arms that were left out, and that have not ended
    n_left_out: int = 0
    # trials that failed alike, for which it was given up
    given_up_for: Sequence[str] = ()
    # whether it was given up because code or data changed meanwhile
    is_outdated: bool = False

    @property
    def n_complete(self) -> int:
        """Trials that have a result."""
        return self.n_trials - self.n_open - self.n_left_out - len(self.failed)


@refused()
def run(planned: PlannedStudy, options: RunOptions) -> RunResult:
    """Tune the arms if the grid says so, run what is missing, track it, write the report."""
    _refuse_idle_budget(planned, options)
    refuse_unknown_arms(planned, options.only)
    # warnings: those of the search need not be repeated before the study
    warned = set[str]()
    # The files are read again after each search: they may say now that more is to be searched.
    while planned.tuning is not None and planned.tuning.is_due:
        # where its manifest alone is lost, the study has the settings that it found
        planned = replace(planned, study=planned.tuning.study)
        result = _search(planned, options, warned)
        if result.n_open:
            return result
        asked = {**planned.asked, "grid": Path(planned.asked["grid"]), "alias": planned.name}
        planned = open_study(**asked, storage=planned.places.storage)
    with _held(planned, options, warned) as (console, deliveries, placed):
        result = _run_held(planned, options, placed, deliveries, console)
    begun, closing = time.monotonic(), Closing(planned.places, planned.name)
    for line in _summary(planned, result):
        console.print(line, soft_wrap=True)
    if result.n_open or result.n_left_out or not result.n_complete:
        with working(console, UPDATING):
            for delivery in deliveries:
                delivery.deliver()
        if not (result.n_open or result.n_left_out):
            console.print("no trial is complete: there is nothing to report yet")
        tell(console, closing.outdated())
        return result
    conclusion = closing.known()
    if conclusion is None:
        with working(console, "writing the report"):
            conclusion = closing.write()
    with working(console, UPDATING):
        for delivery in deliveries:
            delivery.deliver_news()
    if result.n_trained:
        timings = planned.timings
        timings.closed(time.monotonic() - begun)
        timings.save()
    for line in conclusion:
        console.print(Text(line))
    tell(console, other_seeds(planned.folder))
    console.print(f"report: {closing.path}", highlight=False, soft_wrap=True)
    for page in (delivery.page for delivery in deliveries):
        if page:
            console.print(f"MLflow: {page}", highlight=False, soft_wrap=True, markup=False)
    ui = f"`ablate sync {planned.name}`, then `ablate ui`" if options.offline else "`ablate ui`"
    page = f"`ablate report {planned.name} --html` (the report as one page)"
    tell(console, f"look further: {ui} (every run, in MLflow); {page}")
    return result


def _search(planned: PlannedStudy, options: RunOptions, warned: set[str]) -> RunResult:
    """Run the search of a study's arms; print what it took."""
    # what a search has told Optuna stays as it is
    options = replace(options, retry_failed=False)
    planned.places.require_writable()
    with ExitStack() as lock:
        folder = planned.places.runs(f"{planned.name}{SUFFIX}")
        lock.enter_context(folder_lock(folder.path))
        # Another process may have gone on with the search since its events were read.
        tuning = Tuning(planned.study, folder)
        # before the events of another search are put aside
        refuse_mixture(planned_search(planned, tuning, Plan({})).manifest, folder)
        planner = SearchPlanner(tuning, planned.store)
        searched = planned_search(planned, tuning, planner.grown(planner.begun()))
        with _held(searched, options, warned, lock) as (console, deliveries, placed):
            n_arms = len(tuning.arms)
            metric = tuning.search.metric["name"]
            tell(console, f"search of {n_arms} arms and baselines on {metric}")
            _warn(console, tuning.replaced_options, warned)
            result = _run_held(searched, options, placed, deliveries, console, planner)
    with working(console, UPDATING):
        for delivery in deliveries:
            delivery.deliver()
    for line in _summary(searched, result):
        console.print(line, soft_wrap=True)
    _warn(console, tuning.unpruned, warned)
    return result


def refuse_unknown_arms(planned: PlannedStudy, only: Collection[str]) -> None:
    """Raise InputError for arms of `--only` that the study lacks, and before its search is over."""
    arms = {variant.name for variant in planned.study.variants}
    problems = [
        Problem("", "--only", f"the study has no arm '{name}'; {nearest(name, arms)}")
        for name in only
        if name not in arms
    ]
    if only and planned.tuning is not None and planned.tuning.is_due:
        message = "the arms are to be tuned first, all of them; run the study without it"
        problems.append(Problem("", "--only", message))
    if problems:
        raise InputError(problems)


def _refuse_idle_budget(planned: PlannedStudy, options: RunOptions) -> None:
    """Raise InputError if a budget is given to a study of a fixed number of seeds."""
    given = {"--max-hours": options.max_hours, "--max-trials": options.max_trials}
    if planned.study.grid.looks:
        return
    remedy = "add --until-decided, or seeds: {start, max} to the grid"
    message = f"the number of seeds is fixed, so that it would do nothing; {remedy}"
    problems = [Problem("", key, message) for key, value in given.items() if value is not None]
    if problems:
        raise InputError(problems)


def _run_held(
    planned: PlannedStudy,
    options: RunOptions,
    placed: Placement,
    deliveries: Sequence[Delivery],
    console: Console,
    search: SearchPlanner | None = None,
) -> RunResult:
    """The part of `run` in which no other process may run the study."""
    planner: Planner | None = search
    logs = search.logs if search else {}
    mended = _mended(planned, console)
    # a planner that is there looks records up by itself
    planned = planned if search else mended
    if options.retry_failed:
        forget_failures(planned, options.only)
    if not search:
        _forget_other_scores(planned)
    if not search and planned.study.grid.looks:
        hours = options.max_hours
        budget = Budget(options.max_trials, None if hours is None else 3600 * hours)
        planner = until_decided = UntilDecided(
            planned.study, planned.store, planned.folder, budget, partial(tell, console)
        )
        planned = replace(planned, plan=until_decided.due(planned.plan))
    timings = planned.timings
    bound = CacheBound(planned.store, options.cache_bytes)
    with (
        interruption.stop_on_signals(),
        Progress(
            planned, console, timings, placed.jobs, options.share, logs, options.only
        ) as progress,
    ):
        shown = [ShownDelivery(delivery, progress) for delivery in deliveries]
        listener = Listeners([timings, bound, progress, *shown])
        result = train(planned, options, listener, placed.jobs, placed.make_workers, planner)
    timings.save()
    planned.store.trim(options.cache_bytes)
    # those of this pass were told as they failed
    for line in () if search or result.n_open else progress.failed_before:
        tell(console, line, style="red")
    return result


def train(
    planned: PlannedStudy,
    options: RunOptions,
    listener: Listener,
    jobs: int,
    make_workers: Callable[[int], Workers] | None = None,
    planner: Planner | None = None,
) -> RunResult:
    """Run what is missing. Leaves the manifest and the trials' folders in `runs/<study>/`.

    planner: default, the study's trials are known from the start.
    """
    study, plan, store, folder = planned.study, planned.plan, planned.store, planned.folder
    manifest = planned.manifest
    n_reused = len(plan.unique()) - len(plan.missing(store)) if options.share else 0
    limits = Limits(options.seconds_per_trial, options.bytes_per_worker)
    keeper = ManifestKeeper(manifest, folder)
    listeners = Listeners([keeper, listener])
    execution = Execution(
        study,
        plan,
        store,
        folder,
        listeners,
        options.share,
        limits,
        planner,
        options.keep_going,
        options.only,
    )
    if not execution.open and folder.exists():
        # The provenance is that of the run that trained.
        keeper.manifest = replace(manifest, provenance=folder.manifest().provenance)
    # Written also before the run: trials may already have been closed from the store.
    keeper.write(execution.plan)
    begun = time.monotonic()
    plan = execution.run(jobs, make_workers)
    seconds = time.monotonic() - begun
    keeper.write(plan)
    return RunResult(
        n_trained=execution.n_trained,
        n_reused=n_reused,
        n_trials=len(plan.trials),
        failed={name: execution.failed[name] for name in plan.trials if name in execution.failed},
        n_failed_before=execution.n_failed_before,
        seconds=seconds,
        n_open=len(execution.open),
        n_left_out=execution.n_left_out,
        given_up_for=execution.given_up_for,
        is_outdated=execution.is_outdated,
    )


def forget_failures(planned: PlannedStudy, only: Collection[str] = ()) -> None:
    """Remove the outcomes of failed trials, `only` of these arms, so that they run again.

    Of a trial whose epochs are all there and give no score, those from the first without a finite
    metric are removed, too: else nothing would be run.
    """
    folder, store = planned.folder, planned.store
    for name, trial in planned.plan.of(only).trials.items():
        outcome = folder.ending(trial.spec)
        if outcome is None or outcome.error is None:
            continue
        if outcome.error["type"] in UNSCORED:
            metric = planned.study.grid.metric["name"]
            for own in (store, store.alone(planned.name, name)):
                _forget_unscored(own, [link.key for link in trial.links], metric)
        folder.forget_outcome(name)


def _forget_other_scores(planned: PlannedStudy) -> None:
    """Remove the outcomes of trials that have failed by the score of another metric.

    What they have measured is in the cache: it may hold the metric of now.
    """
    folder = planned.folder
    if not folder.exists() or folder.manifest().metric == planned.study.grid.metric:
        return
    for spec in planned.plan.specs:
        outcome = folder.ending(spec)
        if outcome is not None and outcome.error and outcome.error["type"] in UNSCORED:
            folder.forget_outcome(spec.trial)


def sync(name: str, storage: str | None = None) -> str | None:
    """Bring a study's files to Optuna and MLflow; returns what to say, None if that failed."""
    places = ProjectPaths(storage=storage)
    folder = places.runs(name)
    if not Delivery(places, name, Console(stderr=True)).deliver():
        return None
    n_finished = sum(folder.outcome(spec.trial) is not None for spec in folder.manifest().trials)
    return f"{name}: Optuna and MLflow have {n_finished} finished trials"


@dataclass
class ShownDelivery(Listener):
    """Delivers results while a study runs, and shows that it does."""

    delivery: Delivery
    progress: Progress

    def tick(self) -> None:
        """Deliver if that is due."""
        if self.delivery.is_due():
            with self.progress.doing(UPDATING):
                self.delivery.deliver()


@dataclass
class CacheBound(Listener):
    """Keeps the cache within its size limit while a study runs."""

    store: DiskStore
    limit: int
    last: float = field(default_factory=time.monotonic)

    def tick(self) -> None:
        """Trim the cache once in TRIM_SECONDS."""
        if time.monotonic() - self.last > TRIM_SECONDS:
            self.store.trim(self.limit)
            self.last = time.monotonic()


@dataclass
class ManifestKeeper(Listener):
    """Keeps the trials of study.json those of the plan, while that grows or chains end early."""

    manifest: Manifest
    folder: RunFolder
    # what study.json does not hold yet
    plan: Plan | None = None
    # the next time at which it may be written: that takes longer the more trials there are
    due: float = 0.0
    is_written: bool = False

    def replanned(self, plan: Plan) -> None:
        """Note the plan, to be written when that is due."""
        self.plan = plan

    def tick(self) -> None:
        """Write the plan if it has changed, and at most a hundredth of the time is spent so."""
        if self.plan is not None and time.monotonic() > self.due:
            begun = time.monotonic()
            self.write(self.plan)
            self.due = time.monotonic() + 100 * (time.monotonic() - begun)

    def write(self, plan: Plan) -> None:
        """Write study.json with the trials of this plan, unless it holds them."""
        self.plan = None
        # more seeds than before may have trials now
        seeds = [*self.manifest.seeds, *(spec.seed for spec in plan.specs)]
        seeds = list(dict.fromkeys(seeds))
        manifest = replace(self.manifest, trials=plan.specs, seeds=seeds)
        if manifest != self.manifest or not self.is_written:
            self.manifest, self.is_written = manifest, True
            self.folder.write_manifest(manifest)


@contextmanager
def _held(
    planned: PlannedStudy, options: RunOptions, warned: set[str], held: ExitStack | None = None
) -> Iterator[tuple[Console, list[Delivery], Placement]]:
    """What a pass over a study needs; while this lasts, no other process may run the study.

    If it is broken off, no record stays RUNNING.

    warned: warnings that were told before; held: the lock of the study, if this process has it
    already
    """
    with placement(planned, options) as placed:
        console, folder = output(), planned.folder
        planned.places.require_writable()
        refuse_mixture(planned.manifest, folder)
        with working(console, "checking the data that trials read"):
            require_usable_inputs(planned)
        tell(console, changes(planned).description)
        _warn(console, planned.warnings, warned)
        deliveries = [] if options.offline else [Delivery(planned.places, planned.name, console)]
        with ExitStack() as own:
            lock = own if held is None else held
            if held is None:
                lock.enter_context(folder_lock(folder.path))
            try:
                yield console, deliveries, placed
            except BaseException:
                # A delivery looks whether any process runs the study.
                lock.close()
                later = f"stopped; {UPDATING}; Ctrl-C leaves that to `ablate sync {planned.name}`"
                for delivery in deliveries if folder.exists() else ():
                    # The first error is to be told, and not that a disk is full or a terminal gone.
                    with suppress(OSError), working(console, later):
                        delivery.deliver()
                raise


def _warn(console: Console, warnings: Sequence[str], warned: set[str]) -> None:
    """Print those that were not told before, and add them to those that were."""
    for warning in warnings:
        if warning not in warned:
            tell(console, f"warning: {warning}")
            warned.add(warning)


def _mended(planned: PlannedStudy, console: Console) -> PlannedStudy:
    """The study once damaged files of ended trials have been made again, without training."""
    study, store, folder = planned.study, planned.store, planned.folder
    mended = TrialFiles(folder, store, planned.manifest, study.subject).restore()
    for line in mended:
        tell(console, line)
    # What chains of undecided length came to is known again.
    return replace(planned, plan=due_plan(study, store, folder)) if mended else planned


def _forget_unscored(store: DiskStore, keys: list[str], metric: str) -> None:
    values = [(store.record(key) or {"metrics": {}})["metrics"].get(metric, 0.0) for key in keys]
    first = next((i for i, value in enumerate(values) if not math.isfinite(value)), len(keys) - 1)
    for kind in ("state", "record"):
        for key in keys[first:]:
            remove(store.path(kind, key))


def _summary(planned: PlannedStudy, result: RunResult) -> list[str]:
    if result.is_outdated:
        return [
            f"stopped with {result.n_open} trials to go: code, data or libraries have changed since"
            " the study began",
            "the same command plans it anew: every arm is of the code as it is then",
        ]
    if result.given_up_for:
        n, n_open = len(result.given_up_for), result.n_open
        return [
            f"stopped: all {n} trials that have ended failed alike, and so would the other "
            f"{n_open}, which were not run",
            "once the cause is mended, the same command runs them, and with --retry-failed those "
            "that failed, too; --keep-going runs them as they are",
        ]
    if result.n_open:
        then = f"the same command {continuation(planned.study.subject)}"
        return [f"interrupted with {result.n_open} trials to go; {then}"]
    if result.n_trained or result.failed:
        # of own code, one link is a whole trial, however many epochs it reports
        unit = "trials" if isinstance(planned.study.subject, OwnCode) else "epochs"
        trained = f"{result.n_trained} {unit} trained, {result.n_reused} reused"
        lines = [f"{trained}, {duration(result.seconds)}"]
    else:
        n = result.n_trials - result.n_left_out
        of = "these arms" if result.n_left_out else planned.name
        lines = [f"nothing to train: all {n} trials of {of} are there already"]
    if result.n_left_out:
        n, remedy = result.n_left_out, "the same command without --only goes on with them"
        lines.append(f"trials of other arms that are to go: {n}; {remedy}")
    if result.n_failed_before:
        n = result.n_failed_before
        failed = f"{n} trial{'s' * (n != 1)} that had failed before {'was' if n == 1 else 'were'}"
        lines.append(f"{failed} not run again; --retry-failed does that")
    return lines

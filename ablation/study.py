"""One study from plan to report: files first, then Optuna's ledger, MLflow's record and the report from them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ablation.errors import InputError, Problem
from ablation.execution import Execution, Listener
from ablation.grid import Study
from ablation.limits import Limits
from ablation.outcome import UNSCORED
from ablation.places import Places
from ablation.plan import Plan
from ablation.provenance import provenance
from ablation.published import published
from ablation.runs import Manifest, Outcome, RunFolder, TrialSpec
from ablation.store import DiskStore, remove
from ablation.subject import Record
from ablation.workers import Workers

TRIM_SECONDS = 60.0  # between looks at the cache's size while a study runs


@dataclass(frozen=True)
class Done:
    """How a pass over a study ended."""

    n_trained: int  # epochs trained in this pass
    n_reused: int  # epochs of the study that were there before it
    failed: dict[str, str]  # trial -> reason, of this pass and of earlier ones
    n_failed_before: int  # trials that had failed before it, and were not run again
    seconds: float  # that it took, wall-clock
    n_open: int = 0  # trials that have not ended: it was interrupted


def manifest_of(study: Study, name: str, plan: Plan, published_file: Path) -> Manifest:
    """The study's manifest, before anything has run."""
    grid, experiment = study.grid, study.experiment
    return Manifest(
        study=name, experiment=experiment.name, title=experiment.title, question=grid.question, dataset=experiment.dataset,
        design=list(grid.design), metric=dict(grid.metric),
        factors={factor.name: {level.name: dict(level.overrides) for level in factor.levels} for factor in grid.factors},
        seeds=list(grid.seeds), baselines=list(grid.baselines), reference=grid.reference, claims=list(grid.claims),
        trials=plan.specs,
        published=published(published_file, experiment.dataset) if published_file.is_file() else [],
        facts=study.subject.describe(study.common), provenance=provenance(), config=study.subject.resolve(study.common),
        subject=experiment.subject,
    )  # fmt: skip


def refuse_mixture(manifest: Manifest, folder: RunFolder) -> None:
    """Raise InputError if the folder holds the same study of another experiment: results would be mixed."""
    if not folder.exists():
        return
    before, now = (
        flat({"metric": each.metric, **each.config}) for each in (folder.manifest(), manifest)
    )
    changed = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    if changed:
        key = changed[0]
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        message = f"was {before.get(key)}, is {now.get(key)}{more}; keep this study under another name with --as NAME, or remove {folder.path}"
        raise InputError([Problem(str(folder.path), key, message)])


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, by dotted keys."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= (
            flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
        )
    return found


def forget_failures(
    folder: RunFolder, plan: Plan, store: DiskStore, metric: str
) -> list[TrialSpec]:
    """Failed trials lose their outcome, so that they are run again; returns them.

    Of one whose epochs are all there and give no score, they go too, from the first that shows it: else nothing would be run.
    """
    failed = [
        spec
        for spec in plan.specs
        if (outcome := folder.ending(spec)) is not None and outcome.state == "FAILED"
    ]
    for spec in failed:
        if folder.outcome(spec.trial).error["type"] in UNSCORED:
            for own in (store, store.alone(folder.path.name, spec.trial)):
                _forget_unscored(own, [link.key for link in plan.trials[spec.trial].links], metric)
        (folder.trial_path(spec.trial) / "outcome.json").unlink()
    return failed


def _forget_unscored(store: DiskStore, keys: list[str], metric: str) -> None:
    values = [(store.record(key) or {"metrics": {}})["metrics"].get(metric, 0.0) for key in keys]
    first = next((i for i, value in enumerate(values) if not math.isfinite(value)), len(keys) - 1)
    for kind in ("state", "record"):
        for key in keys[first:]:
            remove(store.path(kind, key))


def run_study(
    study: Study, plan: Plan, manifest: Manifest, places: Places, jobs: int, listener: Listener, share: bool = True,
    limits: Limits = Limits(), make_workers: Callable[[int], Workers] | None = None,
) -> Done:  # fmt: skip
    """Run what is missing. Leaves the manifest and the trials' folders in `runs/<study>/`."""
    folder = places.runs(manifest.study)
    n_reused = len(plan.unique()) - len(plan.missing(places.store)) if share else 0
    execution = Execution(study, plan, places.store, folder, listener, share, limits)
    if not execution.open and folder.exists():
        manifest = replace(
            manifest, provenance=folder.manifest().provenance
        )  # of the run that trained
    folder.write_manifest(
        manifest
    )  # while it runs, trials may already have been closed from the store
    begun = time.monotonic()
    plan = execution.run(jobs, make_workers)
    seconds = time.monotonic() - begun
    if plan.specs != manifest.trials:
        folder.write_manifest(replace(manifest, trials=plan.specs))
    failed = {name: execution.failed[name] for name in plan.trials if name in execution.failed}
    return Done(
        execution.n_trained,
        n_reused,
        failed,
        execution.n_failed_before,
        seconds,
        len(execution.open),
    )


@dataclass
class Listeners(Listener):
    """Several listeners as one."""

    all: Sequence[Listener]

    def found(self, spec: TrialSpec, outcome: Outcome) -> None:
        for listener in self.all:
            listener.found(spec, outcome)

    def resumed(self, spec: TrialSpec, records: Sequence[Record]) -> None:
        for listener in self.all:
            listener.resumed(spec, records)

    def began(self, specs: Sequence[TrialSpec]) -> None:
        for listener in self.all:
            listener.began(specs)

    def left(self, specs: Sequence[TrialSpec]) -> None:
        for listener in self.all:
            listener.left(specs)

    def recorded(self, specs: Sequence[TrialSpec], record: Record) -> None:
        for listener in self.all:
            listener.recorded(specs, record)

    def ran(self, is_first: bool, seconds: float) -> None:
        for listener in self.all:
            listener.ran(is_first, seconds)

    def finished(self, spec: TrialSpec, outcome: Outcome) -> None:
        for listener in self.all:
            listener.finished(spec, outcome)

    def stopping(self, n_busy: int) -> None:
        for listener in self.all:
            listener.stopping(n_busy)

    def tick(self) -> None:
        for listener in self.all:
            listener.tick()


@dataclass
class Bound(Listener):
    """A listener that keeps the cache within its size while a study runs."""

    store: DiskStore
    limit: int
    last: float = field(default_factory=time.monotonic)

    def tick(self) -> None:
        if time.monotonic() - self.last > TRIM_SECONDS:
            self.store.trim(self.limit)
            self.last = time.monotonic()

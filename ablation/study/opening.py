"""Open a study from its files: check it, plan it, compare it with what was run before."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from ablation.analysis.published import published
from ablation.errors import InputError, Problem
from ablation.grid.load import Study, load_study, study_name, yaml_path
from ablation.grid.strict_yaml import FILE_NAME, flatten, read_yaml
from ablation.planning.forecast import Timings
from ablation.planning.manifest import manifest_of
from ablation.planning.plan import Plan, build_plan, expected
from ablation.search.seeds import UntilDecided
from ablation.storage.cache import DiskStore
from ablation.storage.project import ProjectPaths
from ablation.storage.runs import Manifest, RunFolder
from ablation.study.provenance import provenance
from ablation.subject.exits import refused
from ablation.subject.loading import load_subject

REASONS = {
    "source_fingerprint": "code changed",
    "data_fingerprint": "data changed",
    "checkpoint": "checkpoint changed",
    "versions": "versions of libraries changed",
}
"""Fact of a manifest -> why trials are stale if it is another one now."""


@dataclass(frozen=True)
class PlannedStudy:
    """A study that has been checked, its plan, and where its files are."""

    study: Study
    name: str
    plan: Plan
    places: ProjectPaths
    published_file: Path
    # arguments of `open_study`
    asked: Mapping[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> RunFolder:
        """The files of its trials."""
        return self.places.runs(self.name)

    @property
    def store(self) -> DiskStore:
        """The cache of epochs."""
        return self.places.store

    @property
    def timings(self) -> Timings:
        """How long its epochs took, as far as they were measured."""
        return Timings(self.places.timings, self.study.experiment.name, self.study.common)

    @property
    def devices(self) -> set[str]:
        """What trials compute on; "" of those whose settings do not tell."""
        resolve = self.study.subject.resolve
        return {str(resolve(each.settings).get("device", "")) for each in self.study.variants}

    @cached_property
    def manifest(self) -> Manifest:
        """Before anything has run. Needs the files that trials read."""
        study, file = self.study, self.published_file
        return replace(
            manifest_of(study, self.name, self.plan),
            published=published(file, study.experiment.dataset) if file.is_file() else [],
            facts=study.subject.describe(study.common),
            provenance=provenance(),
            config=study.subject.resolve(study.common),
            asked=dict(self.asked),
        )

    def expected(self) -> Plan:
        """The plan, chains of undecided length taken to be as long as in a finished seed."""
        return expected(self.study, self.plan, self.store, self.folder)


@refused()
def open_study(
    grid: Path,
    experiment: str | None = None,
    overrides: Sequence[str] = (),
    seeds: str | None = None,
    alias: str | None = None,
    storage: str | None = None,
    may_be_absent: bool = False,
    until_decided: bool = False,
) -> PlannedStudy:
    """Check everything and plan; nothing is run. Raises InputError with all problems.

    until_decided: add seeds to a fixed number of them until the grid's claims are decided.
    storage: URL of the team's database that holds the ledger.
    may_be_absent: files that trials read; a study without them can be planned.
    """
    grid = yaml_path(grid)
    study = load_study(
        grid, experiment, overrides, seeds, load_subject, may_be_absent, until_decided
    )
    if alias is not None and not re.fullmatch(FILE_NAME[0], alias):
        raise InputError([Problem("--as", alias, f"must be {FILE_NAME[1]}")])
    places = ProjectPaths(storage=storage)
    home = str(read_yaml(grid).get("experiment", study.experiment.name))
    name = alias or study_name(study, home)
    plan = due_plan(study, places.store, places.runs(name))
    asked: dict[str, Any] = {
        "grid": str(grid),
        "experiment": experiment,
        "overrides": list(overrides),
        "seeds": seeds,
    }
    if until_decided:
        asked["until_decided"] = True
    return PlannedStudy(study, name, plan, places, grid.parent / "published.yaml", asked)


def due_plan(study: Study, store: DiskStore, folder: RunFolder) -> Plan:
    """All trials of a study; of one that looks at its seeds, those that are due so far."""
    if study.grid.looks:
        return UntilDecided(study, store, folder).due()
    return build_plan(study, store, folder)


def refuse_mixture(manifest: Manifest, folder: RunFolder) -> None:
    """Raise InputError if the folder holds the study of another experiment: results would mix."""
    if not folder.exists():
        return
    changed = _differences(
        *({"metric": each.metric, **each.config} for each in (folder.manifest(), manifest))
    )
    if changed:
        (key, difference), *others = changed.items()
        more = f" and {len(others)} more" if others else ""
        remedy = f"keep this study under another name with --as NAME, or remove {folder.path}"
        raise InputError([Problem(str(folder.path), key, f"{difference}{more}; {remedy}")])


class Changes(NamedTuple):
    """Between what a study was when it was run and what its files are now."""

    # how many trials that have ended are stale, and why; "" if none is
    said: str = ""
    # of now; None where the study was not run, or cannot be opened
    plan: Plan | None = None


def changes(planned: PlannedStudy) -> Changes:
    """What `ablate run` would find changed in a study that has been run: code, data or settings."""
    folder, plan = planned.folder, planned.plan
    if not folder.exists():
        return Changes()
    manifest, now = folder.manifest(), {spec.trial: spec for spec in plan.specs}
    stale = [
        spec
        for spec in manifest.trials
        if spec.trial in now and spec.key != now[spec.trial].key and folder.ending(spec) is not None
    ]
    if not stale:
        return Changes(plan=plan)
    facts = planned.study.subject.describe(planned.study.common)
    reasons = [
        reason for fact, reason in REASONS.items() if manifest.facts.get(fact) != facts.get(fact)
    ]
    settings = _differences(stale[0].settings, now[stale[0].trial].settings)
    reasons += [f"settings changed ({key} {what})" for key, what in [*settings.items()][:1]]
    return Changes(f"{_stale(len(stale), reasons)}; `ablate run` trains them anew", plan)


def changes_since(places: ProjectPaths, name: str) -> Changes:
    """`changes` of a study in `runs/`: its grid is opened again, as it was when it was run."""
    folder = places.runs(name)
    manifest = folder.manifest()
    if not manifest.asked:
        return Changes()
    try:
        planned = open_study(**{**manifest.asked, "grid": Path(manifest.asked["grid"])}, alias=name)
    except InputError as error:
        reason = f"whether code, data or settings have changed is not known: {error.problems[0]}"
        return Changes(reason)
    try:
        refuse_mixture(planned.manifest, folder)
    except InputError as error:
        n_ended = sum(folder.ending(spec) is not None for spec in manifest.trials)
        reason = f"settings changed ({error.problems[0].key} {error.problems[0].message})"
        return Changes(_stale(n_ended, [reason]) if n_ended else "")
    return changes(replace(planned, plan=planned.expected()))


def _stale(n: int, reasons: Sequence[str]) -> str:
    trials = "1 trial that has ended is" if n == 1 else f"{n} trials that have ended are"
    return f"{trials} stale" + (f": {' and '.join(reasons)}" if reasons else "")


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    """Dotted key -> `was 1, is 2`, of settings that differ."""
    old, new = (flatten(settings, lambda key, message: None) for settings in (before, now))
    return {
        key: f"was {old.get(key)}, is {new.get(key)}"
        for key in {**old, **new}
        if old.get(key) != new.get(key)
    }

"""Open a study from its files: check it, plan it, compare it with what was run before.

The files that trials read, such as images and checkpoints, are checked before anything is run
(`require_usable_inputs`). What reads them may need what `ablation` never imports, so it is done in
a process of its own: `python -m ablation.study.opening`, with a `Question` on standard input, a
list of {key: message} for each of the settings on standard output.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

from ablation import INSTALLED_IN
from ablation.analysis.first_plan import (
    earlier_code,
    first_plan,
    left_out,
    n_known,
    plan_warnings,
)
from ablation.errors import InputError, Problem
from ablation.formatting import listed, redacted
from ablation.grid.file import published
from ablation.grid.load import Study, load_study, study_name, yaml_path
from ablation.grid.search import MAX_TRIALS
from ablation.grid.strict_yaml import FILE_NAME, flatten, read_yaml
from ablation.planning.forecast import Timings
from ablation.planning.manifest import manifest_of
from ablation.planning.plan import Plan, build_plan, expected
from ablation.search.seeds import UntilDecided
from ablation.search.tuning import Tuning, search_begun, search_found
from ablation.storage.asked import SUFFIX
from ablation.storage.cache import DiskStore
from ablation.storage.files import warn_once
from ablation.storage.project import ProjectPaths
from ablation.storage.runs import TOOL, Manifest, RunFolder, TrialSpec
from ablation.subject.imported import refused
from ablation.subject.loading import load_subject
from ablation.subject.own import READER_FACT, SOURCES
from ablation.subject.protocol import Subject

REASONS = {
    "source_fingerprint": "code changed",
    "data_fingerprint": "data changed",
    "checkpoint": "checkpoint changed",
    "versions": "versions of libraries changed",
    READER_FACT: "what a command prints is read in another way",
}
"""Fact of a manifest -> why trials are stale if it is another one now."""

WHY = "as the search of a study does; choose another name"


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
    # the search of its arms, of a grid that has one: `study` is tuned once that is finished
    tuning: Tuning | None = None
    # of the manifest
    search: Mapping[str, Any] = field(default_factory=dict)
    # arm -> how many trials it will have, where they are not planned yet
    n_expected: Mapping[str, int] = field(default_factory=dict)

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
        """The devices that trials compute on; "" for trials whose settings do not say."""
        resolve = self.study.subject.resolve
        return {str(resolve(each.settings).get("device", "")) for each in self.study.variants}

    @property
    def warnings(self) -> list[str]:
        """What makes its results look better than they are. Needs the files that trials read."""
        tuning = self.tuning
        of_search = [*tuning.warnings, *tuning.replaced_options] if tuning else []
        manifest = self.manifest
        found = [*manifest.facts.get("warnings", []), *of_search, *plan_warnings(manifest)]
        return list(dict.fromkeys(found))

    @cached_property
    def manifest(self) -> Manifest:
        """The manifest before anything has run. Needs the files that trials read."""
        study, file, before = self.study, self.published_file, self.folder.known_manifest()
        planned = replace(manifest_of(study, self.name, self.plan), search=dict(self.search))
        facts = study.subject.describe(study.common)
        return replace(
            planned,
            published=published(file, study.experiment.dataset) if file.is_file() else [],
            facts=facts,
            provenance=provenance(),
            config=study.subject.resolve(study.common),
            asked=dict(self.asked),
            first_plan=first_plan(planned, before, self.folder),
            left_out=left_out(planned, study, self.store, self.folder),
            known_trials=n_known(self.plan, before, self.store, self.folder),
            earlier_code=earlier_code(facts, before, self.folder),
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
    with _files_unchanging() as load:
        study = load_study(grid, experiment, overrides, seeds, load, may_be_absent, until_decided)
        if alias is not None and not re.fullmatch(FILE_NAME[0], alias):
            raise InputError([Problem("--as", alias, f"must be {FILE_NAME[1]}")])
        places = ProjectPaths(storage=storage)
        home = str(read_yaml(grid).get("experiment", study.experiment.name))
        name = alias or study_name(study, home)
        if name.endswith(SUFFIX):
            raise InputError(
                [Problem("--as" if alias else grid.name, name, f"ends in {SUFFIX}, {WHY}")]
            )
        is_searched = study.grid.search is not None and not study.absent
        tuning = Tuning(study, places.runs(f"{name}{SUFFIX}")) if is_searched else None
        found: dict[str, Any] = {}
        if tuning is not None and tuning.is_finished:
            before = places.runs(name).known_manifest()
            study, found = tuning.tuned(), search_found(tuning, before.search if before else {})
        plan = due_plan(study, places.store, places.runs(name))
        asked: dict[str, Any] = {
            "grid": str(grid),
            "experiment": experiment,
            "overrides": list(overrides),
            "seeds": seeds,
        }
        if until_decided:
            asked["until_decided"] = True
        file = grid.parent / "published.yaml"
        return PlannedStudy(study, name, plan, places, file, asked, tuning, found)


@contextmanager
def _files_unchanging() -> Iterator[Callable[[str], Subject]]:
    """Loads subjects as `load_subject`, whose files are taken not to change within the context."""
    with ExitStack() as contexts:

        def load(name: str) -> Subject:
            subject = load_subject(name)
            if hasattr(subject, "unchanging"):
                contexts.enter_context(subject.unchanging())
            return subject

        yield load


def planned_search(planned: PlannedStudy, tuning: Tuning, plan: Plan) -> PlannedStudy:
    """The study of the search's trials."""
    return replace(
        planned,
        study=tuning.search_study,
        name=f"{planned.name}{SUFFIX}",
        plan=plan,
        asked={},
        tuning=None,
        search=search_begun(tuning, planned.name),
        n_expected={
            name: min(tuning.search.trials, arm.n_cells or MAX_TRIALS) * len(tuning.search.seeds)
            for name, arm in tuning.arms.items()
        },
    )


def due_plan(study: Study, store: DiskStore, folder: RunFolder) -> Plan:
    """All trials of a study; of one that looks at its seeds, those that are due so far."""
    if study.grid.looks:
        return UntilDecided(study, store, folder).due()
    return build_plan(study, store, folder)


def refuse_mixture(manifest: Manifest, folder: RunFolder) -> None:
    """Raise InputError if the folder holds the study of another experiment: results would mix.

    One without a complete trial has no results, and is replaced; not so a search, whose failures
    count.
    """
    before = folder.known_manifest()
    if before is None:
        return
    changed = _differences(*({"metric": each.metric, **each.config} for each in (before, manifest)))
    if changed and (manifest.search.get("of") or folder.has_results()):
        (key, difference), *others = changed.items()
        more = f" and {len(others)} more" if others else ""
        kept = "--as NAME (what has been trained is reused)"
        remedy = f"keep this study under another name with {kept}, or remove {folder.path}"
        raise InputError([Problem(str(folder.path), key, f"{difference}{more}; {remedy}")])


class Changes(NamedTuple):
    """What has changed between a study as it was run and its files now."""

    # how many trials that have ended are stale, and why; "" if none is
    description: str = ""
    # of now; None where the study was not run, or cannot be opened
    plan: Plan | None = None


def changes(planned: PlannedStudy) -> Changes:
    """What `ablate run` would find changed in a study that has been run: code, data or settings."""
    folder, plan = planned.folder, planned.plan
    manifest, now = folder.known_manifest(), {spec.trial: spec for spec in plan.specs}
    if manifest is None:
        return Changes()
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
    sources = _changed_sources(manifest.facts, facts)
    if sources and reasons[:1] == [REASONS["source_fingerprint"]]:
        reasons[0] += f" ({listed(sources)})"
    settings = _differences(stale[0].settings, now[stale[0].trial].settings)
    reasons += [f"settings changed ({key} {what})" for key, what in [*settings.items()][:1]]
    return Changes(f"{_stale(len(stale), reasons)}; `ablate run` {_remedy(planned, stale)}", plan)


def changes_since(places: ProjectPaths, name: str) -> Changes:
    """`changes` of a study in `runs/`: its grid is opened again, as it was when it was run."""
    folder = places.runs(name)
    manifest = folder.manifest()
    if not manifest.asked:
        return Changes()
    try:
        planned = open_study(**{**manifest.asked, "grid": Path(manifest.asked["grid"])}, alias=name)
    except InputError as error:
        reason = f"whether code, data or settings have changed is not known ({error.problems[0]})"
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


def _remedy(planned: PlannedStudy, stale: Sequence[TrialSpec]) -> str:
    """What `ablate run` does with stale trials: the cache may have what they are now."""
    trials = [planned.plan.trials[spec.trial] for spec in stale]
    n = sum(
        any(not planned.store.holds("record", link.key) for link in trial.links) for trial in trials
    )
    if n == len(stale):
        return "trains them anew"
    known = "takes what they are now from the cache"
    return f"{known}, and trains {n} of them anew" if n else known


def _changed_sources(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Files and modules of own code that are others now; [] where that is not known."""
    old, new = before.get(SOURCES), now.get(SOURCES)
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return []
    return [name for name in {**old, **new} if old.get(name) != new.get(name)]


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    """Dotted key -> `was 1, is 2`, of settings that differ."""
    old, new = (flatten(settings, lambda key, message: None) for settings in (before, now))
    return {
        key: f"was {old.get(key)}, is {new.get(key)}"
        for key in {**old, **new}
        if old.get(key) != new.get(key)
    }


PACKAGES = ("torch", "torchvision", "mlflow", "optuna", "numpy", "scipy", "pandas")


def provenance() -> dict[str, Any]:
    """Commit, versions, machine and command, for the report.

    `commit` and `dirty` (whether there are uncommitted changes) are those of the working directory;
    None where it is not under git. The tool's own stand under its name, where git has its code. In
    files without that name, `commit` is the tool's.
    """
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    tool: dict[str, Any] = {}
    with suppress(PackageNotFoundError):
        tool["version"] = version(TOOL)
    code = Path(__file__)
    # A tool that is installed in a project's folder, such as in .venv/, is no file of its.
    if _git(code.parent, "ls-files", "--error-unmatch", code.name) is not None:
        tool |= _commit(code.parent)
    return {
        **_commit(Path()),
        TOOL: tool,
        "versions": versions,
        "platform": f"{platform.system()} {platform.machine()}",
        "command": redacted(shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])),
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _commit(folder: Path) -> dict[str, Any]:
    commit = _git(folder, "rev-parse", "HEAD")
    status = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": bool(status) if commit else None}


def _git(folder: Path, *arguments: str) -> str | None:
    """What git says of a folder; None if it cannot."""
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


class Question(TypedDict):
    """The settings whose files are to be checked, JSON-able."""

    # as the experiment names it
    subject: str
    # of each arm: dotted key -> value
    settings: list[dict[str, Any]]
    # folder of the store
    cache: str


def require_usable_inputs(planned: PlannedStudy) -> None:
    """Raise InputError with every problem of the files that trials would read. Nothing is run.

    An arm of which an epoch is known has read its files: keys follow from their content.
    """
    study, plan, store = planned.study, planned.plan, planned.store
    reads_files = getattr(study.subject, "reads_files", lambda settings: False)
    left = {spec.arm for spec in plan.unfinished(planned.folder).specs}
    begun = {
        trial.spec.arm
        for trial in plan.trials.values()
        if store.holds("record", trial.links[0].key)
    }
    new = [each for each in study.variants if each.name in left - begun]
    new = [each for each in new if reads_files(each.settings)]
    if not new:
        return
    settings = [variant.settings for variant in new]
    name, cache = study.experiment.subject, str(store.root)
    answers = _ask({"subject": name, "settings": settings, "cache": cache})
    problems = [
        study.located(variant, key, message)
        for variant, found in zip(new, answers, strict=False)
        for key, message in found.items()
    ]
    if problems:
        raise InputError(dict.fromkeys(problems))


def inspect(request: Question) -> list[dict[str, str]]:
    """Key -> message of the faults, for each of the settings."""
    subject, store = load_subject(request["subject"]), DiskStore(Path(request["cache"]))
    found = [subject.inspect(settings, store) for settings in request["settings"]]
    return [{fault.key: fault.message for fault in faults} for faults in found]


def _ask(request: Question) -> list[dict[str, str]]:
    """What `inspect` says in a process of its own; [] if that fails: then the trials will, too."""
    path = os.pathsep.join(filter(None, [str(INSTALLED_IN), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-P", "-m", "ablation.study.opening"],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    try:
        if done.returncode == 0:
            found: list[dict[str, str]] = json.loads(done.stdout.splitlines()[-1])
            return found
    except (IndexError, ValueError):
        # The subject has ended the process before it answered.
        pass
    last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    warn_once(f"images and checkpoints could not be looked at before the trials ({last})")
    return []


if __name__ == "__main__":
    # A line of its own, whatever libraries have printed.
    print("\n" + json.dumps(inspect(json.load(sys.stdin))))

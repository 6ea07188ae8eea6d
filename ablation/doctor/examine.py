"""Run the checks of `ablate doctor` and print their results; with --repair, repair.

Checks change nothing. A study that is being run is not checked. While studies are repaired, none
of them can be started.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from ablation.doctor.files import Check, CheckResult, cache_checks, trial_checks
from ablation.doctor.machine import machine_checks
from ablation.errors import InputError, Unavailable
from ablation.storage.files import being_run, folder_lock
from ablation.storage.project import ProjectPaths
from ablation.storage.runs import Damaged, studies
from ablation.study.opening import changes_since
from ablation.study.repair import TrialFiles
from ablation.subject.loading import load_subject, shown_subject

UNAVAILABLE = (Unavailable, InputError, OSError)
ENDS = {
    "found": "Nothing was changed. `ablate doctor --repair` mends what is marked --repair; "
    "the other lines say what to do.",
    "left": "What is marked `left` could not be mended; its lines say what to do.",
    "mended": "All is well again.",
    "ok": "All is well.",
}
"""What the last line says of the worst result."""

# width of the column with the checks' names
WIDTH = 26
Say = Callable[[str], object]


def doctor(study: str | None, repair: bool, say: Say, storage: str | None = None) -> bool:
    """Check the machine, the project, and one study or all; with `repair`, mend what can be.

    say: called with a line per check as soon as it is made, and with a summary.
    storage: URL of the team's database that holds the ledger.

    Returns whether all is well or was mended.
    """
    places = ProjectPaths(storage=storage)
    results = examine("this machine", machine_checks(places), repair, say)
    results += examine_project(
        places, [study] if study else studies(places.root / "runs"), repair, say
    )
    worst = next(result for result in ENDS if result in results)
    say(f"\n{ENDS[worst]}")
    return worst in ("ok", "mended")


def examine_project(
    places: ProjectPaths, names: Sequence[str], repair: bool, say: Say
) -> list[str]:
    """Look at databases, cache and these studies; returns the result of each check."""
    with _held(places, repair) as running, _quiet():
        results = examine(
            "this project",
            [*_database_checks(places, running), *cache_checks(places, running)],
            repair,
            say,
        )
        for name in names:
            results += examine(f"study {name}", _study_checks(places, name, running), repair, say)
    return results


def examine(title: str, checks: Sequence[Check], repair: bool, say: Say) -> list[str]:
    """Run each check and print a line for it; returns ok, found, mended or left for each."""
    say(f"\n{title}")
    results = []
    for check in checks:
        result, text = _result(check, repair)
        say(f"  {result:6}  {check.name:{WIDTH}}  {text}")
        results.append(result)
    return results


def _result(check: Check, repair: bool) -> tuple[str, str]:
    """(ok | found | mended | left, what and why)."""
    found = _look(check)
    if found.is_well:
        return "ok", found.what
    if not repair:
        return "found", f"{found.what}; {'--repair ' if found.mend else ''}{found.remedy}"
    if found.mend is None:
        return "left", f"{found.what}; {found.remedy}"
    try:
        done = found.mend()
    except UNAVAILABLE as error:
        return "left", f"{found.what}; {error}"
    again = _look(check)
    return (
        ("mended", f"{found.what}: {done}") if again.is_well else ("left", f"{again.what}: {done}")
    )


def _look(check: Check) -> CheckResult:
    try:
        return check.look()
    except UNAVAILABLE as error:
        return CheckResult(f"cannot be looked at: {error}", False, "see what it says")


def _database_checks(places: ProjectPaths, running: Collection[str]) -> list[Check]:
    try:
        from ablation.doctor.databases import database_checks
    except ImportError as error:
        # Optuna or MLflow is missing; the other checks can still be made
        return [_known("databases", f"not looked at: {error}", "see `packages` above")]
    return database_checks(places, running)


def _study_checks(places: ProjectPaths, name: str, running: Collection[str]) -> list[Check]:
    folder = places.runs(name)
    if name in running:
        return [_known("all", "not looked at: it is being run")]
    try:
        manifest = folder.manifest()
    except Damaged as error:
        remedy = "nothing else of the study was looked at"
        return [_known("study.json", error.problems[0].message, remedy)]
    subject, code = None, shown_subject(manifest.subject)
    remedy = ""
    try:
        subject = load_subject(manifest.subject)
    except InputError as error:
        code = error.problems[0].message
        remedy = (
            "call `ablate` where its module is; "
            "without it, files are compared with each other alone"
        )
    checks = [
        _known("code", code, remedy),
        Check("changes", lambda: _changes(places, name)),
        *trial_checks(TrialFiles(folder, places.store, manifest, subject)),
    ]
    try:
        from ablation.doctor.databases import study_checks
    except ImportError:
        return checks
    return [*checks, *study_checks(places, folder, manifest)]


def _changes(places: ProjectPaths, name: str) -> CheckResult:
    return CheckResult(
        changes_since(places, name).description or "none is known since the study was run"
    )


def _known(name: str, what: str, remedy: str = "") -> Check:
    """What was found before. remedy: what the user can do; "" where all is well."""
    return Check(name, lambda: CheckResult(what, not remedy, remedy))


@contextmanager
def _held(places: ProjectPaths, repair: bool) -> Iterator[set[str]]:
    """The studies that are being run. While anything may be repaired, no other can be started."""
    running = set(being_run(places.root / "runs"))
    with ExitStack() as held:
        for name in set(studies(places.root / "runs")) - running if repair else ():
            try:
                held.enter_context(folder_lock(places.runs(name).path))
            except InputError:
                running.add(name)
        yield running


@contextmanager
def _quiet() -> Iterator[None]:
    """Damage is reported in the table; other warnings are off meanwhile."""
    logger = logging.getLogger("ablation")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)

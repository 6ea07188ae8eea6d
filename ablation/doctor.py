"""What may be wrong with a machine and a project, looked at and mended: see the modules `doctor_*` for what.

A look changes nothing. A study that is being run is not looked at, and none can be started while another is mended.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from ablation.doctor_cache import cache_checks
from ablation.doctor_check import Check, Found
from ablation.doctor_databases import database_checks
from ablation.doctor_environment import environment_checks
from ablation.doctor_files import TrialFiles
from ablation.doctor_ledger import ledger_check
from ablation.doctor_torch import torch_checks
from ablation.doctor_tracking import tracking_check
from ablation.errors import InputError, Problem, nearest
from ablation.ledger import LedgerUnavailable
from ablation.lock import being_run, only_one
from ablation.places import Places
from ablation.runs import Damaged, Manifest, studies
from ablation.subject import Subject
from ablation.subjects import load_subject
from ablation.tracking_store import TrackingUnavailable

UNAVAILABLE = (LedgerUnavailable, TrackingUnavailable, InputError, OSError)


def doctor(study: str | None, repair: bool) -> tuple[str, bool]:
    """Look at the machine, the project, and one study or all; mend what can be, if asked to.

    Returns a table with a line per check, and whether all is well or was mended. Raises InputError if there is no such study.
    """
    places = Places()
    known = studies(places.root / "runs")
    if study is not None and study not in known:
        raise InputError([Problem("runs", study, f"no such study; {nearest(study, known) if known else 'there is none yet'}")])
    machine, is_sound = examined("this machine", [*environment_checks(places), *torch_checks()], repair)
    project, is_well = examined_project(places, [study] if study else known, repair)
    return "\n".join([*machine, *project]), is_sound and is_well


def examined_project(places: Places, names: Sequence[str], repair: bool) -> tuple[list[str], bool]:
    """The lines on databases, cache and these studies, and whether all is well or was mended."""
    with _held(places, repair) as running, _quiet():
        lines, is_well = examined("this project", [*database_checks(places, running), *cache_checks(places, running)], repair)
        for name in names:
            more, well = examined(f"study {name}", _study_checks(places, name, running), repair)
            lines, is_well = lines + more, is_well and well
    return lines, is_well


def examined(title: str, checks: Sequence[Check], repair: bool) -> tuple[list[str], bool]:
    """A line per check, and whether all is well or was mended."""
    lines, is_well = ["", title], True
    for check in checks:
        result, text = _line(check, repair)
        lines.append(f"  {result:6}  {check.name:26}  {text}")
        is_well &= result in ("ok", "mended")
    return lines, is_well


def _line(check: Check, repair: bool) -> tuple[str, str]:
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
    return ("mended", f"{found.what}: {done}") if again.is_well else ("left", f"{again.what}: {done}")


def _look(check: Check) -> Found:
    try:
        return check.look()
    except UNAVAILABLE as error:
        return Found(f"cannot be looked at: {error}", False, "see what it says")


def _study_checks(places: Places, name: str, running: Collection[str]) -> list[Check]:
    folder = places.runs(name)
    if name in running:
        return [Check("all", lambda: Found("not looked at: it is being run"))]
    try:
        manifest = folder.manifest()
    except Damaged as error:
        message = error.problems[0].message
        return [Check("study.json", lambda: Found(message, False, "nothing else of the study was looked at"))]
    files = TrialFiles(folder, places.store, manifest, subject_of(manifest))
    return [*files.checks(), ledger_check(places, files), tracking_check(places, folder, manifest)]


def subject_of(manifest: Manifest) -> Subject | None:
    """The code that a study ablates; None if it cannot be loaded."""
    try:
        return load_subject(manifest.subject or "core")  # the built-in one, of manifests of before it was kept
    except InputError:
        return None


@contextmanager
def _held(places: Places, repair: bool) -> Iterator[set[str]]:
    """The studies that are being run. If anything may be repaired, the others cannot be started meanwhile."""
    running = set(being_run(places.root / "runs"))
    with ExitStack() as held:
        for name in set(studies(places.root / "runs")) - running if repair else ():
            try:
                held.enter_context(only_one(places.runs(name).path))
            except InputError:
                running.add(name)
        yield running


@contextmanager
def _quiet() -> Iterator[None]:
    """Damage is told in the table, and not beside it."""
    logger = logging.getLogger("ablation")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)

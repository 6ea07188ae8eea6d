"""Checks of the cache, and of files left behind by processes that were killed."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from ablation.doctor.check import Check, Found, here, named
from ablation.storage.cache import ALONE, describe_entries, remove
from ablation.storage.checks import UNREADABLE
from ablation.storage.files import TEMPORARY
from ablation.storage.project import FOLDERS, ProjectPaths

# a younger file may still be written to
YOUNG_SECONDS = 60.0


def cache_checks(places: ProjectPaths, running: Collection[str]) -> list[Check]:
    """running: studies that are being run, whose files are left alone."""
    return [
        Check("cache", lambda: _entries(places)),
        Check("temporary files", lambda: _temporary(places, running)),
        Check("stores of finished trials", lambda: _alone(places, running)),
        Check("notes", lambda: _notes(places, running)),
    ]


def _entries(places: ProjectPaths) -> Found:
    what_else = "; what needs them computes them again"
    damaged = list(places.store.damaged())
    return _removable("damaged entries", damaged, what_else) or Found(
        f"{describe_entries(list(places.store.entries()))}, all whole"
    )


def _temporary(places: ProjectPaths, running: Collection[str]) -> Found:
    if running:
        return Found(f"not looked for while a study is being run: {', '.join(sorted(running))}")
    return _removable("left behind", _temporaries(places)) or Found("none left behind")


def _temporaries(places: ProjectPaths) -> Iterator[Path]:
    """Files as they are while they are written, that no process can be writing any more."""
    for folder in FOLDERS:
        for path in (places.root / folder).rglob(".*"):
            if TEMPORARY.fullmatch(path.name) or path.name.startswith(".probe-"):
                with contextlib.suppress(FileNotFoundError):
                    if time.time() - path.lstat().st_mtime > YOUNG_SECONDS:
                        yield path


def _alone(places: ProjectPaths, running: Collection[str]) -> Found:
    finished = []
    for path in (places.store.root / ALONE).glob("*/*"):
        study, trial = path.parent.name, path.name
        folder = places.runs(study)
        if study not in running and folder.exists():
            endings = [
                folder.ending(spec) for spec in folder.manifest().trials if spec.trial == trial
            ]
            if any(outcome and outcome.state == "COMPLETE" for outcome in endings):
                finished.append(path)
    what_else = "; the trials keep their results"
    return _removable("left behind", finished, what_else) or Found("none left behind")


def _notes(places: ProjectPaths, running: Collection[str]) -> Found:
    """What is remembered for convenience: times of epochs, what is left, what was delivered."""
    progress, delivered = places.progress("x").parent, places.root / ".ablate" / "delivered"
    wrong = [path for path in progress.glob("*") if path.stem not in running]
    wrong += [path for path in delivered.glob("*") if not _is_digest(path)]
    wrong = [path for path in wrong if not TEMPORARY.fullmatch(path.name)]
    if places.timings.exists() and not _is_mapping(places.timings):
        wrong.append(places.timings)
    return _removable("damaged or left behind", wrong) or Found("as they should be")


def _is_mapping(path: Path) -> bool:
    try:
        return isinstance(json.loads(path.read_bytes()), dict)
    except UNREADABLE:
        return False


def _is_digest(path: Path) -> bool:
    try:
        return len(path.read_bytes()) == 64 and path.read_bytes().isalnum()
    except OSError:
        return False


def _removable(what: str, found: Collection[Path] | Iterator[Path], then: str = "") -> Found | None:
    """Files that the doctor can remove; None if there are none. then: what follows from that."""
    paths = sorted(found)

    def mend() -> str:
        for path in paths:
            remove(path)
        return "removed"

    if not paths:
        return None
    return Found(f"{what}, {named(map(here, paths))}", False, f"removes them{then}", mend)

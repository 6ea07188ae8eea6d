"""Whether the cache is whole, and what was left behind by processes that were killed."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from ablation.damage import UNREADABLE
from ablation.doctor_check import Check, Found, here, named
from ablation.files import TEMPORARY
from ablation.limits import show_size
from ablation.places import FOLDERS, Places
from ablation.store import ALONE, remove

YOUNG_SECONDS = 60.0  # a file that is younger may be being written


def cache_checks(places: Places, running: Collection[str]) -> list[Check]:
    """running: studies that are being run, whose files are left alone."""
    return [
        Check("cache", lambda: _entries(places)),
        Check("temporary files", lambda: _temporary(places, running)),
        Check("stores of finished trials", lambda: _alone(places, running)),
        Check("notes", lambda: _notes(places, running)),
    ]


def _entries(places: Places) -> Found:
    damaged = sorted(places.store.damaged())
    if damaged:
        remedy = "removes them, and what needs them computes it again"
        return Found(
            f"damaged entries, {named(map(here, damaged))}", False, remedy, lambda: _remove(damaged)
        )
    entries = list(places.store.entries())
    return Found(
        f"{len(entries)} entries, {show_size(sum(entry.n_bytes for entry in entries))}, all whole"
    )


def _temporary(places: Places, running: Collection[str]) -> Found:
    if running:
        return Found(f"not looked for while a study is being run: {', '.join(sorted(running))}")
    left = sorted(_temporaries(places))
    if not left:
        return Found("none left behind")
    return Found(
        f"left behind, {named(map(here, left))}", False, "removes them", lambda: _remove(left)
    )


def _temporaries(places: Places) -> Iterator[Path]:
    """Files as they are while they are written, that nobody can be writing any more."""
    for folder in FOLDERS:
        for path in (places.root / folder).rglob(".*"):
            if TEMPORARY.fullmatch(path.name) or path.name.startswith(".probe-"):
                with contextlib.suppress(FileNotFoundError):
                    if time.time() - path.lstat().st_mtime > YOUNG_SECONDS:
                        yield path


def _alone(places: Places, running: Collection[str]) -> Found:
    finished = []
    for path in sorted((places.store.root / ALONE).glob("*/*")):
        study, trial = path.parent.name, path.name
        folder = places.runs(study)
        specs = folder.manifest().trials if study not in running and folder.exists() else []
        ends = [folder.ending(spec) for spec in specs if spec.trial == trial]
        if ends and ends[0] is not None and ends[0].state == "COMPLETE":
            finished.append(path)
    if not finished:
        return Found("none left behind")
    remedy = "removes them; the trials keep their results"
    return Found(
        f"left behind, {named(map(here, finished))}", False, remedy, lambda: _remove(finished)
    )


def _notes(places: Places, running: Collection[str]) -> Found:
    """What the harness remembers for its own convenience: times of epochs, what is left, what was delivered."""
    wrong = (
        [places.timings]
        if places.timings.exists() and not isinstance(_json(places.timings), dict)
        else []
    )
    progress, delivered = places.progress("x").parent, places.root / ".ablate" / "delivered"
    wrong += [
        path
        for path in sorted(progress.glob("*"))
        if path.stem not in running and not TEMPORARY.fullmatch(path.name)
    ]
    wrong += [
        path
        for path in sorted(delivered.glob("*"))
        if not TEMPORARY.fullmatch(path.name) and not _is_digest(path)
    ]
    if not wrong:
        return Found("as they should be")
    return Found(
        f"damaged or left behind, {named(map(here, wrong))}",
        False,
        "removes them",
        lambda: _remove(wrong),
    )


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except UNREADABLE:
        return None


def _is_digest(path: Path) -> bool:
    try:
        return len(path.read_bytes()) == 64 and path.read_bytes().isalnum()
    except OSError:
        return False


def _remove(paths: Collection[Path]) -> str:
    for path in paths:
        remove(path)
    return "removed"

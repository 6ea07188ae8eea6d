"""A check of `ablate doctor` and its result; the checks of a project's files.

Files of trials are whole, and agree with each other and with the cache; nothing is left behind by
processes that were killed.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from ablation.formatting import redacted
from ablation.storage.cache import ALONE, describe_entries, remove
from ablation.storage.files import TEMPORARY
from ablation.storage.project import FOLDERS, ProjectPaths, sqlite_file
from ablation.study.repair import TrialFiles

# how many names a line shows
SHOWN = 3


class CheckResult(NamedTuple):
    """The result of a check."""

    # what was found, in one line
    what: str
    is_well: bool = True
    # what `mend` does; of what cannot be mended, what the user can do
    remedy: str = ""
    # repairs it, and returns what was done; None if it cannot be repaired
    mend: Callable[[], str] | None = None


class Check(NamedTuple):
    """One check. `look` changes nothing."""

    name: str
    look: Callable[[], CheckResult]


def named(names: Iterable[str]) -> str:
    """`2: a, b`; `5: a, b, c and 2 more`."""
    names = list(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{len(names)}: {', '.join(names[:SHOWN])}{more}"


def here(path: Path) -> str:
    """A path as seen from the working directory."""
    return path.relative_to(Path.cwd()).as_posix() if path.is_relative_to(Path.cwd()) else str(path)


def place(url: str) -> str:
    """Where a database is: its file, or its address without credentials."""
    path = sqlite_file(url)
    return redacted(url) if path is None else here(path)


def trial_checks(files: TrialFiles) -> list[Check]:
    """The checks of the files of a study's trials, and of folders that belong to no trial."""
    return [
        Check("files", lambda: _look_at_files(files)),
        Check("folders", lambda: _look_for_strays(files)),
    ]


def _look_at_files(files: TrialFiles) -> CheckResult:
    found = [(spec, wrong) for spec in files.manifest.trials if (wrong := files.wrong(spec))]
    if not found:
        return CheckResult("of all trials are whole, and agree with each other and with the cache")
    what = named(
        f"{here(files.folder.trial_path(spec.trial) / name)} {why}"
        for spec, wrong in found
        for name, why in wrong.items()
    )

    def mend() -> str:
        done = Counter(files.mend(spec, wrong) for spec, wrong in found)
        return "; ".join(f"{n} {what}" for what, n in done.items())

    remedy = (
        "closes the trials again, from the cache or from their records; "
        f"`ablate run` runs what neither has{files.unless_over}"
    )
    return CheckResult(what, False, remedy, mend)


def _look_for_strays(files: TrialFiles) -> CheckResult:
    """Look for folders of trials that have left the grid: for information."""
    known = {spec.trial for spec in files.manifest.trials}
    folders = sorted(path.name for path in files.folder.path.iterdir() if path.is_dir())
    strays = [name for name in folders if name not in known]
    if not strays:
        return CheckResult("all of trials in the grid")
    return CheckResult(f"of trials that have left the grid, {named(strays)}; they may come back")


# a younger file may still be written to
YOUNG_SECONDS = 60.0


def cache_checks(places: ProjectPaths, running: Collection[str]) -> list[Check]:
    """The checks of cache and leftover files. running: studies that are being run."""
    return [
        Check("cache", lambda: _entries(places)),
        Check("temporary files", lambda: _temporary(places, running)),
        Check("stores of finished trials", lambda: _alone(places, running)),
    ]


def _entries(places: ProjectPaths) -> CheckResult:
    what_else = "; what needs them computes them again"
    damaged = list(places.store.damaged())
    return _removable("damaged entries", damaged, what_else) or CheckResult(
        f"{describe_entries(list(places.store.entries()))}, all whole"
    )


def _temporary(places: ProjectPaths, running: Collection[str]) -> CheckResult:
    if running:
        return CheckResult(
            f"not looked for while a study is being run: {', '.join(sorted(running))}"
        )
    return _removable("left behind", _temporaries(places)) or CheckResult("none left behind")


def _temporaries(places: ProjectPaths) -> Iterator[Path]:
    """Files as they are while they are written, that no process can be writing any more."""
    for folder in FOLDERS:
        for path in (places.root / folder).rglob(".*"):
            if TEMPORARY.fullmatch(path.name) or path.name.startswith(".probe-"):
                with contextlib.suppress(FileNotFoundError):
                    if time.time() - path.lstat().st_mtime > YOUNG_SECONDS:
                        yield path


def _alone(places: ProjectPaths, running: Collection[str]) -> CheckResult:
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
    return _removable("left behind", finished, what_else) or CheckResult("none left behind")


def _removable(
    what: str, found: Collection[Path] | Iterator[Path], then: str = ""
) -> CheckResult | None:
    """Files that the doctor can remove; None if there are none. then: what follows from that."""
    paths = sorted(found)

    def mend() -> str:
        for path in paths:
            remove(path)
        return "removed"

    if not paths:
        return None
    return CheckResult(f"{what}, {named(map(here, paths))}", False, f"removes them{then}", mend)

"""Whether this machine can run studies: Python, packages, processors, memory, disk, the clock. Nothing here can be mended."""

from __future__ import annotations

import configparser
import importlib.metadata
import os
import platform
import shutil
import tempfile
import time
from pathlib import Path

from packaging.requirements import Requirement  # which Optuna and MLflow need
from packaging.specifiers import SpecifierSet

from ablation.doctor_check import Check, Found, named
from ablation.errors import InputError
from ablation.limits import show_size
from ablation.places import FOLDERS, Places

PACKAGE, SETUP = "ablate-lt", Path(__file__).parents[1] / "setup.cfg"
LITTLE_DISK, LITTLE_MEMORY = 10**9, 10**9  # bytes
CLOCK_SECONDS = 5.0  # by which files may seem to be of the future


def environment_checks(places: Places) -> list[Check]:
    return [
        Check("Python", _python),
        Check("packages", _packages),
        Check("processors", _processors),
        Check("memory", _memory),
        Check("disk", lambda: _disk(places.root)),
        Check("write access", lambda: _write_access(places)),
        Check("clock", lambda: _clock(places.root)),
    ]


def required() -> tuple[str, list[Requirement]]:
    """The bounds on Python and on packages: of setup.cfg in a checkout, else of the installed distribution."""
    setup = configparser.ConfigParser()
    setup.read(SETUP, encoding="utf-8")
    if setup.get("metadata", "name", fallback=None) == PACKAGE:
        options = setup["options"]
        return options["python_requires"], [
            Requirement(line) for line in options["install_requires"].split("\n") if line
        ]
    found = importlib.metadata.metadata(PACKAGE)
    requirements = map(Requirement, importlib.metadata.requires(PACKAGE) or [])
    return found["Requires-Python"] or "", [each for each in requirements if each.marker is None]


def _python() -> Found:
    version, bounds = platform.python_version(), required()[0]
    is_well = SpecifierSet(bounds).contains(version, prereleases=True)
    return Found(f"{version}, {bounds} is needed", is_well, "install another Python")


def _packages() -> Found:
    requirements = required()[1]
    wrong = []
    for requirement in requirements:
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            version = ""
        if not (version and requirement.specifier.contains(version, prereleases=True)):
            wrong.append(f"{requirement} (found {version or 'none'})")
    if wrong:
        return Found(f"not as needed, {named(wrong)}", False, f"pip install '{PACKAGE}' again")
    return Found(f"all {len(requirements)} as needed")


def _processors() -> Found:
    usable = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return Found(f"{usable} of {os.cpu_count()} to be used")


def _memory() -> Found:
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        total, available = (
            1024 * int(lines[name].split()[0]) for name in ("MemTotal", "MemAvailable")
        )
    except (OSError, KeyError, ValueError):
        return Found("this system does not tell")
    text = f"{show_size(available)} of {show_size(total)} available"
    return Found(text, available >= LITTLE_MEMORY, "use fewer --jobs, or end other programs")


def _disk(root: Path) -> Found:
    free = shutil.disk_usage(root).free
    return Found(f"{show_size(free)} free", free >= LITTLE_DISK, "`ablate cache trim` makes room")


def _write_access(places: Places) -> Found:
    folders = [".", *(folder for folder in FOLDERS if (places.root / folder).exists())]
    try:
        places.require_writable(*folders)
    except InputError as error:
        return Found(
            "; ".join(map(str, error.problems)), False, "change the owner or the permissions"
        )
    return Found(f"to {', '.join(folders)}")


def _clock(root: Path) -> Found:
    """The file system's clock may be another machine's; files of the future tell that this one was set back."""
    try:
        with tempfile.NamedTemporaryFile(dir=root, prefix=".probe-") as probe:
            ahead = os.stat(probe.name).st_mtime - time.time()
    except OSError:
        return Found("cannot be compared with the file system's: nothing can be written")
    if abs(ahead) > CLOCK_SECONDS:
        return Found(f"the file system's is {ahead:+.0f} s off", False, "set the clocks")
    future = [
        str(path)
        for path in sorted(root.glob("runs/*/study.json"))
        if path.stat().st_mtime > time.time() + CLOCK_SECONDS
    ]
    if future:
        return Found(
            f"files of the future, {named(future)}", False, "set the clock, then `touch` them"
        )
    return Found(time.strftime("%Y-%m-%d %H:%M:%S %Z"))

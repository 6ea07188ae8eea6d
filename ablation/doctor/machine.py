"""Checks of the machine: packages, memory, disk, devices, and that it computes the same twice.

PyTorch is asked in processes of their own: its import may fail, crash or hang.
"""

from __future__ import annotations

import configparser
import functools
import importlib.metadata
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# installed with Optuna and MLflow, which require it
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from ablation import INSTALLED_IN
from ablation.doctor.files import Check, CheckResult, named
from ablation.errors import InputError
from ablation.formatting import show_size
from ablation.storage.cache import DiskStore
from ablation.storage.project import FOLDERS, ProjectPaths
from ablation.study.placement import n_processors

PACKAGE, SETUP = "ablate-lt", INSTALLED_IN / "setup.cfg"
# less free disk or memory than this is reported, in bytes
LITTLE_DISK, LITTLE_MEMORY = 10**9, 10**9
# how far in the future a file's time may lie without a report
CLOCK_SECONDS = 5.0
TIMEOUT_SECONDS = 300
PROBE = """
import json, torch
n = torch.cuda.device_count() if torch.cuda.is_available() else 0
properties = map(torch.cuda.get_device_properties, range(n))
devices = [(each.name, each.total_memory) for each in properties]
print(json.dumps({"version": torch.__version__, "cuda": torch.version.cuda, "devices": devices}))
"""
TRIAL = """
import json, sys
from ablation.storage.cache import DiskStore
from ablation.subject.loading import load_subject
settings, store = json.loads(sys.argv[1]), DiskStore(sys.argv[2])
load_subject("core").advance(settings, 0, None, store, lambda key, record: None)
"""
SETTINGS = {
    "data.channels": "gray",
    "data.n_max": 24,
    "data.imbalance_factor": 6,
    "data.n_test": 5,
    "data.augmentation": "crop",
    "data.padding": 1,
    "encoder.name": "small-cnn",
    "pretraining.epochs": 1,
    "pretraining.batch_size": 32,
    "epochs": 3,
    "warmup.epochs": 1,
    "batch_size": 32,
    "denoiser.width": 16,
    "denoiser.blocks": 1,
    "diffusion.steps": 50,
    "generation.steps": 2,
    "generation.every": 1,
}
"""A trial of a second: every phase of joint training."""


def machine_checks(places: ProjectPaths) -> list[Check]:
    """The checks of this machine, in the order in which they are shown."""
    return [
        Check("Python", _python),
        Check("packages", _packages),
        Check("processors", _processors),
        Check("memory", _memory),
        Check("disk", lambda: _disk(places.root)),
        Check("write access", lambda: _write_access(places)),
        Check("clock", lambda: _clock(places.root)),
        Check("torch", _torch),
        Check("devices", _devices),
        Check("determinism", determinism),
    ]


def required() -> tuple[str, list[Requirement]]:
    """Required versions of Python and packages, from setup.cfg or the installed distribution."""
    setup = configparser.ConfigParser()
    setup.read(SETUP, encoding="utf-8")
    if setup.get("metadata", "name", fallback=None) == PACKAGE:
        options = setup["options"]
        lines = filter(None, options["install_requires"].split("\n"))
        return options["python_requires"], list(map(Requirement, lines))
    found = importlib.metadata.metadata(PACKAGE)
    requirements = map(Requirement, importlib.metadata.requires(PACKAGE) or [])
    return found["Requires-Python"] or "", [each for each in requirements if each.marker is None]


def _python() -> CheckResult:
    version, bounds = platform.python_version(), required()[0]
    is_well = SpecifierSet(bounds).contains(version, prereleases=True)
    return CheckResult(f"{version}, {bounds} is needed", is_well, "install another Python")


def _packages() -> CheckResult:
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
        return CheckResult(
            f"not as needed, {named(wrong)}", False, f"pip install '{PACKAGE}' again"
        )
    return CheckResult(f"all {len(requirements)} as needed")


def _processors() -> CheckResult:
    return CheckResult(f"{n_processors()} of {os.cpu_count() or 1} to be used")


def _memory() -> CheckResult:
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        total, available = (
            1024 * int(lines[name].split()[0]) for name in ("MemTotal", "MemAvailable")
        )
    except (OSError, KeyError, ValueError):
        return CheckResult("this system does not tell")
    text = f"{show_size(available)} of {show_size(total)} available"
    return CheckResult(text, available >= LITTLE_MEMORY, "use fewer --jobs, or end other programs")


def _disk(root: Path) -> CheckResult:
    free = shutil.disk_usage(root).free
    return CheckResult(
        f"{show_size(free)} free", free >= LITTLE_DISK, "`ablate cache trim` makes room"
    )


def _write_access(places: ProjectPaths) -> CheckResult:
    folders = [".", *(folder for folder in FOLDERS if (places.root / folder).exists())]
    try:
        places.require_writable(*folders)
    except InputError as error:
        messages = "; ".join(map(str, error.problems))
        return CheckResult(messages, False, "change the owner or the permissions")
    return CheckResult(f"to {', '.join(folders)}")


def _clock(root: Path) -> CheckResult:
    """A file system's clock may be another machine's; files of the future: this one went back."""
    try:
        with tempfile.NamedTemporaryFile(dir=root, prefix=".probe-") as probe:
            ahead = os.stat(probe.name).st_mtime - time.time()
    except OSError:
        return CheckResult("cannot be compared with the file system's: nothing can be written")
    if abs(ahead) > CLOCK_SECONDS:
        return CheckResult(f"the file system's is {ahead:+.0f} s off", False, "set the clocks")
    latest = time.time() + CLOCK_SECONDS
    future = [
        str(path)
        for path in sorted(root.glob("runs/*/study.json"))
        if path.stat().st_mtime > latest
    ]
    if future:
        remedy = "set the clock, then `touch` them"
        return CheckResult(f"files of the future, {named(future)}", False, remedy)
    return CheckResult(time.strftime("%Y-%m-%d %H:%M:%S %Z"))


def _torch() -> CheckResult:
    found = _probed()
    if isinstance(found, str):
        return CheckResult(found, False, "install torch for this machine, see pytorch.org")
    cuda = f"for CUDA {found['cuda']}" if found["cuda"] else "for the CPU alone"
    return CheckResult(f"{found['version']}, {cuda}")


def _devices() -> CheckResult:
    found = _probed()
    devices = [] if isinstance(found, str) else found["devices"]
    gpus = [f"cuda:{i} {name}, {show_size(memory)}" for i, (name, memory) in enumerate(devices)]
    return CheckResult(", ".join(gpus) or "the CPU; no CUDA device")


@functools.cache
def _probed() -> dict[str, Any] | str:
    """What torch tells, or why it cannot be asked."""
    done = _run_python(PROBE)
    if done.returncode:
        return f"cannot be imported: {_last_line(done.stderr)}"
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def determinism() -> CheckResult:
    """Check that a short trial gives the same bits twice, each time in a new process and store."""
    with tempfile.TemporaryDirectory() as scratch:
        stores = [DiskStore(Path(scratch, name)) for name in ("first", "second")]
        for store in stores:
            done = _run_python(TRIAL, json.dumps(SETTINGS), str(store.root))
            if done.returncode:
                why = _last_line(done.stderr)
                remedy = "see `torch` and `packages` above"
                return CheckResult(f"a short trial failed: {why}", False, remedy)
        first, second = (dict(_contents(store)) for store in stores)
    differing = [
        f"{kind} {key[:8]}"
        for kind, key in sorted(first | second)
        if first.get((kind, key)) != second.get((kind, key))
    ]
    if differing:
        what = f"a short trial, run twice, differs in {named(differing)}"
        return CheckResult(what, False, "results of this machine cannot be repeated")
    n_states = sum(kind == "state" for kind, _ in first)
    return CheckResult(
        "a short trial, run twice, left the same "
        f"{len(first) - n_states} records and tables and {n_states} checkpoints"
    )


def _contents(store: DiskStore) -> Iterator[tuple[tuple[str, str], object]]:
    """(kind, key) -> content of all that a trial left, clocks aside."""
    for entry in store.entries():
        content: Any = store.peek(entry.kind, entry.path.name)
        if entry.kind == "record":
            content = json.dumps({**json.loads(content), "seconds": 0.0, "time": 0.0})
        yield (entry.kind, entry.path.name), content


def _run_python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """What became of the code in a process of its own. One that takes too long has failed, too."""
    # -P: a folder `core` or `ablation` where the doctor is called must not stand in for ours
    path = os.pathsep.join(filter(None, [str(INSTALLED_IN), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-P", "-c", code, *arguments]
    try:
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            env={**os.environ, "PYTHONPATH": path},
            check=False,
        )
    except subprocess.TimeoutExpired:
        why = f"it took more than {TIMEOUT_SECONDS} s"
        return subprocess.CompletedProcess(command, -signal.SIGKILL, "", why)


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it says nothing"])[-1]

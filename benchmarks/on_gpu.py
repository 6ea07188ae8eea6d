"""The open seeds of studies on a GPU machine that is lent for minutes and reaches nothing outside.

    python benchmarks/on_gpu.py prepare cifar10-long -S epochs=220   # here: prints the call to make
    python3 benchmarks/on_gpu.py run --minutes 9.5    # there, in a copy of the project with .gpu/
    python benchmarks/on_gpu.py unpack FOLDER         # here: FOLDER holds what came back
    ablate report cifar10-long && ablate sync cifar10-long

`prepare` copies into .gpu/ what the studies read and, of each trial that has ended, its outcome, by
which `ablate run` there knows that it need not run it. `run` is `ablate run --offline`, a study
after the other and a seed after the other, so that what ends is paired; it needs neither Optuna nor
MLflow. When time is up, trials in hand are stopped. A second `run` on the same machine goes on with
them; their epochs do not come back. What comes back is the log and an archive of each study, with
the trials that have ended there.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Container, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple, TextIO

ROOT = Path(__file__).resolve().parent.parent
# where the package is not installed
sys.path.insert(0, str(ROOT))

from ablation.errors import InputError  # noqa: E402
from ablation.planning.plan import Plan  # noqa: E402
from ablation.storage.runs import Manifest, Outcome, RunFolder  # noqa: E402

# what travels besides the files that git does not ignore
CARRIED = Path(".gpu")
PLAN = CARRIED / "plan.json"
RUNS = Path("runs")
# most of the repository's bytes, and not needed there
RESULTS = Path("docs/results")
# bytes of all that travels, and of a file back
LARGEST, LARGEST_BACK = 64 * 2**20, 16 * 2**20
# for epochs in hand to end, and for what comes then
STOP_SECONDS, PACK_SECONDS = 25.0, 15.0
# with less left nothing is begun: no trial trains by then
BEGIN_SECONDS = 30.0
# share of the measured pace that the next seed is planned with
MARGIN = 0.8


class Cell(NamedTuple):
    """A trial of a study."""

    trial: str
    seed: int
    # cost of its epochs that no trial before it has, relative to the study's others
    cost: float


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("prepare", help="here: fill .gpu/, and say how to call `run`")
    command.add_argument("grids", nargs="+", metavar="GRID", help="as of `ablate run`, in order")
    command.add_argument("-S", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    command.add_argument("--seeds", help="as of `ablate run`; default: each grid's")
    command.add_argument("--device", default="cuda", help="default: cuda")
    command.add_argument("--retry-failed", action="store_true", help="run failed trials again")
    command.set_defaults(call=prepare)
    command = commands.add_parser("run", help="there: run what is open, and pack it")
    command.add_argument("--minutes", type=float, default=9.5, help="for all of it; default: 9.5")
    command.add_argument("--jobs", type=int, default=12, help="most trials at a time; default: 12")
    out = Path(os.environ.get("OUT", CARRIED / "out"))
    command.add_argument("--out", type=Path, default=out, help="for what comes back; default: $OUT")
    command.set_defaults(call=run)
    command = commands.add_parser("unpack", help="here: put what came back into runs/")
    command.add_argument("folder", type=Path, help="with the archives")
    command.set_defaults(call=unpack)
    options = vars(parser.parse_args())
    try:
        options.pop("call")(**options)
    except InputError as error:
        sys.exit("\n".join(map(str, error.problems)))


# --- here, before


def prepare(
    grids: list[str], overrides: list[str], seeds: str | None, device: str, retry_failed: bool
) -> None:
    from ablation.study.opening import open_study, provenance, refuse_mixture

    shutil.rmtree(CARRIED, ignore_errors=True)
    studies, overrides = [], [f"device={device}", *overrides]
    for grid in grids:
        opened = open_study(Path(grid), None, overrides, seeds)
        name, folder, cells = opened.name, opened.places.runs(opened.name), _cells(opened.plan)
        refuse_mixture(opened.manifest, folder)
        for variant in opened.study.variants:
            _carry_inputs(opened.study.subject.resolve(variant.settings))
        ended = {}
        for trial, *_ in cells:
            outcome = folder.outcome(trial)
            if outcome is not None and not (retry_failed and outcome.state == "FAILED"):
                ended[trial] = outcome
        if folder.exists():
            _carry_outcomes(folder, ended)
            _warn_of_changes(folder.manifest())
        studies.append({"grid": grid, "study": name, "cells": cells})
        print(f"{name}: {len(ended)} of {len(cells)} trials have ended; {_next(cells, ended)}")
    known = provenance()
    # git is not asked there
    ours = {key: known[key] for key in ("commit", "dirty")}
    PLAN.parent.mkdir(exist_ok=True)
    plan = {"studies": studies, "overrides": overrides, "device": device, "provenance": ours}
    PLAN.write_text(json.dumps(plan))
    _tell_size()
    print(f"call there, with {CARRIED} and 600 s:  python3 benchmarks/on_gpu.py run --minutes 9.5")
    print("then here:  python benchmarks/on_gpu.py unpack FOLDER")
    for name in [study["study"] for study in studies]:
        print(f"      ablate report {name} && ablate sync {name}")


def _cells(plan: Plan) -> list[Cell]:
    cells, seen = [], set()
    for trial in plan.trials.values():
        cost = sum(link.cost for link in trial.links if link.key not in seen)
        cells.append(Cell(trial.spec.trial, trial.spec.seed, cost))
        seen |= {link.key for link in trial.links}
    return cells


def _carry_inputs(config: dict[str, Any]) -> None:
    """Copy the files that a trial reads; they stand below .gpu/ as its settings name them."""
    from core.data.location import locate

    named = [config.get("data", {}).get("path"), config.get("encoder", {}).get("checkpoint")]
    for path in [Path(name) for name in named if name]:
        if path.is_absolute() or ".." in path.parts:
            sys.exit(f"{path}: cannot be carried; name it by a path below ABLATE_DATA")
        here, there = locate(str(path)), CARRIED / path
        if not there.exists():
            there.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(here, there) if here.is_dir() else shutil.copyfile(here, there)


def _carry_outcomes(folder: RunFolder, ended: dict[str, Outcome]) -> None:
    """The manifest and the outcomes, without the sums of the trials' other files, which stay."""
    there = CARRIED / folder.path
    there.mkdir(parents=True)
    shutil.copyfile(folder.path / "study.json", there / "study.json")
    for trial, outcome in ended.items():
        (there / trial).mkdir()
        (there / trial / "outcome.json").write_text(json.dumps(asdict(outcome)))


def _warn_of_changes(manifest: Manifest) -> None:
    """The built-in subject's trials are run anew where the code that computes them has changed."""
    commit = manifest.provenance.get("commit")
    command = ["git", "diff", "--quiet", str(commit), "--", "core"]
    if commit and subprocess.run(command, capture_output=True).returncode == 1:
        print(f"{manifest.study}: core/ has changed since {commit[:7]}: all trials may be run anew")


def _next(cells: Sequence[Cell], ended: Container[str]) -> str:
    waiting = [cell.seed for cell in cells if cell.trial not in ended]
    if not waiting:
        return "nothing is open"
    seed = next(cell.seed for cell in cells if cell.seed in waiting)
    return f"next is seed {seed}, with {waiting.count(seed)} trials"


def _tell_size() -> None:
    """What travels, and what to do if it is too much."""
    command = ["git", "ls-files", "-co", "--exclude-standard", "-z"]
    listed = subprocess.run(command, capture_output=True, text=True).stdout.split("\0")
    tree = [Path(name) for name in listed if name and os.path.lexists(name)]
    carried = [path for path in CARRIED.rglob("*") if path.is_file()]
    results = _bytes([path for path in tree if path.is_relative_to(RESULTS)])
    size = _bytes(tree) + _bytes(carried)
    print(f"{_mib(size)} of {_mib(LARGEST)} travel: the working tree {_mib(_bytes(tree))}")
    for path in carried:
        if _bytes([path]) > 2**20:
            print(f"  {path} {_mib(_bytes([path]))}")
    if size - results > LARGEST:
        sys.exit(f"too large, even without {RESULTS} ({_mib(results)}): name fewer studies")
    if size > LARGEST:
        print(f"too large; it fits without {RESULTS} ({_mib(results)}). Before the call:")
        print(f"  git rm -rq {RESULTS}    and after it:  git checkout HEAD -- {RESULTS}")


def _bytes(paths: Sequence[Path]) -> int:
    return sum(path.lstat().st_size for path in paths)


def _mib(n_bytes: int) -> str:
    return f"{n_bytes / 2**20:.1f} MiB"


# --- there


def run(minutes: float, jobs: int, out: Path) -> None:
    deadline = time.monotonic() + 60 * minutes - STOP_SECONDS - PACK_SECONDS
    if not PLAN.exists():
        sys.exit(f"{PLAN} is not there: `prepare` makes it, and the call carries {CARRIED}")
    plan = json.loads(PLAN.read_text())
    for study in plan["studies"]:
        study["cells"] = [Cell(*cell) for cell in study["cells"]]
    for source in sorted((CARRIED / RUNS).rglob("*.json")):
        there = source.relative_to(CARRIED)
        # after an earlier call to this machine there is more in it
        if not there.exists():
            there.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, there)
    out.mkdir(parents=True, exist_ok=True)
    with (out / "log").open("a") as log, _shared_gpu(plan["device"], log):
        for study in plan["studies"]:
            _run_seeds(study, plan["overrides"], jobs, deadline, log)
    for study in plan["studies"]:
        _pack(study, plan["provenance"], out)


def _run_seeds(
    study: dict[str, Any], overrides: Sequence[str], jobs: int, deadline: float, log: TextIO
) -> None:
    """Run a study's open seeds, one after another, until all have ended or time is up."""
    name, folder, pace = study["study"], RunFolder(RUNS / study["study"]), None
    settings = [word for override in overrides for word in ("-S", override)]
    seeds = list(dict.fromkeys(cell.seed for cell in study["cells"]))
    for i, seed in enumerate(seeds):
        of_seeds = [cell for cell in study["cells"] if cell.seed in seeds[: i + 1]]
        waiting = [cell for cell in of_seeds if folder.outcome(cell.trial) is None]
        if not waiting:
            continue
        begun, left = time.monotonic(), deadline - time.monotonic()
        n = n_at_a_time([cell.cost for cell in waiting], left, pace, jobs)
        if not n:
            return _say(f"{name}: seed {seed} is not begun: {max(left, 0):.0f} s are left")
        _say(f"{name}: seed {seed}, {len(waiting)} trials, {n} at a time, {left:.0f} s left")
        is_resumed = any(folder.records(cell.trial) for cell in waiting)
        listed = f"[{','.join(map(str, seeds[: i + 1]))}]"
        which = ["--grid", study["grid"], "--seeds", listed, *settings]
        code = _ablate([*which, "--jobs", str(n), "--offline"], deadline, log)
        if time.monotonic() > deadline:
            return
        outcomes = [told for cell in waiting if (told := folder.outcome(cell.trial)) is not None]
        if code not in (0, 1) or all(told.state == "FAILED" for told in outcomes):
            # a machine that fails every trial of a seed would fail those of the others, too
            _say(f"{name}: given up: `ablate run` ended with {code}, and its log with")
            return _say(*Path(log.name).read_text(errors="replace").splitlines()[-15:])
        seconds = time.monotonic() - begun
        pace = None if is_resumed else sum(cell.cost for cell in waiting) / seconds


def n_at_a_time(costs: Sequence[float], seconds: float, pace: float | None, jobs: int) -> int:
    """How many of these trials to run at a time; 0: none would end in so many seconds.

    Trials that share a GPU all end late: where time does not suffice for all, no more are run at a
    time than end in it. pace: cost computed in a second by all trials together; None: not known.
    """
    if seconds < BEGIN_SECONDS:
        return 0
    if pace is None or sum(costs) <= MARGIN * pace * seconds:
        return jobs
    return min(jobs, int(MARGIN * pace * seconds / max(costs)))


def _ablate(arguments: Sequence[str], deadline: float, log: TextIO) -> int:
    """`ablate run` until the deadline; then it is asked to stop, asked again, and ended."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "ABLATE_DATA": str(CARRIED.resolve())}
    command = [sys.executable, "-m", "ablation", "run", *arguments]
    process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    for end in (deadline, deadline + STOP_SECONDS, deadline + STOP_SECONDS + 5):
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(max(end - time.monotonic(), 0))
        process.terminate()
    process.kill()
    return process.wait()


@contextlib.contextmanager
def _shared_gpu(device: str, log: TextIO) -> Iterator[None]:
    """CUDA's service by which kernels of several processes run at a time, where there is one."""
    service = shutil.which("nvidia-cuda-mps-control") if device == "cuda" else None
    if service is None:
        yield
        return
    with contextlib.suppress(FileNotFoundError):
        # no manifest names the card
        subprocess.run(["nvidia-smi", "-L"], stdout=log, stderr=log)
    is_up = subprocess.run([service, "-d"], stdout=log, stderr=log).returncode == 0
    _say("trials share the GPU through MPS" if is_up else "MPS did not start; trials take turns")
    try:
        yield
    finally:
        subprocess.run([service], input="quit\n", text=True, stdout=log, stderr=log)


def _pack(study: dict[str, Any], provenance: dict[str, Any], out: Path) -> None:
    """Say how each trial went, and make the archive of those that have ended on this machine.

    Their manifest names the commit, and no grid to open: no other machine has these versions.
    """
    name, folder, ended = study["study"], RunFolder(RUNS / study["study"]), []
    for trial, *_ in study["cells"]:
        outcome, records = folder.outcome(trial), folder.records(trial)
        # of trials that have ended elsewhere there is the outcome alone
        if outcome is not None and (folder.trial_path(trial) / "config.yaml").exists():
            ended.append(trial)
            metric = folder.manifest().metric["name"]
            why = outcome.error or {"type": metric, "message": outcome.metrics.get(metric)}
            how = f"{outcome.state}, {why['type']}: {why['message']}"
            _say(f"{name} {trial}: {how}, {outcome.wall_seconds:.0f} s")
        elif outcome is None and records:
            _say(f"{name} {trial}: stopped after {len(records)} epochs, which do not come back")
    if not ended:
        return _say(f"{name}: nothing to bring back")
    manifest = folder.manifest()
    if not manifest.provenance.get("commit"):
        manifest = replace(manifest, provenance=manifest.provenance | provenance)
    folder.write_manifest(replace(manifest, asked={}))
    archive = out / f"{name}.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for part in ("study.json", *ended):
            tar.add(folder.path / part, f"{name}/{part}")
    size = archive.stat().st_size
    too_large = f", more than {_mib(LARGEST_BACK)}" if size > LARGEST_BACK else ""
    _say(f"{name}: {len(ended)} trials in {archive.name}, {_mib(size)}{too_large}")


def _say(*lines: str) -> None:
    # a command that is ended at its limit has said it
    print(*lines, sep="\n", flush=True)


# --- here, after


def unpack(folder: Path) -> None:
    archives = sorted(folder.glob("*.tar.gz"))
    if not archives:
        sys.exit(f"{folder}: holds no archive (.tar.gz) of a study")
    RUNS.mkdir(exist_ok=True)
    for archive in archives:
        with (
            tempfile.TemporaryDirectory(dir=RUNS, prefix=".arrived-") as arrived,
            tarfile.open(archive) as tar,
        ):
            tar.extractall(arrived, filter="data")
            name = archive.name.removesuffix(".tar.gz")
            _merge(RunFolder(Path(arrived, name)), RunFolder(RUNS / name))


def _merge(arrived: RunFolder, folder: RunFolder) -> None:
    """Put the trials in the place of what is there of them, and the manifest if it is newer."""
    from ablation.storage.files import folder_lock
    from ablation.study.opening import refuse_mixture

    manifest = arrived.manifest()
    refuse_mixture(manifest, folder)
    trials = [s.trial for s in manifest.trials if arrived.trial_path(s.trial).is_dir()]
    with folder_lock(folder.path):
        known = folder.known_manifest()
        for trial in trials:
            shutil.rmtree(folder.trial_path(trial), ignore_errors=True)
            os.replace(arrived.trial_path(trial), folder.trial_path(trial))
        when = manifest.provenance.get("when", "")
        if known is None:
            folder.write_manifest(manifest)
        elif known.provenance.get("when", "") <= when:
            # how long a trial was that ends at a plateau is known where its records are
            kept = {(s.trial, s.key): s for s in known.trials if s.trial not in trials}
            specs = [kept.get((s.trial, s.key), s) for s in manifest.trials]
            folder.write_manifest(replace(manifest, trials=specs))
    specs = folder.manifest().trials
    n = sum(folder.ending(spec) is not None for spec in specs)
    _say(f"{folder.path.name}: {len(trials)} trials arrived; {n} of {len(specs)} have ended")


if __name__ == "__main__":
    main()

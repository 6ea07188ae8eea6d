"""Time and memory of whole commands on a fresh project folder (Linux).

    python benchmarks/study.py [--grid experiments/fixes.yaml] [-- extra arguments of `ablate run`]

Then how long commands take to start: to the first epoch of a fresh study, `ablate report` of a
study that is as it was and of one whose report is gone, `ablate ui` until it answers. `cpu` is
processor time, of all processes: beside others' work it says more than the clock.

Memory is the proportional set size of all processes of the command together, sampled: pages that
processes share count once. A first `ablate run` trains; a second one finds everything done.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

EXPERIMENTS = Path(__file__).parent.parent / "experiments"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--grid", default="experiments/fixes.yaml")
    parser.add_argument("extra", nargs="*")
    options = parser.parse_args()
    ablate = [sys.executable, "-m", "ablation"]
    helps = [measure([*ablate, "--help"], Path.cwd())[0] for _ in range(7)]
    print(f"ablate --help: median {statistics.median(helps):.2f} s of {len(helps)}")
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(EXPERIMENTS, Path(folder) / "experiments")
        run = [*ablate, "run", "--grid", options.grid, *options.extra]
        seconds = seconds_until(
            run, Path(folder), lambda: any(Path(folder).glob("runs/*/*/metrics.jsonl"))
        )
        print(f"first epoch after {seconds:.1f} s")
        shutil.rmtree(Path(folder) / "runs")
        shutil.rmtree(Path(folder) / ".ablate")
        tell("first run", run, Path(folder))
        tell("second run", run, Path(folder))
        name = sorted(path for path in Path(folder).glob("runs/*") if path.is_dir())[0].name
        report = [*ablate, "report", name]
        tell("report as it was", report, Path(folder))
        shutil.rmtree(Path(folder) / "reports")
        tell("report anew", report, Path(folder))
        if (Path(folder) / "mlflow.db").exists():
            port = free_port()
            ui = [*ablate, "ui", "--port", str(port)]
            seconds = seconds_until(ui, Path(folder), lambda: answers(port))
            print(f"ui answers after {seconds:.1f} s")


def tell(what: str, command: list[str], folder: Path) -> None:
    before = cpu_seconds()
    seconds, peak = measure(command, folder)
    cpu = cpu_seconds() - before
    print(f"{what}: {seconds:.1f} s, cpu {cpu:.1f} s, peak {peak / 2**20:.0f} MiB", flush=True)


def seconds_until(command: list[str], folder: Path, is_there: Callable[[], bool]) -> float:
    """Seconds until something is there; the command is then asked to end."""
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
    while not is_there():
        if process.poll() is not None:
            raise SystemExit(f"ended with {process.returncode}: {' '.join(command)}")
        time.sleep(0.02)
    seconds = time.perf_counter() - start
    process.terminate()
    process.wait()
    return seconds


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1):
            return True
    except OSError:
        return False


def measure(command: list[str], folder: Path) -> tuple[float, int]:
    """Seconds, and peak bytes of the process and its descendants; ends if the command fails."""
    start, peak = time.perf_counter(), 0
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        peak = max(peak, sum(map(memory, descendants(process.pid))))
        time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"ended with {process.returncode}: {' '.join(command)}")
    return time.perf_counter() - start, peak


def cpu_seconds() -> float:
    """Processor time of all commands that have ended so far, their processes included."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def descendants(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(p for child in children for p in descendants(int(child)))]


def memory(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        # it has ended
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


if __name__ == "__main__":
    main()

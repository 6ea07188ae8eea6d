"""Time and memory of whole commands on a fresh project folder (Linux).

    python benchmarks/study.py [--grid experiments/fixes.yaml] [-- extra arguments of `ablate run`]

Memory is the proportional set size of all processes of the command together, sampled: pages that
processes share count once. A first `ablate run` trains; a second one finds everything done.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
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
        for what in ("first run", "second run"):
            seconds, peak = measure(
                [*ablate, "run", "--grid", options.grid, *options.extra], Path(folder)
            )
            print(f"{what}: {seconds:.1f} s, peak {peak / 2**20:.0f} MiB")


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

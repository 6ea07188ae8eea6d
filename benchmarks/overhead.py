"""What the harness costs per trial: studies of trivial trials, grown tenfold at a time (Linux).

    python benchmarks/overhead.py [--trials 100 1000 10000] [--jobs 2]

A trial is a function that returns at once, so all that is measured is ours: planning, workers,
files, Optuna and MLflow on SQLite, report. `offline` leaves the two databases out. The last
columns are further commands on the finished study.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from study import measure

TRAIN = """
def train(config, seed, report):
    return {"test/top1": 50.0 + config["x"] + seed % 7, "loss": 1.0 / (1 + seed)}
"""
EXPERIMENT = "title: Trivial\nsubject: trivial:train\nsettings: {x: 0}\n"
GRID = """
study: trivial
experiment: nothing
design: factorial
seeds: {seeds}
factors:
  x: {levels}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--trials", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    print(
        f"{'trials':>7} {'run s':>8} {'ms/trial':>9} {'offline':>9} {'peak MiB':>9} "
        f"{'again s':>8} {'plan s':>7} {'status s':>9} {'report s':>9}"
    )
    for n in options.trials:
        with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as other:
            ablate = project(Path(folder), n)
            ablate_there = project(Path(other), n)
            grid = ["--grid", "grid.yaml"]
            run, peak = measure([*ablate, "run", *grid, "--jobs", str(options.jobs)], Path(folder))
            offline, _ = measure(
                [*ablate_there, "run", *grid, "--jobs", str(options.jobs), "--offline"], Path(other)
            )
            again, plan, status, report = (
                measure([*ablate, *command], Path(folder))[0]
                for command in (["run", *grid], ["plan", *grid], ["status"], ["report"])
            )
            print(
                f"{n:7} {run:8.1f} {1000 * run / n:9.1f} {1000 * offline / n:9.1f} "
                f"{peak / 2**20:9.0f} {again:8.1f} {plan:7.1f} {status:9.1f} {report:9.1f}",
                flush=True,
            )


def project(folder: Path, n: int) -> list[str]:
    """Write a grid of two arms per ten seeds, up to twenty arms.

    Returns the command that runs ablate there.
    """
    n_arms = min(20, max(2, n // 100))
    levels = "{" + ", ".join(f"level{i}: {{x: {i}}}" for i in range(n_arms)) + "}"
    (folder / "trivial.py").write_text(TRAIN)
    (folder / "nothing.yaml").write_text(EXPERIMENT)
    (folder / "grid.yaml").write_text(GRID.format(seeds=n // n_arms, levels=levels))
    path = f"PYTHONPATH={folder}:{Path(__file__).resolve().parents[1]}"
    return ["env", path, sys.executable, "-m", "ablation"]


if __name__ == "__main__":
    main()

"""What sharing saves, and whether wall-clock time follows the plan.

    python benchmarks/sharing.py [--jobs 2] [--seeds 3]

Runs benchmarks/sharing.yaml with its first seed, which measures its epochs; forecasts what
`--seeds` more will take, as `ablate plan` does; runs them; and runs the first seed again with
--no-share. Prints epochs and seconds, planned and measured. Seconds are those from the first
worker's start to the last one's end; the report comes on top.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from pathlib import Path

from study import EXPERIMENTS

from ablation.planning.forecast import forecast
from ablation.study.opening import PlannedStudy, open_study
from ablation.study.running import RunOptions, RunResult, run

GRID = Path(__file__).with_suffix(".yaml").resolve()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(EXPERIMENTS, Path(folder) / "experiments")
        shutil.copy(GRID, Path(folder) / "experiments")
        os.chdir(folder)
        first = trained(study("1"), options.jobs)
        more = study(str(1 + options.seeds))
        planned = plan(more, options.jobs)
        later = trained(more, options.jobs)
        alone = trained(study("1", "alone"), options.jobs, share=False)
        os.chdir("/")
    print(f"\n{'':24} {'epochs':>8} {'seconds':>9}")
    show("one seed, one by one", alone.n_trained, alone.seconds)
    show(
        "one seed, shared",
        first.n_trained,
        first.seconds,
        f"{alone.n_trained / first.n_trained:.2f} times fewer epochs, "
        f"{alone.seconds / first.seconds:.2f} times faster",
    )
    show(f"{options.seeds} more, planned", *planned)
    show(
        f"{options.seeds} more, measured",
        later.n_trained,
        later.seconds,
        f"{later.seconds / planned[1]:.2f} of the forecast",
    )


def show(what: str, n_epochs: int, seconds: float, remark: str = "") -> None:
    print(f"{what:24} {n_epochs:8} {seconds:9.1f}   {remark}")


def study(seeds: str, alias: str | None = None) -> PlannedStudy:
    return open_study(Path("experiments") / GRID.name, None, [], seeds, alias)


def plan(opened: PlannedStudy, jobs: int) -> tuple[int, float]:
    """Epochs left to train, and the seconds that they are to take."""
    left = opened.expected().unfinished(opened.folder)
    seconds = forecast(left.chains, opened.store, opened.timings.known(), jobs)
    return len(left.missing(opened.store)), seconds


def trained(opened: PlannedStudy, jobs: int, share: bool = True) -> RunResult:
    return run(opened, RunOptions(jobs=jobs, share=share, offline=True))


if __name__ == "__main__":
    main()

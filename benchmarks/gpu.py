"""Trials on one GPU: how long one takes alone, and how many an hour when several share the device.

    python benchmarks/gpu.py [--packed 1 2 4 8] [--precision float32 bfloat16] [--epochs 60]
        [-S key=value ...]

Runs CIFAR-10-LT trials of `--epochs` epochs, a quarter of them warm-up, as many at once as
`--packed` says, each in a process of its own. Printed are mean seconds of a warm-up and of a joint
epoch, evaluation and diagnostics included (the first ten of a warm-up and five of a joint phase
aside, in which steps are recorded and the pool appears; `nan` where no more are left), what a
400-epoch trial takes at that rate, and the throughput against one alone. `--no-graphs` leaves out
the recording of steps. Needs neither Optuna nor MLflow. `--device cpu` runs the same script
anywhere.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
from pathlib import Path

# where the package is not installed
sys.path.insert(0, str(Path(__file__).parent.parent))

# what is left are whole periods of the pool's refreshing
N_FIRST = {"warmup": 10, "joint": 5}
PLANNED = {"warmup": 100, "joint": 300}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--packed", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--precision", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--no-graphs", action="store_true")
    parser.add_argument("-S", dest="overrides", nargs="+", default=[], metavar="KEY=VALUE")
    parser.add_argument("--trial", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.trial is not None:
        return trial(options)
    print(
        f"{'precision':10} {'packed':>6} {'warm-up s':>10} {'joint s':>8} {'400 epochs s':>13} "
        f"{'trials/h':>9} {'throughput':>11} {'top-1':>6}"
    )
    for precision in options.precision:
        alone = None
        for n in options.packed:
            found = together(n, precision)
            means = {phase: mean([f[phase] for f in found]) for phase in PLANNED}
            whole = sum(PLANNED[phase] * means[phase] for phase in PLANNED)
            alone = alone or whole
            top1 = statistics.mean(f["top1"] for f in found)
            print(
                f"{precision:10} {n:6} {means['warmup']:10.3f} {means['joint']:8.3f} {whole:13.1f} "
                f"{n * 3600 / whole:9.1f} {n * alone / whole:11.2f} {top1:6.2f}",
                flush=True,
            )


def together(n: int, precision: str) -> list[dict[str, float]]:
    """`n` trials at once, each under a seed of its own."""
    processes = [
        subprocess.Popen(
            [
                sys.executable,
                __file__,
                *sys.argv[1:],
                "--precision",
                precision,
                "--trial",
                str(seed),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in range(n)
    ]
    outputs = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise SystemExit("a trial failed")
    return [json.loads(output.splitlines()[-1]) for output in outputs]


def trial(options: argparse.Namespace) -> None:
    from joint_epoch import EXPERIMENT
    from staged import Memory

    from ablation.grid.load import experiment_settings
    from core.config.parsing import parse
    from core.subject import SUBJECT
    from core.training import learner
    from core.trial.run import advance

    if options.no_graphs:
        learner.cuda_graph = None
    settings = experiment_settings(EXPERIMENT, options.overrides, SUBJECT)
    settings |= {
        "device": options.device,
        "precision": options.precision[0],
        "epochs": options.epochs,
    }
    config, faults = parse(settings)
    if faults:
        raise SystemExit("; ".join(f"{fault.key}: {fault.message}" for fault in faults))
    seconds: dict[str, list[float]] = {phase: [] for phase in PLANNED}
    last: dict[str, float] = {}

    def report(_: str, record: dict) -> None:
        if record["phase"] in seconds:
            seconds[record["phase"]].append(record["seconds"])
        last.update(record["metrics"])

    advance(config, options.trial, None, Memory(), report)
    print(
        json.dumps(
            {phase: mean(taken[N_FIRST[phase] :]) for phase, taken in seconds.items()}
            | {"top1": last["test/top1"]}
        )
    )


def mean(values: list[float]) -> float:
    return statistics.mean(values) if values else math.nan


if __name__ == "__main__":
    main()

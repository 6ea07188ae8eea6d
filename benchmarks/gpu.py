"""Trials on one GPU: how long one takes alone, and how many an hour when several share the device.

    python benchmarks/gpu.py [--packed 1 2 4 8] [--precision float32 bfloat16] [--epochs 60]
        [-S key=value ...]
    python benchmarks/gpu.py --levers [--epochs 24] [--seeds 3]

Runs CIFAR-10-LT trials of `--epochs` epochs, a quarter of them warm-up, as many at once as
`--packed` says, each in a process of its own. Printed are mean seconds of a warm-up and of a joint
epoch, evaluation and diagnostics included (the first ten of a warm-up and five of a joint phase
aside, in which steps are recorded and the pool appears; `nan` where no more are left), what a
400-epoch trial takes at that rate, and the throughput against one alone. `--no-graphs` leaves out
the recording of steps. Needs neither Optuna nor MLflow. `--device cpu` runs the same script
anywhere.

`--levers` runs one trial at a time in bfloat16, as shipped and with one thing changed (`LEVERS`),
in turn, for each of `--seeds`: medians of ratios to the trial as shipped under the same seed, and
top-1 accuracies of the last epoch, which show what a lever does to results.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

# where the package is not installed
sys.path.insert(0, str(Path(__file__).parent.parent))

EXPERIMENT = Path(__file__).parent.parent / "experiments" / "cifar10-lt-if100.yaml"

# what is left are whole periods of the pool's refreshing
N_FIRST = {"warmup": 10, "joint": 5}
PLANNED = {"warmup": 100, "joint": 300}
LEVERS = {
    "as shipped": "",
    "steps not recorded": "--no-graphs",
    "each weight cast where it is used": "--cast-alone",
    "encoder compiled": "compile=true",
    "evaluated every tenth epoch": "evaluate_every=10",
    "images not augmented": "data.augmentation=none",
    "strong augmentation": "data.augmentation=strong",
    "batches of 512": "batch_size=512",
}
"""Name -> a flag or a setting of the trial."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--packed", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--precision", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--experiment", type=Path, default=EXPERIMENT)
    parser.add_argument("--no-graphs", action="store_true")
    parser.add_argument("-S", dest="overrides", nargs="+", default=[], metavar="KEY=VALUE")
    parser.add_argument("--cast-alone", action="store_true")
    parser.add_argument("--levers", action="store_true")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--trial", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.trial is not None:
        return trial(options)
    if options.levers:
        return levers(options)
    print(
        f"{'precision':10} {'packed':>6} {'warm-up s':>10} {'joint s':>8} {'400 epochs s':>13} "
        f"{'trials/h':>9} {'throughput':>11} {'top-1':>6}"
    )
    for precision in options.precision:
        alone = None
        for n in options.packed:
            found = together(sys.argv[1:], precision, range(n))
            means = {phase: mean([f[phase] for f in found]) for phase in PLANNED}
            whole = sum(PLANNED[phase] * means[phase] for phase in PLANNED)
            alone = alone or whole
            top1 = statistics.mean(f["top1"] for f in found)
            print(
                f"{precision:10} {n:6} {means['warmup']:10.3f} {means['joint']:8.3f} {whole:13.1f} "
                f"{n * 3600 / whole:9.1f} {n * alone / whole:11.2f} {top1:6.2f}",
                flush=True,
            )


def levers(options: argparse.Namespace) -> None:
    """What each lever does to the time of an epoch, and to the accuracy."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in LEVERS}
    for seed in range(options.seeds):
        for name, lever in LEVERS.items():
            flags = [lever] if lever.startswith("--") else []
            settings = [*options.overrides, *([lever] if lever and not flags else [])]
            given = ["--device", options.device, "--epochs", str(options.epochs), *flags]
            given += ["--experiment", str(options.experiment)]
            given += ["-S", *settings] if settings else []
            found[name] += together(given, "bfloat16", [seed])
    print(f"{'lever':34} {'joint s':>8} {'ratio':>6}  top-1 by seed")
    for name, of_seeds in found.items():
        ratios = [
            own["joint"] / shipped["joint"]
            for own, shipped in zip(of_seeds, found["as shipped"], strict=True)
        ]
        seconds = statistics.median(own["joint"] for own in of_seeds)
        top1 = " ".join(f"{own['top1']:.2f}" for own in of_seeds)
        print(f"{name:34} {seconds:8.3f} {statistics.median(ratios):6.2f}  {top1}", flush=True)


def together(arguments: list[str], precision: str, seeds: Iterable[int]) -> list[dict[str, float]]:
    """Trials at once, each under a seed of its own."""
    command = [sys.executable, __file__, *arguments, "--precision", precision, "--trial"]
    processes = [
        subprocess.Popen([*command, str(seed)], stdout=subprocess.PIPE, text=True) for seed in seeds
    ]
    outputs = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise SystemExit("a trial failed")
    return [json.loads(output.splitlines()[-1]) for output in outputs]


def trial(options: argparse.Namespace) -> None:
    from staged import Memory

    from ablation.grid.load import experiment_settings
    from core.config.parsing import parse
    from core.device import forward
    from core.subject import SUBJECT
    from core.training import learner
    from core.trial.run import advance

    if options.cast_alone:
        forward.CAST_AT_ONCE = ()
    if options.no_graphs:
        learner.cuda_graph = None
    settings = experiment_settings(options.experiment, options.overrides, SUBJECT)
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

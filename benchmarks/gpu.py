"""Trials on one GPU: how long one takes alone, and how many an hour when several share the device.

    python benchmarks/gpu.py [--packed 1 2 4 8] [--precision float32 bfloat16] [--epochs 60]
        [-S key=value ...]
    python benchmarks/gpu.py --levers [--epochs 24] [--seeds 3]
    python benchmarks/gpu.py --profile [--precision bfloat16] [-S key=value ...]

Runs CIFAR-10-LT trials of `--epochs` epochs, a quarter of them warm-up, as many at once as
`--packed` says, each in a process of its own. Printed are mean seconds of a warm-up and of a joint
epoch, evaluation and diagnostics included (the first ten of a warm-up and five of a joint phase
aside, in which steps are recorded and the pool appears), what a 400-epoch trial takes at that rate,
and the throughput against one alone, where 1 is among `--packed`. `--no-graphs` leaves out the
recording of steps. Needs neither Optuna nor MLflow. `--device cpu` runs the same script anywhere.

`--levers` runs one trial at a time in bfloat16, as shipped and with one thing changed (`LEVERS`),
for each of `--seeds`: as each ends, its seconds of a joint epoch, their ratio to those as shipped
under the same seed, and its top-1 accuracy of the last epoch. Where a trial fails, the next is run.

`--profile` tells what a joint epoch of one trial is spent on: kernels a batch and the time they
take on the device (of a CPU: operations, and their own time), against the time of the epoch.
Where the first is far less than the second, the device waits.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

# where the package is not installed
sys.path.insert(0, str(Path(__file__).parent.parent))

EXPERIMENT = Path(__file__).parent.parent / "experiments" / "cifar10-lt-if100.yaml"

# what is left are whole periods of the pool's refreshing
N_FIRST = {"warmup": 10, "joint": 5}
PLANNED = {"warmup": 100, "joint": 300}
# epochs of which a quarter is one more than those
FEWEST = 4 * (N_FIRST["warmup"] + 1)
# The joint epoch that is profiled: by then steps are recorded, and this one draws no pool and
# measures no loss's gradients by itself.
PROFILED = 4
LEVERS = {
    "as shipped": "",
    "steps not recorded": "--no-graphs",
    "each weight cast where it is used": "--cast-alone",
    "evaluated every tenth epoch": "evaluate_every=10",
    "images not augmented": "data.augmentation=none",
    "strong augmentation": "data.augmentation=strong",
    "batches of 512": "batch_size=512",
    "encoder compiled": "compile=true",
    "encoder, head and losses compiled": "compile=true --compile-losses",
}
"""Name -> flags and settings of the trial; what takes minutes to start is last."""


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
    parser.add_argument("--compile-losses", action="store_true")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--levers", action="store_true")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--trial", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.trial is not None:
        return trial(options)
    if options.profile:
        options.trial = 0
        options.precision, options.epochs = options.precision[-1:], 4 * PROFILED
        return trial(options)
    if options.levers:
        return levers(options)
    if options.epochs < FEWEST:
        raise SystemExit(f"--epochs {options.epochs}: of fewer than {FEWEST} no warm-up is left")
    print(
        f"{'precision':10} {'packed':>6} {'warm-up s':>10} {'joint s':>8} {'400 epochs s':>13} "
        f"{'trials/h':>9} {'throughput':>11} {'top-1':>6}"
    )
    for precision in options.precision:
        alone = math.nan
        for n in options.packed:
            found = together(sys.argv[1:], precision, range(n))
            if not found:
                print(f"{precision:10} {n:6} failed", flush=True)
                continue
            means = {phase: mean([f[phase] for f in found]) for phase in PLANNED}
            whole = sum(PLANNED[phase] * means[phase] for phase in PLANNED)
            alone = whole if n == 1 else alone
            top1 = statistics.mean(f["top1"] for f in found)
            print(
                f"{precision:10} {n:6} {means['warmup']:10.3f} {means['joint']:8.3f} {whole:13.1f} "
                f"{n * 3600 / whole:9.1f} {n * alone / whole:11.2f} {top1:6.2f}",
                flush=True,
            )


def levers(options: argparse.Namespace) -> None:
    """What each lever does to the time of an epoch, and to the accuracy."""
    print(f"{'seed':>4} {'lever':34} {'joint s':>8} {'ratio':>6} {'top-1':>6}", flush=True)
    for seed in range(options.seeds):
        shipped = math.nan
        for name, lever in LEVERS.items():
            flags = [word for word in lever.split() if word.startswith("--")]
            settings = options.overrides + [word for word in lever.split() if word not in flags]
            given = ["--device", options.device, "--epochs", str(options.epochs), *flags]
            given += ["--experiment", str(options.experiment)]
            given += ["-S", *settings] if settings else []
            found = together(given, "bfloat16", [seed])
            if not found:
                print(f"{seed:4} {name:34} failed", flush=True)
                continue
            joint, top1 = found[0]["joint"], found[0]["top1"]
            shipped = shipped if lever else joint
            print(f"{seed:4} {name:34} {joint:8.3f} {joint / shipped:6.2f} {top1:6.2f}", flush=True)


def together(arguments: list[str], precision: str, seeds: Iterable[int]) -> list[dict[str, float]]:
    """What trials at once measured, each under a seed of its own; nothing where one failed."""
    command = [sys.executable, __file__, *arguments, "--precision", precision, "--trial"]
    processes = [
        subprocess.Popen([*command, str(seed)], stdout=subprocess.PIPE, text=True) for seed in seeds
    ]
    outputs = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        return []
    return [json.loads(output.splitlines()[-1]) for output in outputs]


def trial(options: argparse.Namespace) -> None:
    from joint_epoch import config_of
    from staged import Memory

    from core.device import forward
    from core.training import learner
    from core.trial import run

    if options.cast_alone:
        forward.CAST_AT_ONCE = ()
    if options.no_graphs:
        learner.cuda_graph = None
    if options.compile_losses:
        compile_losses()
    if options.profile:
        run.joint_epoch = profiled(run.joint_epoch, options.device)
    fixed = {
        "device": options.device,
        "precision": options.precision[0],
        "epochs": options.epochs,
    }
    config = config_of(fixed, options.experiment, options.overrides)
    seconds: dict[str, list[float]] = {phase: [] for phase in PLANNED}
    last: dict[str, float] = {}

    def report(_: str, record: dict) -> None:
        if record["phase"] in seconds:
            seconds[record["phase"]].append(record["seconds"])
        last.update(record["metrics"])

    run.advance(config, options.trial, None, Memory(), report)
    if options.profile:
        return
    print(
        json.dumps(
            {phase: mean(taken[N_FIRST[phase] :]) for phase, taken in seconds.items()}
            | {"top1": last["test/top1"]}
        )
    )


def compile_losses() -> None:
    """Compile what else a step computes: the head, the semantic loss, and what is tracked."""
    import torch

    from core.networks import heads
    from core.training import learner

    torch._dynamo.config.recompile_limit = 64
    for module, name in (
        (heads, "wcdas_logits"),
        (learner, "semantic_loss"),
        (learner, "class_means"),
        (learner, "distances"),
        (learner, "track"),
    ):
        setattr(module, name, torch.compile(getattr(module, name), dynamic=False))


def profiled(epoch: Callable[..., Any], device: str) -> Callable[..., Any]:
    """`epoch`, the first three times as it is, then with a table of what it is spent on."""
    from torch.profiler import ProfilerActivity, profile

    turn = 0
    activity = ProfilerActivity.CUDA if device == "cuda" else ProfilerActivity.CPU

    def again(learner: Any, train: Any, *others: Any) -> Any:
        nonlocal turn
        turn += 1
        if turn != PROFILED:
            return epoch(learner, train, *others)
        with profile(activities=[activity]) as found:
            started = time.perf_counter()
            result = epoch(learner, train, *others)
            seconds = time.perf_counter() - started
        n_batches = math.ceil(len(train.labels) / learner.config.batch_size)
        rows = [
            (
                (e.self_device_time_total if device == "cuda" else e.self_cpu_time_total)
                / 1000
                / n_batches,
                e.count / n_batches,
                e.key,
            )
            for e in found.key_averages()
        ]
        rows.sort(reverse=True)
        print(f"{'ms a batch':>10} {'number':>8}  name")
        total = sum(ms for ms, _, _ in rows), sum(n for _, n, _ in rows)
        print(f"{1000 * seconds / n_batches:10.3f} {'':8}  by the clock, profiled")
        print(f"{total[0]:10.3f} {total[1]:8.1f}  all that follow")
        for ms, n, name in rows[:40]:
            print(f"{ms:10.3f} {n:8.1f}  {name[:90]}", flush=True)
        return result

    return again


def mean(values: list[float]) -> float:
    return statistics.mean(values) if values else math.nan


if __name__ == "__main__":
    main()

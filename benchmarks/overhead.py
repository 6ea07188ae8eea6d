"""What the harness costs per trial: studies of trivial trials, grown tenfold at a time (Linux).

    python benchmarks/overhead.py [--trials 100 1000 10000] [--jobs 2] [--mode fixed|search|looks]

A trial is a function that returns at once, so all that is measured is ours: planning, workers,
files, Optuna and MLflow on SQLite, report. `offline` leaves the two databases out. The last
columns are further commands on the finished study. `cpu` is processor time, of all processes.

`search` tunes each arm first (docs/search.md): all but six trials of an arm are its search's, asked
for one after another. `looks` adds seeds until its claim is decided (docs/statistics.md), which it
never is. `floor` is, for a search, the processor time of Optuna alone: the same sampler, asked and
told of as many trials in as many studies in memory.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from time import process_time

from study import cpu_seconds, measure

TRAIN = """
def train(config, seed, report):
    noise = hash((config["x"], seed, config["rate"])) % 1000 / 1000
    return {"test/top1": 50.0 + noise, "validation/top1": 50.0 + noise, "loss": 1.0 / (1 + seed)}
"""
EXPERIMENT = "title: Trivial\nsubject: trivial:train\nsettings: {x: 0, rate: 0.1, width: 1.0}\n"
GRID = """
study: trivial
experiment: nothing
metric: test/top1
design: factorial
seeds: {seeds}
factors:
  x: {levels}
"""
# a question that noise does not answer
CLAIM = """
claims:
  - id: nothing
    says: The levels do the same.
    contrast: {factor: x, from: level0, to: level1}
    expects: [{metric: test/top1, direction: none, within: 0.01}]
"""
SEARCH = """
search:
  space:
    rate: {{low: 1.0e-4, high: 1.0, log: true}}
    width: {{low: 0.0, high: 2.0}}
  trials: {trials}
  metric: validation/top1
  sampler: {sampler}
"""
# of an arm, after its search; each is run with and without what that found
SEEDS_AFTER = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--trials", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--mode", choices=["fixed", "search", "looks"], default="fixed")
    parser.add_argument("--sampler", choices=["tpe", "gp", "random"], default="tpe")
    options = parser.parse_args()
    print(
        f"{'trials':>7} {'run s':>8} {'ms/trial':>9} {'cpu':>7} {'offline':>9} {'cpu':>7} "
        f"{'floor':>7} {'peak MiB':>9} {'again s':>8} {'plan s':>7} {'status s':>9} {'report s':>9}"
    )
    for n in options.trials:
        with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as other:
            ablate = project(Path(folder), n, options.mode, options.sampler)
            ablate_there = project(Path(other), n, options.mode, options.sampler)
            grid = ["--grid", "grid.yaml"]
            command = ["run", *grid, "--jobs", str(options.jobs)]
            before = cpu_seconds()
            run, peak = measure([*ablate, *command], Path(folder))
            between = cpu_seconds()
            offline, _ = measure([*ablate_there, *command, "--offline"], Path(other))
            after = cpu_seconds()
            again, plan, status, report = (
                measure([*ablate, *command], Path(folder))[0]
                for command in (["run", *grid], ["plan", *grid], ["status"], ["report"])
            )
            ended = len(list(Path(folder).glob("runs/*/*/outcome.json")))
            floor = optuna_alone(n, options.sampler) if options.mode == "search" else 0.0
            per_trial = [
                1000 * seconds / ended
                for seconds in (run, between - before, offline, after - between, floor)
            ]
            print(
                f"{ended:7} {run:8.1f} {per_trial[0]:9.1f} {per_trial[1]:7.1f} "
                f"{per_trial[2]:9.1f} {per_trial[3]:7.1f} {per_trial[4]:7.1f} "
                f"{peak / 2**20:9.0f} {again:8.1f} {plan:7.1f} {status:9.1f} {report:9.1f}",
                flush=True,
            )


def arms_of(n: int) -> int:
    """How many arms a study of so many trials has: two of ten seeds, up to twenty."""
    return min(20, max(2, n // 100))


def searched(n: int) -> int:
    """How many trials of an arm its search has."""
    return n // arms_of(n) - 2 * SEEDS_AFTER


def project(folder: Path, n: int, mode: str = "fixed", sampler: str = "tpe") -> list[str]:
    """Write a grid of about `n` trials. Returns the command that runs ablate there."""
    n_arms = arms_of(n)
    levels = "{" + ", ".join(f"level{i}: {{x: {i}}}" for i in range(n_arms)) + "}"
    n_seeds = n // n_arms
    seeds = {
        "fixed": n_seeds,
        "search": SEEDS_AFTER,
        "looks": f"{{start: 3, max: {n_seeds}, effects: true}}",
    }
    grid = GRID.format(seeds=seeds[mode], levels=levels)
    if mode == "looks":
        grid += CLAIM
    if mode == "search":
        grid += SEARCH.format(trials=searched(n), sampler=sampler)
    (folder / "trivial.py").write_text(TRAIN)
    (folder / "nothing.yaml").write_text(EXPERIMENT)
    (folder / "grid.yaml").write_text(grid)
    path = f"PYTHONPATH={folder}:{Path(__file__).resolve().parents[1]}"
    return ["env", path, sys.executable, "-m", "ablation"]


def optuna_alone(n: int, sampler: str) -> float:
    """Processor seconds of Optuna for the searches of such a study, without the harness."""
    import optuna

    optuna.logging.disable_default_handler()
    space = {
        "rate": optuna.distributions.FloatDistribution(1e-4, 1.0, log=True),
        "width": optuna.distributions.FloatDistribution(0.0, 2.0),
    }
    kinds = {
        "tpe": optuna.samplers.TPESampler,
        "gp": optuna.samplers.GPSampler,
        "random": optuna.samplers.RandomSampler,
    }
    begun = process_time()
    for _ in range(arms_of(n)):
        study = optuna.create_study(sampler=kinds[sampler](seed=0), direction="maximize")
        for number in range(searched(n)):
            study.tell(study.ask(space), hash((number, 0.1)) % 1000 / 1000)
    return process_time() - begun


if __name__ == "__main__":
    main()

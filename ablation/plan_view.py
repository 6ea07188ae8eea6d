"""How a plan is shown: arms, phases, the forest of one seed, a forecast, and what the seeds can find."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from ablation.forecast import forecast
from ablation.forest import Segment, segments
from ablation.formatting import duration
from ablation.grid import Study
from ablation.plan import Plan, PlannedTrial
from ablation.store import DiskStore
from ablation.subject import Link
from ablation.terminal import fitting


def show_plan(
    console: Console,
    study: Study,
    plan: Plan,
    left: Plan,
    store: DiskStore,
    known: Mapping[str, float],
    jobs: int,
    runs: Path = Path("runs"),
) -> None:
    """Print a plan. left: its trials that are not finished. known: phase -> seconds of an epoch. runs: of all studies."""
    from ablation.power import power_lines  # SciPy, which `ablate status` does without

    missing = left.missing(store)
    console.print(fitting(_arms(study, plan, {link.key for link in missing}), console))
    n_naive, n_unique = plan.n_naive(), len(plan.unique())
    if n_unique < n_naive:
        console.print("", fitting(_phases(plan, missing), console), "", _forest(plan), "", sep="\n")
    console.print(
        f"{len(plan.trials)} trials: {n_naive} epochs one by one, {n_unique} unique ({n_naive / n_unique:.1f} times fewer), {len(missing)} left to train"
    )
    if missing and any(trial.undecided for trial in left.trials.values()):
        console.print(
            "warm-ups that end at a plateau are planned as long as in a seed that is finished, else at their longest"
        )
    console.print(_cost(left, missing, store, known, jobs))
    for line in power_lines(study, runs):
        console.print(line, highlight=False)


def _arms(study: Study, plan: Plan, missing: set[str]) -> Table:
    factors = [factor.name for factor in study.grid.factors]
    table = _table("arm", *factors, counts=("trials", "epochs", "of its own", "left to train"))
    owned: set[str] = set()
    for variant in study.variants:
        trials = [trial for trial in plan.trials.values() if trial.spec.arm == variant.name]
        own = [link.key for trial in trials for link in trial.links if link.key not in owned]
        owned.update(own)
        counts = (
            len(trials),
            sum(len(trial.links) for trial in trials),
            len(own),
            sum(key in missing for key in own),
        )
        table.add_row(
            variant.name, *[variant.levels.get(factor, "") for factor in factors], *map(str, counts)
        )
    return table


def _phases(plan: Plan, missing: Sequence[Link]) -> Table:
    """Where sharing saves: epochs by phase."""
    naive = Counter(link.phase for trial in plan.trials.values() for link in trial.links)
    unique = Counter(link.phase for link in plan.unique().values())
    left = Counter(link.phase for link in missing)
    table = _table("phase", counts=("epochs one by one", "unique", "times fewer", "left to train"))
    for phase, n in naive.items():
        table.add_row(
            phase, str(n), str(unique[phase]), f"{n / unique[phase]:.1f}", str(left[phase])
        )
    return table


def _forest(plan: Plan) -> Tree:
    """Where the arms part, under the first seed: a line for the epochs that the same arms go through."""
    seed = next(iter(plan.trials.values())).spec.seed
    trials = {name: trial for name, trial in plan.trials.items() if trial.spec.seed == seed}
    found = segments({name: trial.links for name, trial in trials.items()})
    tree = Tree(f"epochs of seed {seed}")

    def grow(branch: Tree, segment: Segment) -> None:
        below = branch.add(_line(segment, trials))
        for child in segment.children:
            grow(below, found[child])

    for segment in found.values():
        if segment.parent is None:
            grow(tree, segment)
    return tree


def _line(segment: Segment, trials: Mapping[str, PlannedTrial]) -> Text:
    """`warmup 21–30, joint 31–40: lr_split+warmup`; the arms are those that end there."""
    phases = [
        (phase, [link.epoch for link in links])
        for phase, links in groupby(segment.links, lambda link: link.phase)
    ]
    spans = ", ".join(
        f"{phase} {epochs[0]}–{epochs[-1]}" if len(epochs) > 1 else f"{phase} {epochs[0]}"
        for phase, epochs in phases
    )
    ending = [
        trials[name].spec.arm
        for name in segment.trials
        if trials[name].links[-1].key == segment.end
    ]
    return Text(f"{spans}: {', '.join(ending)}" if ending else spans)


def _cost(
    left: Plan, missing: Sequence[Link], store: DiskStore, known: Mapping[str, float], jobs: int
) -> str:
    if not missing:
        return "nothing is left to train"
    chains = {name: trial.links for name, trial in left.trials.items()}
    seconds, alone = (forecast(chains, store, known, n) for n in (jobs, 1))
    if seconds is None:
        cost = sum(link.cost for link in missing)
        return f"cost: about {cost:.0f} epochs of pre-training; in seconds, once a first epoch of this experiment has been measured"
    return f"forecast: {duration(seconds)} of training with {jobs} jobs, {duration(alone)} with one; the report comes on top"


def _table(*columns: str, counts: Sequence[str]) -> Table:
    table = Table(*columns, box=None)
    for name in counts:
        table.add_column(name, justify="right")
    return table

"""Print a plan and a study's progress.

A plan: arms, phases, the tree of shared epochs, a forecast, and the power. Progress: by arm, from
the files; another process may be running the study.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

from rich.console import Console
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from ablation.formatting import duration, label, listed, over_seeds
from ablation.planning.forecast import forecast
from ablation.planning.plan import Plan, PlannedTrial, Segment, missing_links, segments
from ablation.search.cost import arm_costs, study_at_most
from ablation.search.seeds import UntilDecided
from ablation.search.tuning import Tuning
from ablation.storage.asked import FAILED as FAILED_TRIAL
from ablation.storage.asked import PRUNED, SUFFIX, SearchLog
from ablation.storage.project import ProjectPaths
from ablation.storage.runs import UNTUNED, RunFolder, of_one_link
from ablation.study.closing import other_seeds
from ablation.study.live import (
    ProgressNote,
    fitting,
    output,
    plain_table,
    read_note,
    tell,
    time_left,
)
from ablation.study.opening import Changes, PlannedStudy, changes, changes_since, refuse_mixture
from ablation.study.placement import n_processors
from ablation.subject.protocol import LinkLike


def describe_plan(planned: PlannedStudy, jobs: int | None, only: Collection[str] = ()) -> None:
    """Print a study's plan, `only` of these arms if any. jobs: default, the processors."""
    console, absent = output(), planned.study.absent
    # Without its data, nothing can be said of what has changed.
    if not absent:
        refuse_mixture(planned.manifest, planned.folder)
    console.print(f"study {planned.name}", style="italic")
    if not absent:
        tell(console, changes(planned).description)
        for warning in planned.warnings:
            tell(console, f"warning: {warning}")
    show_plan(console, planned, planned.timings.known(), jobs or n_processors(), only)
    if absent:
        console.print("the study cannot be run yet:", style="bold")
    for problem in absent:
        tell(console, f"  {problem}")


def show_plan(
    console: Console,
    planned: PlannedStudy,
    known: Mapping[str, float],
    jobs: int,
    only: Collection[str] = (),
) -> None:
    """Print a plan, `only` of these arms if any. known: phase -> seconds of an epoch."""
    # SciPy, which `ablate status` does without.
    from ablation.analysis.power import power_lines

    if planned.study.grid.search and planned.tuning is None:
        console.print("what its search will cost is told once its files are there")
    untuned = planned
    if planned.tuning is not None:
        planned = _show_search(console, planned, planned.tuning, known, jobs)
    plan = planned.expected().of(only)
    left = plan.unfinished(planned.folder)
    missing = left.missing(planned.store)
    n_naive, n_unique = plan.n_naive(), len(plan.unique())
    by_trial = of_one_link(plan.specs)
    console.print(fitting(_arms(planned, plan, {link.key for link in missing}), console))
    if n_unique < n_naive and not by_trial:
        console.print("", fitting(_phases(plan, missing), console), "", _forest(plan), "", sep="\n")
    epochs = (
        f": {n_naive} epochs one by one, {n_unique} unique ({n_naive / n_unique:.1f} times fewer)"
    )
    told = "" if by_trial else epochs
    console.print(f"{len(plan.trials)} trials{told}, {len(missing)} left to train")
    if missing and any(trial.undecided for trial in left.trials.values()):
        planned_as = "planned as long as in a seed that is finished, else at their longest"
        console.print(f"warm-ups that end at a plateau are {planned_as}")
    seconds, alone = (forecast(left.chains, planned.store, known, n) for n in (jobs, 1))
    console.print(_cost(missing, seconds, alone, jobs, by_trial))
    if planned.study.grid.looks:
        for line in _until_decided(untuned, known, jobs):
            console.print(line, highlight=False)
    for line in power_lines(planned.study, planned.places.root / "runs"):
        console.print(line, highlight=False)


def _until_decided(planned: PlannedStudy, known: Mapping[str, float], jobs: int) -> list[str]:
    """The looks of a study, and the most that it may take, if nothing is decided before the last.

    planned: with the arms' own settings, if they are to be tuned
    """
    grid = planned.study.grid
    looks = [n for n in grid.looks if n <= len(grid.seeds)]
    planner = UntilDecided(planned.study, planned.store, planned.folder)
    planner.due()
    if planner.is_over:
        return ["no more seeds are to be added"]
    if len(looks) == 1:
        return [f"that is all: it ends at the first of its looks, after {looks[0]} seeds"]
    longest = replace(planned, plan=planner.longest(planned.expected()))
    if planned.tuning is not None and not planned.tuning.is_finished:
        study, plan = study_at_most(planned.tuning, longest.plan)
        # those get the seeds of the first look alone
        first = grid.seeds[: looks[0]]
        trials = {
            name: trial
            for name, trial in plan.trials.items()
            if trial.spec.kind != UNTUNED or trial.spec.seed in first
        }
        longest = replace(longest, study=study, plan=Plan(trials))
    most = longest.expected()
    left = most.unfinished(planned.folder)
    missing = left.missing(planned.store)
    seconds = forecast(left.chains, planned.store, known, jobs)
    unique = "" if of_one_link(most.specs) else f"{len(most.unique())} unique epochs, "
    lines = [
        f"that is the least: the study looks at its results after {listed(list(map(str, looks)))} "
        "seeds, and adds seeds to the arms of what is not decided",
        f"at most, with {len(grid.seeds)} seeds: {len(most.trials)} trials, "
        f"{unique}{len(missing)} left to train",
    ]
    if seconds is not None:
        lines.append(f"forecast of the most: {duration(seconds)} of training with {jobs} jobs")
    return lines


def _show_search(
    console: Console,
    planned: PlannedStudy,
    tuning: Tuning,
    known: Mapping[str, float],
    jobs: int,
) -> PlannedStudy:
    """Print what the search of a study's arms will cost, and what of it is done.

    Returns the study after the search: if that is not finished, at its most.
    """
    search, costs = tuning.search, arm_costs(tuning)
    n_ended = sum(cost.n_ended for cost in costs.values())
    if tuning.is_finished:
        console.print(f"the search is finished: {n_ended} trials of {len(costs)} arms")
        return planned
    by_trial = of_one_link(planned.plan.specs)
    unit = "trials" if by_trial else "epochs"
    table = plain_table(["arm"], ["settings", "trials", "ended", f"{unit} at most", "left at most"])
    owned: set[str] = set()
    for name, cost in costs.items():
        own = {link.key for link in missing_links(cost.chains, planned.store)} - owned
        owned |= own
        n_trials = "by budget" if cost.n_trials is None else str(cost.n_trials)
        counts = (len(cost.settings), n_trials, cost.n_ended, cost.n_most, len(own))
        table.add_row(name, *map(str, counts))
    budget = f"{search.trials} trials" if search.trials else f"{search.budget} {unit}"
    how = f"{search.sampler}, pruner {search.pruner}, seeds {', '.join(map(str, search.seeds))}"
    what = f"{len(costs)} arms and baselines, {budget} each, on {search.metric['name']} ({how})"
    console.print(f"search of {what}", highlight=False)
    console.print(fitting(table, console))
    chains = {name: links for cost in costs.values() for name, links in cost.chains.items()}
    missing = missing_links(chains, planned.store)
    pruning = "pruning ends some of them early" if by_trial else "pruning makes it less"
    less = "" if search.pruner == "none" else f"; {pruning}"
    console.print(
        f"{n_ended} trials of the search have ended, at most {len(missing)} {unit} are left "
        f"to train{less}"
    )
    seconds, alone = (forecast(chains, planned.store, known, n) for n in (jobs, 1))
    console.print(_cost(missing, seconds, alone, jobs, by_trial, on_top="at most"))
    then = "with its best settings, and with its own where those are others"
    console.print(f"then, at most, each arm that was searched {then}:")
    study, plan = study_at_most(tuning, planned.plan)
    return replace(planned, study=study, plan=plan)


def _arms(planned: PlannedStudy, plan: Plan, missing: set[str]) -> Table:
    factors = [factor.name for factor in planned.study.grid.factors]
    by_trial = of_one_link(plan.specs)
    epochs = [] if by_trial else ["epochs", "of its own"]
    table = plain_table(["arm", *factors], ["trials", *epochs, "left to train"])
    owned: set[str] = set()
    for variant in planned.study.variants:
        chains = [trial.links for trial in plan.trials.values() if trial.spec.arm == variant.name]
        if not chains:
            continue
        own = {link.key for links in chains for link in links} - owned
        owned |= own
        n_epochs = [] if by_trial else [sum(map(len, chains)), len(own)]
        counts = (len(chains), *n_epochs, len(own & missing))
        levels = [variant.levels.get(factor, "") for factor in factors]
        table.add_row(variant.name, *levels, *map(str, counts))
    return table


def _phases(plan: Plan, missing: Sequence[LinkLike]) -> Table:
    """Where sharing saves: epochs by phase."""
    naive = Counter(link.phase for links in plan.chains.values() for link in links)
    unique = Counter(link.phase for link in plan.unique().values())
    left = Counter(link.phase for link in missing)
    table = plain_table(["phase"], ["epochs one by one", "unique", "times fewer", "left to train"])
    for phase, n in naive.items():
        fewer = f"{n / unique[phase]:.1f}"
        table.add_row(phase, str(n), str(unique[phase]), fewer, str(left[phase]))
    return table


def _forest(plan: Plan) -> Tree:
    """Where the arms part, under the first seed: a line for epochs that the same arms share."""
    seed = plan.specs[0].seed
    trials = {name: trial for name, trial in plan.trials.items() if trial.spec.seed == seed}
    tree = Tree(f"epochs of seed {seed}")
    branches: dict[str | None, Tree] = {None: tree}
    # Parents come before their children.
    for end, segment in segments(Plan(trials).chains).items():
        branches[end] = branches[segment.parent].add(_line(segment, trials))
    return tree


def _line(segment: Segment, trials: Mapping[str, PlannedTrial]) -> Text:
    """`warmup 21-30, joint 31-40: lr_split+warmup`; the arms are those that end there."""
    spans = []
    for phase, links in groupby(segment.links, lambda link: link.phase):
        first, *others = [link.epoch for link in links]
        spans.append(f"{phase} {first}\N{EN DASH}{others[-1]}" if others else f"{phase} {first}")
    ending = [name for name in segment.trials if trials[name].links[-1].key == segment.end]
    arms = ", ".join(trials[name].spec.arm for name in ending)
    return Text(f"{', '.join(spans)}: {arms}" if arms else ", ".join(spans))


def _cost(
    missing: Sequence[LinkLike],
    seconds: float | None,
    alone: float | None,
    jobs: int,
    by_trial: bool,
    on_top: str = "the report comes on top",
) -> str:
    if not missing:
        return "nothing is left to train"
    if by_trial and (seconds is None or alone is None):
        return "how long that takes is known once a first trial of this experiment has ended"
    if seconds is None or alone is None:
        cost = f"cost: about {sum(link.cost for link in missing):.0f} epochs of pre-training"
        return f"{cost}; in seconds, once a first epoch of this experiment has been measured"
    with_jobs = f"{duration(seconds)} of training with {jobs} jobs, {duration(alone)} with one"
    return f"forecast: {with_jobs}; {on_top}"


DONE, FAILED, RUNNING, BEGUN, WAITING = "done", "failed", "running", "begun", "waiting"


@dataclass
class ArmStatus:
    """One arm's or baseline's trials."""

    states: Counter[str] = field(default_factory=Counter)
    # that have a record
    epochs: int = 0
    epochs_planned: int = 0
    # epochs that no other trial before it in the plan computes
    left: int = 0
    # primary metric of those done
    finished: list[float] = field(default_factory=list)
    # (epoch, primary metric) last evaluated, of those begun
    current: list[tuple[int, float]] = field(default_factory=list)


def status_of(
    folder: RunFolder, in_hand: Collection[str] | None, plan: Plan | None = None
) -> dict[str, ArmStatus]:
    """The status of each arm and baseline, by name.

    in_hand: trials that workers compute now. A trial that has epochs and is not among them has
    begun, and waits for a worker or was interrupted. None: not known, and all that have begun are
    running. plan: whose trials they are; default: those of the study as it was run last.
    """
    manifest = folder.manifest()
    metric = manifest.metric["name"]
    arms: dict[str, ArmStatus] = {}
    for spec in plan.specs if plan else manifest.trials:
        arm = arms.setdefault(spec.arm, ArmStatus())
        outcome = folder.outcome(spec.trial)
        state = folder.state(spec, outcome)
        arm.epochs_planned += spec.epochs_planned
        if outcome is not None and state == "COMPLETE":
            arm.states[DONE] += 1
            arm.epochs += spec.epochs_planned
            arm.finished.append(outcome.metrics[metric])
            continue
        if state == "FAILED":
            arm.states[FAILED] += 1
            continue
        records = folder.records(spec.trial) if state == "RUNNING" else []
        is_running = bool(records) if in_hand is None else spec.trial in in_hand
        arm.states[RUNNING if is_running else BEGUN if records else WAITING] += 1
        # of own code, the epochs that it has reported so far are a part of its one link
        n = min(len(records), spec.epochs_planned) if spec.epochs_planned > 1 else 0
        arm.epochs += n
        arm.left += spec.epochs_trained - min(max(n - spec.epochs_shared, 0), spec.epochs_trained)
        evaluated = [
            (record["epoch"], record["metrics"][metric])
            for record in records
            if record["phase"] != "pretrain" and metric in record["metrics"]
        ]
        arm.current += evaluated[-1:]
    return arms


def describe_status(name: str, places: ProjectPaths, console: Console) -> None:
    """Print a row per arm, and below how far the study is and how long it still takes.

    Of a study whose arms are being tuned, that of its search comes first.
    """
    search, folder = places.runs(f"{name}{SUFFIX}"), places.runs(name)
    if name.endswith(SUFFIX) and folder.exists():
        _describe_search(folder, places, console)
        return
    if search.exists():
        _describe_search(search, places, console)
        if not folder.exists():
            tell(console, f"study {name} begins once its search is finished")
            return
    is_running = folder.is_being_run()
    note = read_note(places.progress(name)) if is_running else None
    changed = Changes() if is_running else changes_since(places, name)
    in_hand = (note.in_hand if note else None) if is_running else ()
    arms = status_of(folder, in_hand, changed.plan)
    metric = label(folder.manifest().metric["name"])
    headings = {DONE: DONE, RUNNING: RUNNING, BEGUN: BEGUN, WAITING: WAITING, FAILED: FAILED}
    if not is_running:
        del headings[RUNNING]
        headings[BEGUN] = "interrupted"
    by_trial = of_one_link(changed.plan.specs if changed.plan else folder.manifest().trials)
    is_under_way = any(row.current for row in arms.values())
    numbers = [*headings.values(), *([] if by_trial else ["epochs"]), metric]
    numbers += [f"{metric} so far"] if is_under_way else []
    table = plain_table(["arm"], numbers, title=f"study {name}")
    for arm, row in arms.items():
        table.add_row(
            arm,
            *(str(row.states[state] or "") for state in headings),
            *([] if by_trial else [f"{row.epochs}/{row.epochs_planned}"]),
            over_seeds(row.finished),
            *([_so_far(row.current)] if is_under_way else []),
        )
    console.print(fitting(table, console))
    n_left = sum(arm.left for arm in arms.values())
    if changed.plan:
        n_left = len(changed.plan.unfinished(folder).missing(places.store))
    tell(console, _summary(arms, n_left, is_running, note, by_trial))
    tell(console, changed.description)
    tell(console, other_seeds(folder))


def _describe_search(folder: RunFolder, places: ProjectPaths, console: Console) -> None:
    """Print a row per arm that is searched, and below whether the search is under way."""
    manifest, is_running = folder.manifest(), folder.is_being_run()
    metric, goal = manifest.metric["name"], manifest.metric["goal"]
    numbers = ["ended", "pruned", "failed", "open", f"best {label(metric)}"]
    table = plain_table(["arm"], numbers, title=f"search of study {manifest.search['of']}")
    n_ended = n_open = 0
    for arm, told in manifest.search["arms"].items():
        log = SearchLog(folder.path, arm, told["digest"])
        ended, best = log.ended(), log.best(goal)
        states = Counter(trial.state for trial in ended)
        counts = (len(ended), states[PRUNED], states[FAILED_TRIAL], len(log.open))
        table.add_row(arm, *map(str, counts), over_seeds([best.value]) if best else "")
        n_ended, n_open = n_ended + len(ended), n_open + len(log.open)
    console.print(fitting(table, console))
    note = read_note(places.progress(manifest.study)) if is_running else None
    state = "is under way" if is_running else "was interrupted" if n_open else "is not under way"
    parts = [f"the search {state}", f"{n_ended} trials have ended"]
    parts += [f"{n_open} are open"] if n_open else []
    left = time_left(note)
    parts += [f"{left} with what is asked for"] if left else []
    tell(console, "; ".join(parts))


def _summary(
    arms: Mapping[str, ArmStatus],
    n_left: int,
    is_running: bool,
    note: ProgressNote | None,
    by_trial: bool,
) -> str:
    states = sum((arm.states for arm in arms.values()), Counter[str]())
    failed = f", {states[FAILED]} failed" if states[FAILED] else ""
    unit = "" if by_trial else " epochs"
    parts = [f"{states[DONE]}/{states.total()} trials done{failed}; {n_left}{unit} left to train"]
    left = time_left(note)
    if note and left:
        parts.append(f"{left} with {note.jobs} job{'s' * (note.jobs > 1)}")
    elif is_running:
        measured = "a trial has ended" if by_trial else "epochs have been measured"
        parts.append(f"how long that takes is known once {measured}")
    elif states[WAITING] or states[BEGUN]:
        parts.append("not running: `ablate run` goes on where it stopped")
    return "; ".join(parts)


def _so_far(current: list[tuple[int, float]]) -> str:
    """`71.2 at epoch 35`, `71.2 ± 0.4 at epochs 30 to 35`."""
    if not current:
        return ""
    first, last = min(current)[0], max(current)[0]
    epochs = f"epochs {first} to {last}" if first < last else f"epoch {last}"
    return f"{over_seeds([metric for _, metric in current])} at {epochs}"

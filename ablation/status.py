"""How far a study has come, arm by arm, from its files: also while another process runs it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

from ablation.changes import NONE, changes_since
from ablation.formatting import label, over_seeds
from ablation.lock import being_run
from ablation.places import Places
from ablation.plan import Plan
from ablation.remaining import Left, about, read_left
from ablation.runs import RunFolder
from ablation.terminal import fitting

DONE, FAILED, RUNNING, BEGUN, WAITING = "done", "failed", "running", "begun", "waiting"


@dataclass
class ArmStatus:
    """One arm's or baseline's trials."""

    states: Counter[str] = field(default_factory=Counter)
    epochs: int = 0  # that are there
    epochs_planned: int = 0
    left: int = 0  # epochs that no other trial before it in the plan computes
    finished: list[float] = field(default_factory=list)  # headline metric of those done
    current: list[tuple[int, float]] = field(
        default_factory=list
    )  # (epoch, headline metric) last evaluated, of those begun


def status_of(
    folder: RunFolder, in_hand: Collection[str] | None, plan: Plan | None = None
) -> dict[str, ArmStatus]:
    """Arm -> its status.

    plan: whose trials they are; default: those of the study as it was run last.
    in_hand: trials that workers compute now. A trial that has epochs and is not among them has begun, and waits for
    a worker or was interrupted. None: not known, and all that have begun are running.
    """
    manifest = folder.manifest()
    metric, arms = manifest.metric["name"], {}
    for spec in plan.specs if plan else manifest.trials:
        arm = arms.setdefault(spec.arm, ArmStatus())
        outcome = folder.outcome(spec.trial)
        state = folder.state(spec, outcome)
        arm.epochs_planned += spec.epochs_planned
        if state in ("COMPLETE", "FAILED"):
            is_done = state == "COMPLETE"
            arm.states[DONE if is_done else FAILED] += 1
            arm.epochs += spec.epochs_planned * is_done
            arm.finished += [outcome.metrics[metric]] if is_done else []
            continue
        records = folder.records(spec.trial) if state == "RUNNING" else []
        is_running = bool(records) if in_hand is None else spec.trial in in_hand
        arm.states[RUNNING if is_running else BEGUN if records else WAITING] += 1
        n = min(len(records), spec.epochs_planned)
        arm.epochs += n
        arm.left += spec.epochs_trained - min(max(n - spec.epochs_shared, 0), spec.epochs_trained)
        evaluated = [
            record
            for record in records
            if record["phase"] != "pretrain" and metric in record["metrics"]
        ]
        arm.current += (
            [(evaluated[-1]["epoch"], evaluated[-1]["metrics"][metric])] if evaluated else []
        )
    return arms


def describe_status(name: str, places: Places, console: Console) -> None:
    """Print a table with a row per arm, and below it how far the study is and how long it still takes."""
    folder, is_running = places.runs(name), name in being_run(places.root / "runs")
    left = read_left(places.progress(name)) if is_running else None
    changed = NONE if is_running else changes_since(places, name)
    arms = status_of(folder, (left.in_hand if left else None) if is_running else (), changed.plan)
    metric = label(folder.manifest().metric["name"])
    states = [
        state for state in (DONE, RUNNING, BEGUN, WAITING, FAILED) if state != RUNNING or is_running
    ]
    table = Table("arm", title=f"study {name}", title_justify="left", box=None)
    for heading in (
        *(state if state != BEGUN or is_running else "interrupted" for state in states),
        "epochs",
        metric,
        f"{metric} so far",
    ):
        table.add_column(heading, justify="right")
    for arm, row in arms.items():
        counts = [str(row.states[state] or "") for state in states]
        table.add_row(
            arm,
            *counts,
            f"{row.epochs}/{row.epochs_planned}",
            over_seeds(row.finished),
            _so_far(row.current),
        )
    console.print(fitting(table, console))
    n_left = (
        len(changed.plan.unfinished(folder).missing(places.store))
        if changed.plan
        else sum(arm.left for arm in arms.values())
    )
    console.print(_summary(arms, n_left, is_running, left), highlight=False, soft_wrap=True)
    if changed.said:
        console.print(changed.said, markup=False, highlight=False, soft_wrap=True)


def _summary(arms: dict[str, ArmStatus], n_left: int, is_running: bool, left: Left | None) -> str:
    states = sum((arm.states for arm in arms.values()), Counter())
    failed = f", {states[FAILED]} failed" if states[FAILED] else ""
    parts = [f"{states[DONE]}/{states.total()} trials done{failed}; {n_left} epochs left to train"]
    if is_running and left is not None and left.seconds is not None:
        parts.append(
            f"{about(left.seconds, time.time() - left.at)} with {left.jobs} job{'s' * (left.jobs > 1)}"
        )
    elif is_running:
        parts.append("how long that takes is known once epochs have been measured")
    elif states[WAITING] or states[BEGUN]:
        parts.append("not running: `ablate run` goes on where it stopped")
    return "; ".join(parts)


def _so_far(current: list[tuple[int, float]]) -> str:
    """`71.2 at epoch 35`, `71.2 ± 0.4 at epochs 30 to 35`."""
    if not current:
        return ""
    first, last = min(current)[0], max(current)[0]
    return f"{over_seeds([metric for _, metric in current])} at epoch{f's {first} to' if first < last else ''} {last}"

"""Show a study's progress by arm, from its files; another process may be running it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from rich.console import Console

from ablation.console.live import ProgressNote, fitting, plain_table, read_note, tell, time_left
from ablation.formatting import label, over_seeds
from ablation.planning.plan import Plan
from ablation.storage.files import is_being_run
from ablation.storage.project import ProjectPaths
from ablation.storage.runs import RunFolder
from ablation.study.opening import Changes, changes_since

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
    # headline metric of those done
    finished: list[float] = field(default_factory=list)
    # (epoch, headline metric) last evaluated, of those begun
    current: list[tuple[int, float]] = field(default_factory=list)


def status_of(
    folder: RunFolder, in_hand: Collection[str] | None, plan: Plan | None = None
) -> dict[str, ArmStatus]:
    """Arm -> its status.

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
        n = min(len(records), spec.epochs_planned)
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
    """Print a row per arm, and below how far the study is and how long it still takes."""
    folder = places.runs(name)
    is_running = is_being_run(folder.path)
    note = read_note(places.progress(name)) if is_running else None
    changed = Changes() if is_running else changes_since(places, name)
    in_hand = (note.in_hand if note else None) if is_running else ()
    arms = status_of(folder, in_hand, changed.plan)
    metric = label(folder.manifest().metric["name"])
    headings = {DONE: DONE, RUNNING: RUNNING, BEGUN: BEGUN, WAITING: WAITING, FAILED: FAILED}
    if not is_running:
        del headings[RUNNING]
        headings[BEGUN] = "interrupted"
    numbers = [*headings.values(), "epochs", metric, f"{metric} so far"]
    table = plain_table(["arm"], numbers, title=f"study {name}")
    for arm, row in arms.items():
        table.add_row(
            arm,
            *(str(row.states[state] or "") for state in headings),
            f"{row.epochs}/{row.epochs_planned}",
            over_seeds(row.finished),
            _so_far(row.current),
        )
    console.print(fitting(table, console))
    n_left = sum(arm.left for arm in arms.values())
    if changed.plan:
        n_left = len(changed.plan.unfinished(folder).missing(places.store))
    tell(console, _summary(arms, n_left, is_running, note))
    tell(console, changed.said)


def _summary(
    arms: Mapping[str, ArmStatus], n_left: int, is_running: bool, note: ProgressNote | None
) -> str:
    states = sum((arm.states for arm in arms.values()), Counter[str]())
    failed = f", {states[FAILED]} failed" if states[FAILED] else ""
    parts = [f"{states[DONE]}/{states.total()} trials done{failed}; {n_left} epochs left to train"]
    left = time_left(note)
    if note and left:
        parts.append(f"{left} with {note.jobs} job{'s' * (note.jobs > 1)}")
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
    epochs = f"epochs {first} to {last}" if first < last else f"epoch {last}"
    return f"{over_seeds([metric for _, metric in current])} at {epochs}"

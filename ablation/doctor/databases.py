"""Checks of Optuna's and MLflow's databases: they are usable, and agree with the files.

Both are made of the files in runs/. So one that is no database (any more) is moved aside, and
filled anew.
"""

from __future__ import annotations

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from ablation.doctor.files import Check, CheckResult, here, named, place
from ablation.storage.files import put_aside
from ablation.storage.project import (
    BESIDE,
    PATIENCE_SECONDS,
    ProjectPaths,
    sqlite_file,
    why_unusable,
)
from ablation.storage.runs import Manifest, RunFolder
from ablation.tracking.ledger import LedgerUnavailable, ledger_differences, opened, update_ledger
from ablation.tracking.mlflow_arms import ArmContent, arm_contents
from ablation.tracking.mlflow_content import (
    FORMAT,
    FORMAT_VERSION,
    IN_GRID,
    TrialContent,
    fitted_name,
    status_of,
    trial_contents,
)
from ablation.tracking.mlflow_places import TrackingUnavailable, default_uri
from ablation.tracking.mlflow_store import StoredRun, experiments, look_up, reaching
from ablation.tracking.mlflow_sync import (
    DIGEST,
    STUDY,
    Agreement,
    Tracker,
    agreement,
    by_arm,
    by_trial,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient


HOPELESS = ("file is not a database", "malformed")
NONE = CheckResult("none yet")


def database_checks(places: ProjectPaths, running: Collection[str]) -> list[Check]:
    """The checks of the databases. running: studies that are being run."""

    def ledger() -> CheckResult:
        if not (places.root / ".ablate").is_dir():
            return NONE
        return _look(places.ledger_url, _open_ledger, running)

    def mlflow() -> CheckResult:
        return _look(default_uri(), lambda uri: experiments(uri, 1), running)

    return [Check("Optuna's database", ledger), Check("MLflow's database", mlflow)]


def study_checks(places: ProjectPaths, folder: RunFolder, manifest: Manifest) -> list[Check]:
    """Whether Optuna and MLflow hold a study's trials as the files have them."""
    return [
        Check("Optuna", lambda: _compare(places.ledger_url, folder, manifest)),
        Check("MLflow", lambda: _look_at_runs(places, folder, manifest)),
    ]


def _look(url: str, reach: Callable[[str], object], running: Collection[str]) -> CheckResult:
    path = sqlite_file(url)
    if path is not None and not path.exists():
        return NONE
    if path is not None and (why := why_unusable(path) or _unsound(path)):
        what, move = f"{place(url)}: {why}", "moves it aside, and fills another from runs/"
        if not any(cause in why for cause in HOPELESS):
            remedy = "end the program that holds it, or let it be written to, and look again"
            return CheckResult(what, False, remedy)
        if running:
            return CheckResult(what, False, f"once no study is being run, --repair {move}")
        return CheckResult(what, False, move, lambda: _move_aside(path))
    try:
        reach(url)
    except (LedgerUnavailable, TrackingUnavailable) as error:
        return CheckResult(str(error), False, "see what it says")
    return CheckResult(f"{place(url)} {'can be written to, and is sound' if path else 'answers'}")


def _open_ledger(url: str) -> None:
    with opened(url):
        pass


def _unsound(path: Path) -> str | None:
    with closing(sqlite3.connect(path, timeout=PATIENCE_SECONDS)) as connection:
        try:
            (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        except sqlite3.Error as error:
            return str(error)
    return None if verdict == "ok" else f"malformed: {verdict.splitlines()[-1]}"


def _move_aside(path: Path) -> str:
    aside = put_aside(path)
    for suffix in BESIDE:
        beside = path.with_name(path.name + suffix)
        if beside.exists():
            beside.rename(aside.with_name(aside.name + suffix))
    return f"moved to {aside.name}"


def _compare(url: str, folder: RunFolder, manifest: Manifest) -> CheckResult:
    try:
        differing = ledger_differences(url, manifest, folder)
    except LedgerUnavailable as error:
        remedy = f"see Optuna's database above; then `ablate sync {manifest.study}`"
        return CheckResult(str(error), False, remedy)
    if not differing:
        return CheckResult(f"{place(url)} has the trials that have ended as the files have them")

    def mend() -> str:
        update_ledger(url, folder, is_running=False)
        return "now as the files have it"

    what = f"in {place(url)}: trials that are not as in the files, {named(differing)}"
    return CheckResult(what, False, f"brings it up to the files in {here(folder.path)}", mend)


MISSING, LACKING = "that are missing", "with fewer points than the files"


def _look_at_runs(places: ProjectPaths, folder: RunFolder, manifest: Manifest) -> CheckResult:
    uri, name = default_uri(), manifest.study
    trials = trial_contents(folder, manifest, is_running=False)
    try:
        with reaching(uri):
            client, runs = look_up(uri, name)
            found = by_trial(runs)
            arms = by_arm(arm_contents(manifest, trials, is_running=False))
            differing = _differing(client, found, trials, arms)
    except TrackingUnavailable as error:
        return CheckResult(
            str(error), False, f"see MLflow's database above; then `ablate sync {name}`"
        )
    if not differing:
        return CheckResult(f"{place(uri)} has every run, with its status and all points")
    what = "; ".join(f"runs {kind}, {named(names)}" for kind, names in differing.items())

    def mend() -> str:
        """Delete the runs that lack points, and import the study as `ablate sync` does."""
        with reaching(uri):
            for trial in differing.get(LACKING, ()):
                client.delete_run(found[trial][0].run_id)
        Tracker(uri).sync(folder, places.report(name), is_running=False)
        return "now as the files have it"

    remedy = f"brings it up to the files in {here(folder.path)}"
    return CheckResult(f"in {place(uri)}: {what}", False, remedy, mend)


def _differing(
    client: MlflowClient,
    found: Mapping[str, Sequence[StoredRun]],
    trials: Sequence[TrialContent],
    arms: Mapping[str, ArmContent],
) -> dict[str, list[str]]:
    """What is wrong in MLflow -> the trials, or the arms' means, of whose runs it is true."""
    differing: dict[str, list[str]] = defaultdict(list)
    for name, runs in found.items():
        if len(runs) > 1:
            differing["that are there twice"].append(name)
    first = {name: runs[0] for name, runs in found.items()}
    if STUDY not in first:
        differing[MISSING].append(STUDY)
    elif why := _wrong_status(first[STUDY], status_of(trials, is_running=False)):
        differing[why].append(STUDY)
    for trial in trials:
        run = first.pop(trial.name, None)
        if run is None and trial.has_begun:
            differing[MISSING].append(trial.name)
        elif run is not None and (why := _wrong(client, run, trial)):
            differing[why].append(trial.name)
    for name, arm in arms.items():
        run = first.pop(name, None)
        if run is None:
            differing[MISSING].append(name)
        elif (run.tags.get(DIGEST), run.tags.get(IN_GRID)) != (arm.digest, "yes"):
            differing["of other results than the files'"].append(name)
        elif why := _wrong_status(run, arm.status):
            differing[why].append(name)
    for name, run in first.items():
        if name != STUDY and (run.tags.get(IN_GRID) != "no" or run.status == "RUNNING"):
            differing["of trials that have left the grid, and are not said to"].append(name)
    return differing


def _wrong(client: MlflowClient, run: StoredRun, trial: TrialContent) -> str:
    """What is wrong with a trial's run; "" if nothing is."""
    found, status = agreement(run, trial), _wrong_status(run, trial.status)
    # an ended run whose outcome is lost is kept until the trial is run again
    is_kept = run.has_ended and trial.outcome is None
    if found is Agreement.OTHER and run.tags.get(FORMAT) != FORMAT_VERSION:
        return "written by another version of ablate"
    if found is Agreement.OTHER and not (status and run.tags.get(DIGEST) == trial.digest):
        return "of what the trial was before"
    if status and not is_kept:
        return status
    if run.tags.get(IN_GRID) == "no":
        return "said to have left the grid"
    is_behind = found is Agreement.BEHIND or _lacks_points(client, run, trial)
    return LACKING if is_behind else ""


def _wrong_status(run: StoredRun, wanted: str) -> str:
    return "" if run.status == wanted else f"with the status {run.status}, and {wanted} is right"


def _lacks_points(client: MlflowClient, run: StoredRun, trial: TrialContent) -> bool:
    """Whether MLflow has fewer values of a metric than the files of a trial that has ended."""
    if trial.outcome is None:
        return False
    points = trial.points(run.start, n_logged=0, columns=())
    counts = Counter(fitted_name(point.name) for point in points)
    return any(len(client.get_metric_history(run.run_id, name)) < n for name, n in counts.items())

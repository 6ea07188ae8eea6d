"""Whether MLflow holds of a study what its files hold."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ablation.doctor.check import Check, Found, here, named, place
from ablation.storage.project import Places
from ablation.storage.runs import Manifest, RunFolder
from ablation.tracking.mlflow_content import TrialContent, trial_contents
from ablation.tracking.mlflow_names import fitted_name
from ablation.tracking.mlflow_store import (
    StoredRun,
    TrackingUnavailable,
    default_uri,
    look_up,
    reaching,
)
from ablation.tracking.mlflow_sync import (
    DIGEST,
    IN_GRID,
    STUDY,
    Standing,
    Tracker,
    by_trial,
    standing,
    status_of_study,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

MISSING, LACKING = "that are missing", "with fewer points than the files"


def tracking_check(places: Places, folder: RunFolder, manifest: Manifest) -> Check:
    return Check("MLflow", lambda: _look(places, folder, manifest))


def _look(places: Places, folder: RunFolder, manifest: Manifest) -> Found:
    uri, name = default_uri(), manifest.study
    trials = trial_contents(folder, manifest, is_running=False)
    try:
        with reaching(uri):
            client, runs = look_up(uri, name)
            found = by_trial(runs)
            differing = _differing(client, found, trials)
    except TrackingUnavailable as error:
        return Found(str(error), False, f"see MLflow's database above; then `ablate sync {name}`")
    if not differing:
        return Found(f"{place(uri)} has every run, with its status and all points")
    what = "; ".join(f"runs {kind}, {named(names)}" for kind, names in differing.items())

    def mend() -> str:
        """Delete the runs that lack points, and import the study as `ablate sync` does."""
        with reaching(uri):
            for trial in differing.get(LACKING, ()):
                client.delete_run(found[trial][0].run_id)
        Tracker(uri).sync(folder, places.report(name), is_running=False)
        return "now as the files have it"

    remedy = f"brings it up to the files in {here(folder.path)}"
    return Found(f"in {place(uri)}: {what}", False, remedy, mend)


def _differing(
    client: MlflowClient, found: Mapping[str, Sequence[StoredRun]], trials: Sequence[TrialContent]
) -> dict[str, list[str]]:
    """What is wrong in MLflow -> the trials of whose runs it is true."""
    differing: dict[str, list[str]] = defaultdict(list)
    for name, runs in found.items():
        if len(runs) > 1:
            differing["that are there twice"].append(name)
    first = {name: runs[0] for name, runs in found.items()}
    if STUDY not in first:
        differing[MISSING].append(STUDY)
    elif why := _wrong_status(first[STUDY], status_of_study(trials, is_running=False)):
        differing[why].append(STUDY)
    for trial in trials:
        run = first.pop(trial.name, None)
        if run is None and trial.has_begun:
            differing[MISSING].append(trial.name)
        elif run is not None and (why := _wrong(client, run, trial)):
            differing[why].append(trial.name)
    for name, run in first.items():
        if name != STUDY and (run.tags.get(IN_GRID) != "no" or run.status == "RUNNING"):
            differing["of trials that have left the grid, and are not said to"].append(name)
    return differing


def _wrong(client: MlflowClient, run: StoredRun, trial: TrialContent) -> str:
    """What is wrong with a trial's run; "" if nothing is."""
    found, status = standing(run, trial), _wrong_status(run, trial.status)
    is_kept = run.has_ended and trial.outcome is None  # until the trial is run again
    if found is Standing.OTHER and not (status and run.tags.get(DIGEST) == trial.digest):
        return "of what the trial was before"
    if status and not is_kept:
        return status
    if IN_GRID in run.tags:
        return "said to have left the grid"
    is_behind = found is Standing.BEHIND or _lacks_points(client, run, trial)
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

"""Whether MLflow holds of a study what its files hold."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ablation.doctor_check import Check, Found, here, named, place
from ablation.places import Places
from ablation.runs import Manifest, Outcome, RunFolder
from ablation.tracking import IN_GRID, STATUS, Tracker, ended_at, metric_names
from ablation.tracking_content import Point, outcome_points, record_points
from ablation.tracking_names import Names
from ablation.tracking_store import (
    N_RECORDS,
    MlflowClient,
    Store,
    StoredRun,
    TrackingUnavailable,
    default_uri,
    look_up,
    reaching,
)

FEWER = "with fewer points than the files"


@dataclass
class _Difference:
    """What in MLflow is not as in the files."""

    runs: dict[str, list[str]] = field(
        default_factory=lambda: defaultdict(list)
    )  # kind -> trials, or the parent's name
    incomplete: list[StoredRun] = field(
        default_factory=list
    )  # runs whose points must be logged again


def tracking_check(places: Places, folder: RunFolder, manifest: Manifest) -> Check:
    return Check("MLflow", lambda: _look(places, folder, manifest))


def _look(places: Places, folder: RunFolder, manifest: Manifest) -> Found:
    uri = default_uri()
    try:
        with reaching(uri):
            found = _difference(uri, folder, manifest)
    except TrackingUnavailable as error:
        return Found(
            str(error), False, f"see MLflow's database above; then `ablate sync {manifest.study}`"
        )
    if not found.runs:
        return Found(f"{place(uri)} has every run, with its status and all points")
    what = "; ".join(f"runs {kind}, {named(runs)}" for kind, runs in found.runs.items())
    remedy = f"brings it up to the files in {here(folder.path)}"
    return Found(
        f"in {place(uri)}: {what}",
        False,
        remedy,
        lambda: _mend(uri, places, folder, manifest, found),
    )


def _difference(uri: str, folder: RunFolder, manifest: Manifest) -> _Difference:
    client, runs = look_up(uri, manifest.study)
    difference, by_trial = _Difference(), defaultdict(list)
    for run in runs:
        by_trial[run.tags.get("trial", "")].append(run)
    outcomes = {spec.trial: folder.outcome(spec.trial) for spec in manifest.trials}
    parents = [run for run in by_trial.pop("", []) if run.tags.get("kind") == "study"]
    names = metric_names(uri, folder, outcomes, outcomes)
    damaged = {
        spec.trial for spec in manifest.trials if folder.damage(spec.trial)
    }  # not known what MLflow should hold of them
    _compare_parent(
        difference,
        manifest,
        parents,
        all(outcome or trial in damaged for trial, outcome in outcomes.items()),
    )
    for spec in manifest.trials:
        found, outcome = by_trial.pop(spec.trial, []), outcomes[spec.trial]
        records = folder.records(spec.trial)
        if len(found) > 1:
            difference.runs["that are there twice"].append(spec.trial)
        if not found:
            if records or outcome:
                difference.runs["that are missing"].append(spec.trial)
            continue
        run = found[0]
        if run.tags.get("key") != spec.key or (
            outcome and run.end not in (None, ended_at(run, outcome))
        ):
            difference.runs["of what the trial was before"].append(spec.trial)
            continue
        expected = STATUS[outcome.state] if outcome else "KILLED"
        if run.status != expected and not (
            outcome is None and run.end is not None
        ):  # kept until it is run again
            difference.runs[f"with the status {run.status}, and {expected} is right"].append(
                spec.trial
            )
        if IN_GRID in run.tags:
            difference.runs["said to have left the grid"].append(spec.trial)
        if (
            run.end is not None
            and outcome
            and spec.trial not in damaged
            and _lacks_points(client, run, records, outcome, names)
        ):
            difference.runs[FEWER].append(spec.trial)
            difference.incomplete.append(run)
    for trial, left in by_trial.items():
        if any(run.tags.get(IN_GRID) != "no" or run.status == "RUNNING" for run in left):
            difference.runs["of trials that have left the grid, and are not said to"].append(trial)
    return difference


def _compare_parent(
    difference: _Difference, manifest: Manifest, parents: list[StoredRun], has_ended: bool
) -> None:
    if not parents:
        difference.runs["that are missing"].append("the study's own")
        return
    if len(parents) > 1:
        difference.runs["that are there twice"].append("the study's own")
    expected = "FINISHED" if has_ended else "KILLED"
    if parents[0].status != expected:
        difference.runs[f"with the status {parents[0].status}, and {expected} is right"].append(
            "the study's own"
        )


def _lacks_points(
    client: MlflowClient,
    run: StoredRun,
    records: list[dict[str, Any]],
    outcome: Outcome,
    names: Names,
) -> bool:
    """Whether MLflow lacks any (metric, step) that the files have."""
    steps: dict[str, Counter[int]] = defaultdict(Counter)
    points: Iterable[Point] = [*record_points(records, 0, 0), *outcome_points(records, outcome, 0)]
    for point in points:
        steps[names.of(point.name)][point.step] += 1
    return any(
        wanted - Counter(point.step for point in client.get_metric_history(run.run_id, name))
        for name, wanted in steps.items()
    )


def _mend(
    uri: str, places: Places, folder: RunFolder, manifest: Manifest, difference: _Difference
) -> str:
    tracker = Tracker(uri)
    with reaching(uri):
        store = Store(uri, None, manifest.study) if difference.incomplete else None
        for run in difference.incomplete:  # MLflow drops the points that it has
            store.log(run, tags={N_RECORDS: "0"})
            store.show_whether_running(run, is_running=True)
    tracker.sync(folder, places.report(manifest.study), is_running=False)
    return "now as the files have it"

"""MLflow as the record of a study: imports the files of `runs/<study>/`, as often as one likes.

One experiment per study; in it one parent run for the study, and below it one run per trial that has begun. A run
that was interrupted is KILLED until it goes on; one of a trial that is in the grid no more is tagged so.
MLflow itself is the only memory of what has been imported (a run's `key`, its status, and the number of its
records in a tag), so that nothing is logged twice, whatever was lost or interrupted, and whoever imports.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ablation.places import report_files
from ablation.runs import Manifest, Outcome, RunFolder, TrialSpec
from ablation.tracking_content import (
    Labels,
    begun_at,
    blank_points,
    measures_again,
    milliseconds,
    outcome_points,
    outcome_tags,
    record_points,
    study_points,
    study_tags,
    trial_labels,
)
from ablation.tracking_names import MAX_PARAM, MAX_TAG, Names, fitted_texts
from ablation.tracking_store import (
    ARTIFACTS,
    DIGEST,
    N_RECORDS,
    PARENT,
    MlflowException,
    Store,
    StoredRun,
    default_uri,
    is_refusal,
    is_server,
    reaching,
)

REPORT = "ablate.report"  # tag: a digest of the report's files
IN_GRID = "ablate.in_grid"  # tag: `no` of trials that have left the grid, absent of others
STATUS = {"COMPLETE": "FINISHED", "FAILED": "FAILED"}
Outcomes = Mapping[str, Outcome | None]


class Synced(NamedTuple):
    """What an import changed in MLflow; all zero if it had everything."""

    n_created: int = 0  # runs of trials
    n_replaced: int = 0  # runs deleted because their trial has other settings now, or was run again
    n_points: int = 0  # metric values
    n_ended: int = 0  # runs of trials that got their final status

    def plus(self, other: Synced) -> Synced:
        return Synced(*(mine + its for mine, its in zip(self, other)))


@dataclass
class _Study:
    """A study in MLflow."""

    store: Store
    parent: StoredRun
    trials: dict[str, StoredRun]
    metrics: Names = field(default_factory=Names)
    columns: frozenset[str] = frozenset()  # the metrics that results.csv has of complete trials


class Tracker:
    """Imports studies into the MLflow at `tracking_uri`, else MLFLOW_TRACKING_URI, else ./mlflow.db.

    `artifact_root` is where artifacts of new studies go, a path or URI; by default ./mlartifacts, or wherever an
    MLflow server puts them.
    """

    def __init__(self, tracking_uri: str | None = None, artifact_root: Path | str | None = None):
        self.uri = tracking_uri or default_uri()
        self._artifact_root = artifact_root or (
            None if is_server(self.uri) else Path(ARTIFACTS).absolute()
        )
        self._studies: dict[str, _Study] = {}

    def sync(
        self, folder: RunFolder, reports: Path | None = None, is_running: bool = True
    ) -> Synced:
        """Bring MLflow up to the files of a study, and of its report in the folder `reports`.

        is_running: whether any process runs the study; if none does, no run stays RUNNING.

        Raises:
            TrackingUnavailable: nothing is lost; a later call delivers the rest.
            TrackingRefused: MLflow does not take something, or a person has deleted the experiment; all else is delivered.
        """
        manifest = folder.manifest()
        outcomes = {spec.trial: folder.outcome(spec.trial) for spec in manifest.trials}
        labels = fitted_labels(manifest, self.uri)
        known = self._studies.pop(
            manifest.study, None
        )  # put back if all goes well: else MLflow is asked anew
        synced = Synced()
        with reaching(self.uri):
            study = known or self._open(manifest, outcomes)
            logged = [
                spec.trial for spec in manifest.trials
                if (run := study.trials.get(spec.trial)) is None or run.end is None
                or not _continues(run, spec, outcomes[spec.trial], labels[spec.trial], is_running)
            ]  # fmt: skip
            study.metrics = metric_names(self.uri, folder, outcomes, logged)
            study.columns = frozenset(
                name for outcome in outcomes.values() if outcome for name in outcome.metrics
            )
            refused = []
            for spec in manifest.trials:
                if (
                    known
                    and spec.trial not in study.trials
                    and folder.state(spec, outcomes[spec.trial]) != "WAITING"
                ):
                    study.trials |= _trials(
                        study.store, f"tags.key = '{spec.key}'"
                    )  # another import may be at work
                try:
                    synced = synced.plus(
                        _bring_trial(
                            study,
                            folder,
                            spec,
                            outcomes[spec.trial],
                            labels[spec.trial],
                            is_running,
                        )
                    )
                except MlflowException as error:
                    if not is_refusal(error):
                        raise
                    refused.append(error)  # the others are taken
            _leave(study, manifest)
            _bring_study(study, manifest, outcomes, reports, is_running)
            if refused:
                raise refused[0]
        self._studies[manifest.study] = study
        return synced

    def _open(self, manifest: Manifest, outcomes: Outcomes) -> _Study:
        store = Store(self.uri, self._artifact_root, manifest.study)
        parent, *surplus = list(store.runs("tags.kind = 'study'")) or [None]
        for run in surplus:  # of two imports at once; their trials get the first one as parent
            store.delete(run)
        if parent is None:
            starts = [
                begun_at(outcome) for outcome in outcomes.values() if outcome and outcome.started
            ]
            tags = fitted_texts("tag", study_tags(manifest, outcomes), MAX_TAG)
            name = f"{manifest.study} on {manifest.experiment}"
            parent = store.create(name, min(starts, default=_now()), tags)
        return _Study(store, parent, _trials(store))


def fitted_labels(manifest: Manifest, uri: str) -> dict[str, Labels]:
    """Trial -> its labels, as MLflow takes them."""
    found = trial_labels(manifest)
    params = Names.fitted(
        "settings", (key for labels in found.values() for key in labels.params), uri
    )
    tags = Names.fitted("factors", (key for labels in found.values() for key in labels.tags), uri)

    def fitted(labels: Labels) -> Labels:
        texts = (
            fitted_texts("setting", labels.params, MAX_PARAM),
            fitted_texts("tag", labels.tags, MAX_TAG),
        )
        return Labels(
            *(
                {names.of(key): text for key, text in found.items()}
                for names, found in zip((params, tags), texts)
            )
        )

    return {trial: fitted(labels) for trial, labels in found.items()}


def metric_names(uri: str, folder: RunFolder, outcomes: Outcomes, trials: Iterable[str]) -> Names:
    """What metrics are called in MLflow: those of all outcomes, and of the records of these trials."""
    names = {
        point.name
        for outcome in outcomes.values()
        if outcome
        for point in outcome_points([], outcome, 0)
    }
    for trial in trials:
        names |= {point.name for point in record_points(folder.records(trial), 0, 0)}
    return Names.fitted("metrics", names, uri)


def _trials(store: Store, filter_string: str = "") -> dict[str, StoredRun]:
    """The runs of trials; where two imports at once made two of one, the first."""
    trials: dict[str, StoredRun] = {}
    for run in list(
        store.runs(filter_string)
    ):  # pages are counted from the start: none may go between two of them
        if "trial" in run.tags and trials.setdefault(run.tags["trial"], run) is not run:
            store.delete(run)
    return trials


def _bring_trial(
    study: _Study,
    folder: RunFolder,
    spec: TrialSpec,
    outcome: Outcome | None,
    labels: Labels,
    is_running: bool,
) -> Synced:
    """Bring one trial's run up to its files."""
    run = study.trials.get(spec.trial)
    labels = labels._replace(tags={PARENT: study.parent.run_id, **labels.tags})
    continues = run is not None and _continues(run, spec, outcome, labels, is_running)
    if continues:
        study.store.untag(run, IN_GRID)
    if continues and run.end is not None:
        study.store.log(run, (), labels.params, labels.tags)  # nothing, unless the study has grown
        return Synced()
    records = folder.records(spec.trial)
    replaces = run is not None and not (
        continues
        and (outcome is None or run.n_records <= len(records))
        and _holds_the_same(run, records)
    )
    if replaces:
        study.store.delete(study.trials.pop(spec.trial))
    creates = spec.trial not in study.trials
    if creates and not records and outcome is None:
        return Synced(n_replaced=replaces)
    if creates:
        run = study.trials[spec.trial] = study.store.create(
            spec.trial, _start(folder, spec, outcome), labels.tags
        )
    n_points = _log_records(study, run, records, outcome, labels)
    if outcome is not None:
        _attach_files(study.store, run, folder.trial_path(spec.trial), outcome)
        study.store.finish(
            run, STATUS[outcome.state], ended_at(run, outcome)
        )  # last: an ended run has everything
    elif records or not is_running:
        study.store.show_whether_running(run, is_running)
    return Synced(creates, replaces, n_points, outcome is not None)


def _continues(
    run: StoredRun, spec: TrialSpec, outcome: Outcome | None, labels: Labels, is_running: bool
) -> bool:
    """Whether the run is of this trial with these settings, and, if it has ended, of this outcome and no earlier one.

    MLflow never lets a param change, so a run with another value under one of the names cannot be kept either. Where
    the files have no outcome (any more), a run that has ended is kept until the trial is run again.
    """
    if run.tags["key"] != spec.key or any(
        run.params.get(key, value) != value for key, value in labels.params.items()
    ):
        return False
    return run.end is None or (
        not is_running if outcome is None else run.end == ended_at(run, outcome)
    )


def _holds_the_same(run: StoredRun, records: list[dict[str, Any]]) -> bool:
    """Whether what the run holds of the epochs is what the files hold, as far as that can be told: an epoch may have been replaced."""
    logged = records[: run.n_records]
    if measures_again(records, run.n_records):  # what was logged of it is no longer so
        return False
    return (
        len(logged) < run.n_records or not logged or run.tags.get(DIGEST) in (None, _digest(logged))
    )


def _digest(records: list[dict[str, Any]]) -> str:
    """Of which epochs they are and what was measured, times aside."""
    told = [(record["phase"], record["epoch"], record["metrics"]) for record in records]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def _leave(study: _Study, manifest: Manifest) -> None:
    """Tell the runs of trials that are in the grid no more; they stay."""
    left = study.trials.keys() - {spec.trial for spec in manifest.trials}
    for run in (study.trials[trial] for trial in sorted(left)):
        study.store.log(run, tags={PARENT: study.parent.run_id, IN_GRID: "no"})
        if run.end is None:
            study.store.show_whether_running(run, is_running=False)


def _log_records(
    study: _Study,
    run: StoredRun,
    records: list[dict[str, Any]],
    outcome: Outcome | None,
    labels: Labels,
) -> int:
    points = list(record_points(records, run.start, run.n_records))
    tags = labels.tags | (fitted_texts("tag", outcome_tags(outcome), MAX_TAG) if outcome else {})
    if len(records) >= run.n_records:  # an interrupted trial may begin with fewer
        tags |= {N_RECORDS: str(len(records)), DIGEST: _digest(records)}
    if outcome is not None:
        end = ended_at(run, outcome)
        points += outcome_points(records, outcome, end)
        after = 1 + max(
            end, run.start + sum(round(1000 * record.get("seconds", 0.0)) for record in records)
        )
        points += blank_points(records, outcome, study.columns, after)
    points = [point._replace(name=study.metrics.of(point.name)) for point in points]
    study.store.log(run, points, labels.params, tags)
    return len(points)


def _attach_files(store: Store, run: StoredRun, path: Path, outcome: Outcome) -> None:
    for name in ("config.yaml", "metrics.jsonl", "stdout.log"):
        if (path / name).is_file():
            store.attach(run, path / name)
    if outcome.error:
        store.attach_text(run, outcome.error["traceback"], "error.txt")


def _bring_study(
    study: _Study, manifest: Manifest, outcomes: Outcomes, reports: Path | None, is_running: bool
) -> None:
    """Bring the parent run up to the manifest, the outcomes and the report."""
    store, parent = study.store, study.parent
    ends = [
        ended_at(study.trials[trial], outcome)
        for trial, outcome in outcomes.items()
        if outcome and trial in study.trials
    ]
    end = max(ends, default=parent.start)
    points = [
        point
        for point in study_points(manifest, outcomes, end)
        if parent.metrics.get(point.name) != point.value
    ]
    store.log(parent, points, tags=fitted_texts("tag", study_tags(manifest, outcomes), MAX_TAG))
    paths = report_files(reports) if reports else []
    digest = hashlib.sha256(
        b"".join(path.name.encode() + path.read_bytes() for path in paths)
    ).hexdigest()[:16]
    if paths and parent.tags.get(REPORT) != digest:
        for path in paths:
            inside = path.relative_to(reports).parent
            store.attach(parent, path, None if inside == Path(".") else str(inside))
        store.log(parent, tags={REPORT: digest})
    if len(ends) == len(manifest.trials):
        if parent.end != end:
            store.finish(parent, "FINISHED", end)
    else:
        store.show_whether_running(parent, is_running)


def _start(folder: RunFolder, spec: TrialSpec, outcome: Outcome | None) -> int:
    """When the trial started, as far as is known while it runs: when its first file was written."""
    if outcome and outcome.started:
        return begun_at(outcome)
    return min(
        (round(1000 * path.stat().st_mtime) for path in folder.trial_path(spec.trial).iterdir()),
        default=_now(),
    )


def ended_at(run: StoredRun, outcome: Outcome) -> int:
    """When a trial of this outcome ended, as MLflow counts."""
    return milliseconds(outcome.finished) or run.start + round(1000 * outcome.wall_seconds)


def _now() -> int:
    return round(1000 * time.time())

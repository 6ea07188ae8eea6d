"""Import the files of `runs/<study>/` into MLflow; a second import changes nothing.

One experiment per study; in it one parent run for the study, and below it one run per trial that
has begun, and one per arm with its means over seeds. A run that was interrupted is KILLED until it
goes on; one whose trial has left the grid has a tag that says so.

MLflow itself is the only memory of what has been imported: a run's tags hold the number of its
records and their digest; once it has ended, the digest of its outcome. If the files only go on from
there, the rest is logged. A run that differs otherwise is deleted, which MLflow can undo, and
logged anew.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path

from ablation.storage.project import report_files
from ablation.storage.runs import Manifest, RunFolder
from ablation.tracking.mlflow_arms import FIRST_KEY, SUMMARY, ArmContent, arm_contents
from ablation.tracking.mlflow_content import (
    FORMAT,
    FORMAT_VERSION,
    IN_GRID,
    MAX_NAME,
    Point,
    TrialContent,
    fitted_names,
    fitted_text,
    now,
    record_points,
    records_digest,
    short_digest,
    status_of,
    study_points,
    study_tags,
    trial_contents,
)
from ablation.tracking.mlflow_places import default_uri, is_server, settle
from ablation.tracking.mlflow_store import (
    StoredRun,
    find_runs,
    is_refusal,
    open_experiment,
    reaching,
)
from ablation.tracking.mlflow_views import ARMS, SHARED, address_of, links, view_tags

# Only now, since the module above sets what MLflow reads when it is imported.
# isort: split
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

# MLflow's own tags
PARENT, NOTE = "mlflow.parentRunId", "mlflow.note.content"
# tag: how many of a trial's records are logged, or of an arm's complete trials
N_RECORDS = "ablate.records"
# tag: of these records, or of the outcome; of the parent's metrics
DIGEST = "ablate.digest"
# tag: of the report's files
REPORT = "ablate.report"
# tag: of the experiment's views
VIEWS = "ablate.views"
# of metrics, params and tags that MLflow logs by one call; it takes no more than 100 params or tags
ONE_BATCH = 100
# artifact of a trial
PER_CLASS = "per_class.csv"
# the study's own run, in place of a trial's name; an arm's
STUDY, ARM = "the study's own", "means of {}"


class Agreement(Enum):
    """Whether a trial's run in MLflow agrees with the trial's files."""

    SAME = "it holds what they hold"
    BEHIND = "they go on from what it holds"
    OTHER = "it holds something else"


def agreement(run: StoredRun, trial: TrialContent) -> Agreement:
    """Compare a run with its trial; the status of a run that has not ended is not compared.

    MLflow never lets a param change, so a run with another value of a param is another one. Where
    the files have less than the run (a damaged file, a trial that is taken up again), it stays
    until they have as much.
    """
    if run.tags.get("key") != trial.spec.key or any(
        run.params.get(name, text) != text for name, text in trial.params.items()
    ):
        return Agreement.OTHER
    is_of_format = run.tags.get(FORMAT) == FORMAT_VERSION
    if run.has_ended:
        if trial.outcome is None:
            return Agreement.OTHER if trial.is_running else Agreement.SAME
        held = (run.status, run.end, run.tags.get(DIGEST))
        is_same = is_of_format and held == (trial.status, trial.end(run.start), trial.digest)
        return Agreement.SAME if is_same else Agreement.OTHER
    if trial.outcome is not None and not is_of_format:
        return Agreement.OTHER
    if trial.outcome is not None and run.tags.get(DIGEST) == trial.digest:
        # Its end is being delivered by another process, or a delivery of it was broken off.
        return Agreement.BEHIND
    n_logged = int(run.tags.get(N_RECORDS, 0))
    logged = trial.records[:n_logged]
    if len(logged) < n_logged and trial.outcome is None:
        return Agreement.SAME
    points = record_points(logged, run.start).items()
    if (
        not is_of_format
        or run.tags.get(DIGEST, records_digest([])) != records_digest(logged)
        # A metric that was logged has been measured again in its epoch.
        or not points <= record_points(trial.records, run.start).items()
    ):
        return Agreement.OTHER
    has_more = trial.outcome is not None or n_logged < len(trial.records)
    return Agreement.BEHIND if has_more else Agreement.SAME


def by_trial(runs: Iterable[StoredRun]) -> dict[str, list[StoredRun]]:
    """Trial, STUDY or ARM -> its runs: more than one where two imports worked at once.

    Runs that others have logged are left out.
    """
    found = defaultdict(list)
    for run in runs:
        kind = run.tags.get("kind")
        if "trial" in run.tags or kind == "study":
            found[run.tags.get("trial", STUDY)].append(run)
        elif kind == SUMMARY and "arm" in run.tags:
            found[ARM.format(run.tags["arm"])].append(run)
    return found


def by_arm(arms: Iterable[ArmContent]) -> dict[str, ArmContent]:
    """ARM -> what MLflow is to hold of it."""
    return {ARM.format(arm.tags["arm"]): arm for arm in arms}


def follows(run: StoredRun, arm: ArmContent) -> bool:
    """Whether an arm's run holds its means, or those of fewer of its seeds, of the same code."""
    is_same = run.tags.get(DIGEST) == arm.digest
    is_of_fewer = int(run.tags.get(N_RECORDS, 0)) < arm.n_complete
    # an earlier version did not note it
    is_of_fewer &= run.tags.get(FIRST_KEY, arm.tags[FIRST_KEY]) == arm.tags[FIRST_KEY]
    return (
        run.tags.get(FORMAT) == FORMAT_VERSION
        and all(run.params.get(name, text) == text for name, text in arm.params.items())
        and (is_same or is_of_fewer)
    )


class Tracker:
    """Imports a study into MLflow: at `tracking_uri`, MLFLOW_TRACKING_URI, or ./mlflow.db.

    It keeps what it knows of the study's runs from call to call. Artifacts go to ./mlartifacts, or
    wherever an MLflow server puts them.
    """

    client: MlflowClient
    experiment_id: str

    def __init__(self, tracking_uri: str | None = None):
        self.uri = tracking_uri or default_uri()
        # trial, STUDY or ARM -> its run
        self.runs: dict[str, StoredRun] = {}

    @property
    def page(self) -> str | None:
        """The link to the study's arms on an MLflow server; None before `sync`, or without one."""
        if not (is_server(self.uri) and self.runs):
            return None
        tags = {f"{SHARED}{ARMS}": ""} if VIEWS in self.runs[STUDY].tags else {}
        (link,) = links(address_of(self.uri), self.experiment_id, tags).values()
        return link

    def sync(self, folder: RunFolder, reports: Path | None = None, is_running: bool = True) -> None:
        """Bring MLflow up to the files of a study, and of its report in the folder `reports`.

        is_running: whether any process runs the study; if none does, no run stays RUNNING.

        Raises:
            TrackingUnavailable: nothing is lost; a later call delivers the rest.
            TrackingRefused: MLflow does not take something, and all else is delivered; or a person
                has deleted the experiment.
        """
        manifest = folder.manifest()
        trials = trial_contents(folder, manifest, is_running)
        try:
            with reaching(self.uri):
                self._sync(manifest, trials, reports, is_running)
                settle(self.uri)
        except BaseException:
            # the next call asks MLflow
            self.runs = {}
            raise

    def _sync(
        self,
        manifest: Manifest,
        trials: Sequence[TrialContent],
        reports: Path | None,
        is_running: bool,
    ) -> None:
        is_known = bool(self.runs)
        if not is_known:
            self.client, self.experiment_id = open_experiment(self.uri, manifest.study)
            self._find()
        self._sync_parent(manifest, trials)
        columns = {name for trial in trials if trial.outcome for name in trial.outcome.metrics}
        refused: list[MlflowException] = []
        for trial in trials:
            with _noting_refusal(refused):
                if is_known and trial.name not in self.runs and trial.has_begun:
                    # Another process may have delivered it since.
                    self._find(f"tags.key = '{trial.spec.key}'")
                self._sync_trial(trial, columns)
        arms = by_arm(arm_contents(manifest, trials, is_running))
        if is_known and not arms.keys() <= self.runs.keys():
            self._find(f"tags.kind = '{SUMMARY}'")
        for name, arm in arms.items():
            with _noting_refusal(refused):
                self._sync_arm(name, arm)
        known = {STUDY, *arms, *(trial.name for trial in trials)}
        for name in sorted(self.runs.keys() - known):
            run = self.runs[name]
            self._log(run, tags={PARENT: self.runs[STUDY].run_id, IN_GRID: "no"})
            if not run.has_ended:
                self._set_status(run, "KILLED")
        self._sync_study(manifest, trials, is_running)
        self._sync_views(manifest, columns)
        if reports:
            self._sync_report(reports)
        if refused:
            raise refused[0]

    def _find(self, filter_string: str = "") -> None:
        """Ask MLflow for runs, and delete surplus ones."""
        found = by_trial(find_runs(self.client, self.experiment_id, filter_string))
        for name, (first, *surplus) in found.items():
            self.runs[name] = first
            for run in surplus:
                self.client.delete_run(run.run_id)

    def _sync_trial(self, trial: TrialContent, columns: Collection[str]) -> None:
        run, outcome = self.runs.get(trial.name), trial.outcome
        found = agreement(run, trial) if run else Agreement.BEHIND
        kept: dict[str, str] = {}
        if run and found is Agreement.OTHER:
            kept = _tags_of_others(run) if run.tags.get("key") == trial.spec.key else {}
            self.client.delete_run(run.run_id)
            del self.runs[trial.name]
            run = None
        if run is None and not trial.has_begun:
            return
        tags = {**kept, PARENT: self.runs[STUDY].run_id, **trial.tags}
        if outcome:
            # The digest of an outcome counts once the run has ended, and that is logged last.
            tags[DIGEST] = trial.digest
        if run is None:
            run = self.runs[trial.name] = self._create(trial.name, trial.start(), tags)
        points: list[Point] = []
        if found is not Agreement.SAME:
            points = trial.points(run.start, int(run.tags.get(N_RECORDS, 0)), columns)
            if not outcome:
                tags |= {DIGEST: trial.digest, N_RECORDS: str(len(trial.records))}
        self._log(run, points, trial.params, tags)
        if run.has_ended:
            return
        if outcome:
            self.client.log_artifacts(run.run_id, str(trial.folder.trial_path(trial.name)))
            if trial.per_class:
                self.client.log_text(run.run_id, trial.per_class, PER_CLASS)
            if outcome.error:
                self.client.log_text(run.run_id, outcome.error["traceback"], "error.txt")
        self._set_status(run, trial.status, trial.end(run.start))

    def _sync_arm(self, name: str, arm: ArmContent) -> None:
        """Bring an arm's run up to its complete trials: a further step of each metric."""
        run = self.runs.get(name)
        kept: dict[str, str] = {}
        if run and not follows(run, arm):
            kept = _tags_of_others(run)
            self.client.delete_run(run.run_id)
            run = None
        if run is None:
            tags = {**kept, PARENT: self.runs[STUDY].run_id, **arm.tags}
            run = self.runs[name] = self._create(arm.name, arm.start, tags)
        has_new = run.tags.get(DIGEST) != arm.digest
        said = {PARENT: self.runs[STUDY].run_id, DIGEST: arm.digest, N_RECORDS: str(arm.n_complete)}
        self._log(run, arm.points if has_new else [], arm.params, {**arm.tags, **said})
        end = max(1, run.start + arm.milliseconds)
        self._set_status(run, arm.status, end if arm.status == "FINISHED" else None)

    def _sync_parent(self, manifest: Manifest, trials: Sequence[TrialContent]) -> None:
        """See that there is a run of the study itself, of the present format."""
        parent = self.runs.get(STUDY)
        kept: dict[str, str] = {}
        if parent and parent.tags.get(FORMAT) != FORMAT_VERSION:
            kept = _tags_of_others(parent)
            self.client.delete_run(parent.run_id)
            parent = None
        if parent is None:
            start = min((trial.start() for trial in trials if trial.outcome), default=now())
            name = f"{manifest.study} on {manifest.experiment}"
            tags = kept | study_tags(manifest, trials)
            self.runs[STUDY] = self._create(name, start, tags)

    def _sync_study(
        self, manifest: Manifest, trials: Sequence[TrialContent], is_running: bool
    ) -> None:
        """Bring the study's own run up to the manifest and the outcomes."""
        parent = self.runs[STUDY]
        ends = [trial.finished for trial in trials if trial.finished is not None]
        end = max(ends, default=parent.start)
        points = study_points(trials, end)
        digest = short_digest(repr(points))
        has_new = parent.tags.get(DIGEST) != digest
        tags = study_tags(manifest, trials) | {DIGEST: digest}
        self._log(parent, points if has_new else [], tags=tags)
        status = status_of(trials, is_running)
        self._set_status(parent, status, end if status == "FINISHED" else None)

    def _sync_views(self, manifest: Manifest, measured: Collection[str]) -> None:
        """Write the views that follow from the grid; what people change in them stays until then.

        An MLflow that refuses them shows the study without.
        """
        parent = self.runs[STUDY]
        tags = view_tags(manifest, measured, parent.start)
        digest = short_digest(repr(sorted(tags.items())))
        if parent.tags.get(VIEWS) == digest:
            return
        with _noting_refusal([]):
            for name, text in tags.items():
                self.client.set_experiment_tag(self.experiment_id, name, text)
        self._log(parent, tags={VIEWS: digest})

    def _sync_report(self, reports: Path) -> None:
        parent, paths = self.runs[STUDY], report_files(reports)
        digest = short_digest(b"".join(path.name.encode() + path.read_bytes() for path in paths))
        if paths and parent.tags.get(REPORT) != digest:
            for path in paths:
                inside = "/".join(path.relative_to(reports).parts[:-1])
                self.client.log_artifact(parent.run_id, str(path), inside or None)
            self._log(parent, tags={REPORT: digest})

    def _create(self, name: str, start: int, tags: dict[str, str]) -> StoredRun:
        name = fitted_text(name, MAX_NAME, f"the run's name {name[:MAX_NAME]!r}")
        return StoredRun.of(self.client.create_run(self.experiment_id, start, tags, name))

    def _log(
        self,
        run: StoredRun,
        points: Sequence[Point] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Log points, and such params and tags as the run does not have.

        Tags go last: they say what has been logged.
        """
        names = fitted_names("metrics", (point.name for point in points))
        metrics = [Metric(names[p.name], p.value, p.time, p.step) for p in points]
        new_params = dict((params or {}).items() - run.params.items())
        new_tags = dict((tags or {}).items() - run.tags.items())
        stored = [Param(*each) for each in new_params.items()]
        last = [RunTag(*each) for each in new_tags.items()]
        if len(metrics) + len(stored) + len(last) > ONE_BATCH:
            self.client.log_batch(run.run_id, metrics, stored)
            metrics, stored = [], []
        if metrics or stored or last:
            # of one batch MLflow logs the tags last
            self.client.log_batch(run.run_id, metrics, stored, last)
        run.params.update(new_params)
        run.tags.update(new_tags)

    def _set_status(self, run: StoredRun, status: str, end: int | None = None) -> None:
        if (run.status, run.end) == (status, end):
            return
        if status == "RUNNING":
            self.client.update_run(run.run_id, status)
        else:
            self.client.set_terminated(run.run_id, status, end)
        run.status, run.end = status, end


@contextmanager
def _noting_refusal(refused: list[MlflowException]) -> Iterator[None]:
    """Go on where MLflow answers and does not take something; adds what it raised."""
    try:
        yield
    except MlflowException as error:
        if not is_refusal(error):
            raise
        refused.append(error)


def _tags_of_others(run: StoredRun) -> dict[str, str]:
    """The tags that people have set on a trial's run, its note among them."""
    ours = ("ablate.", "factor.", "mlflow.")
    return {
        name: text
        for name, text in run.tags.items()
        if name == NOTE or not (name == "error" or name.startswith(ours))
    }

"""MLflow's store as the tracker uses it: runs by id, never an active run; one exception for all that fails."""

from __future__ import annotations

import logging
import os
import sqlite3
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit
from urllib.request import url2pathname

# Before MLflow is imported, and only where the user has not chosen: no usage statistics are sent to anyone; its
# log and its links stay out of the progress table; a server that is down, or takes a call and never answers, delays training by seconds, not minutes.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")  # seconds

from mlflow import MlflowClient  # noqa: E402
from mlflow.entities import Experiment, Metric, Param, Run, RunTag  # noqa: E402
from mlflow.exceptions import MlflowException  # noqa: E402
from mlflow.tracking.registry import UnsupportedModelRegistryStoreURIException  # noqa: E402
from sqlalchemy.exc import SQLAlchemyError  # noqa: E402

from ablation.database import (
    PATIENCE_SECONDS,
    first_line,
    making,
    require_usable,
    sqlite_file,
    sqlite_url,
)  # noqa: E402
from ablation.errors import Unavailable  # noqa: E402
from ablation.places import tracking_uri  # noqa: E402
from ablation.redaction import redacted  # noqa: E402
from ablation.tracking_content import Point  # noqa: E402
from ablation.tracking_names import MAX_NAME, fitted_text  # noqa: E402

logging.getLogger("mlflow.store.db.utils").setLevel(
    logging.CRITICAL
)  # what it logs, with its traceback, it also raises
logging.getLogger("urllib3.connectionpool").setLevel(
    logging.ERROR
)  # its warnings quote addresses with the tokens in them

T = TypeVar("T")
DATABASE = "mlflow.db"  # MLflow's own default, so that a plain `mlflow ui` in the same folder shows the study
ARTIFACTS = "mlartifacts"
PARENT = "mlflow.parentRunId"  # MLflow's own tag
MAX_POINTS = 800  # in one batch, which holds 1,000 metrics, params and tags
MAX_LABELS = 20  # params, and tags, in one batch: MLflow takes 100, and a server a megabyte
N_RECORDS, DIGEST = (
    "ablate.records",
    "ablate.digest",
)  # how many of a trial's records are logged, and which they were
ENDED = ("FINISHED", "FAILED")
PAGE = 200  # runs that MLflow is asked for at once; it takes 30 KiB for each


class TrackingUnavailable(Unavailable):
    """MLflow cannot be reached or does not take the results."""

    def __init__(self, url: str, cause: object):
        self.url, self.cause = redacted(url), redacted(str(cause), url)
        super().__init__(f"MLflow at {self.url} is not available: {self.cause}")


class TrackingRefused(TrackingUnavailable):
    """MLflow answers, and does not take something; trying again later changes nothing by itself."""

    is_for_now = False

    def __init__(self, url: str, cause: object):
        super().__init__(url, cause)
        self.args = (f"MLflow at {self.url} does not take all results: {self.cause}",)


def is_refusal(error: BaseException) -> bool:
    """Whether MLflow has answered, and refused; an address that it does not understand has not been answered."""
    is_invalid = (
        isinstance(error, MlflowException) and error.error_code == "INVALID_PARAMETER_VALUE"
    )
    return is_invalid and not isinstance(error, UnsupportedModelRegistryStoreURIException)


def default_uri() -> str:
    """MLFLOW_TRACKING_URI, else ./mlflow.db."""
    return tracking_uri() or sqlite_url(Path(DATABASE))


def is_server(uri: str) -> bool:
    """Whether an MLflow server is behind the URI, which then decides where artifacts go."""
    return uri.startswith(("http://", "https://"))


@dataclass
class StoredRun:
    """What MLflow holds of a run. `Store` keeps it up to date."""

    run_id: str
    start: int  # times are milliseconds since 1970, as MLflow counts
    end: int | None  # None while it runs, and of one that was interrupted
    status: str = "RUNNING"  # RUNNING | KILLED (interrupted) | FINISHED | FAILED
    n_records: int = 0  # of metrics.jsonl that have been logged
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(
        default_factory=dict
    )  # the last values, of a run without a parent

    @classmethod
    def of(cls, run: Run) -> StoredRun:
        info, data = run.info, run.data
        end = info.end_time if info.status in ENDED else None
        n_records = int(data.tags.get(N_RECORDS, 0))
        metrics = {} if PARENT in data.tags else dict(data.metrics)
        return cls(
            info.run_id,
            info.start_time,
            end,
            info.status,
            n_records,
            _shared(data.params),
            _shared(data.tags),
            metrics,
        )


class Store:
    """One experiment of an MLflow store. Its methods raise what MLflow raises: see `reaching`."""

    def __init__(self, uri: str, artifact_root: Path | str | None, experiment: str):
        with making(uri):
            self._client = MlflowClient(uri)
            found = _experiment(self._client, uri, experiment)
        follow_folder(uri)
        if found is None:
            location = f"{_as_uri(artifact_root)}/{experiment}" if artifact_root else None
            self._experiment_id = self._client.create_experiment(experiment, location)
        else:
            self._experiment_id = found.experiment_id

    def runs(self, filter_string: str = "") -> Iterator[StoredRun]:
        """The experiment's runs, oldest first; deleted ones are left out."""
        return _runs(self._client, self._experiment_id, filter_string)

    def create(self, name: str, start: int, tags: Mapping[str, str]) -> StoredRun:
        name = fitted_text(name, MAX_NAME, f"the run's name {name[:MAX_NAME]!r}")
        return StoredRun.of(self._client.create_run(self._experiment_id, start, dict(tags), name))

    def log(
        self,
        run: StoredRun,
        points: Sequence[Point] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Log points, and such params and tags as the run does not have. Tags go last: what they say is then true."""
        new_params = {key: value for key, value in (params or {}).items() if key not in run.params}
        new_tags = {key: value for key, value in (tags or {}).items() if run.tags.get(key) != value}
        if not (points or new_params or new_tags):
            return
        metrics = _batches([Metric(*point) for point in points], MAX_POINTS)
        param_batches = _batches([Param(*param) for param in new_params.items()], MAX_LABELS)
        tag_batches = _batches([RunTag(*tag) for tag in new_tags.items()], MAX_LABELS)
        together = [
            *zip_longest(
                reversed(metrics), reversed(param_batches), reversed(tag_batches), fillvalue=()
            )
        ]
        for batch in reversed(together):
            self._client.log_batch(run.run_id, *batch)
        run.params.update(new_params)
        run.tags.update(new_tags)
        if PARENT not in run.tags:
            run.metrics.update({point.name: point.value for point in points})
        run.n_records = int(run.tags.get(N_RECORDS, 0))

    def attach(self, run: StoredRun, path: Path, folder: str | None = None) -> None:
        self._client.log_artifact(run.run_id, str(path), folder)

    def attach_text(self, run: StoredRun, text: str, name: str) -> None:
        self._client.log_text(run.run_id, text, name)

    def finish(self, run: StoredRun, status: str, end: int) -> None:
        self._client.set_terminated(run.run_id, status, end)
        run.end, run.status = end, status

    def show_whether_running(self, run: StoredRun, is_running: bool) -> None:
        """RUNNING, or, if it has not ended and nobody runs it, KILLED."""
        status = "RUNNING" if is_running else "KILLED"
        if run.status == status:
            return
        if is_running:
            self._client.update_run(run.run_id, status)
        else:
            self._client.set_terminated(run.run_id, status)
        run.end, run.status = None, status

    def untag(self, run: StoredRun, tag: str) -> None:
        if tag in run.tags:
            self._client.delete_tag(run.run_id, tag)
            del run.tags[tag]

    def delete(self, run: StoredRun) -> None:
        """Out of sight; MLflow can restore it."""
        self._client.delete_run(run.run_id)


@contextmanager
def reaching(uri: str) -> Iterator[None]:
    """Turns whatever MLflow, its database or its artifact store raises into `TrackingUnavailable`."""
    try:
        require_usable(uri)
        yield
    except (
        MlflowException,
        SQLAlchemyError,
        OSError,
        ImportError,
    ) as error:  # the last: no driver for the database
        kind = TrackingRefused if is_refusal(error) else TrackingUnavailable
        raise kind(
            uri, first_line(error)
        ) from None  # the cause's own traceback can hold credentials


def look_up(uri: str, experiment: str) -> tuple[MlflowClient, list[StoredRun]]:
    """The active runs of an experiment, oldest first; [] if there is none, and nothing is made. Raises what MLflow raises."""
    client, path = MlflowClient(uri), sqlite_file(uri)
    if path is not None and not path.exists():
        return client, []
    found = _experiment(client, uri, experiment)
    return client, [] if found is None else list(_runs(client, found.experiment_id, ""))


def _experiment(client: MlflowClient, uri: str, name: str) -> Experiment | None:
    """None where there is none. Raises TrackingRefused if it is deleted: to restore it brings back all runs that are in it.

    Those that were deleted one by one before, and those of other people, too; so that is left to a person.
    """
    found = client.get_experiment_by_name(name)
    if found is not None and found.lifecycle_stage == "deleted":
        command = f"MLFLOW_TRACKING_URI='{redacted(uri)}' mlflow experiments restore --experiment-id {found.experiment_id}"
        remedy = f"bring it back with all its runs by `{command}`, then `ablate sync {name}`; or keep the study under another name with --as NAME"
        raise TrackingRefused(uri, f"its experiment {name!r} is deleted; {remedy}")
    return found


def follow_folder(uri: str) -> None:
    """If the default database has been moved or copied with its folder, let its artifacts be where they are now.

    MLflow keeps absolute addresses, and has no way of its own to change them.
    """
    path = Path(DATABASE).absolute()
    if uri != sqlite_url(path) or not path.exists():
        return
    try:
        with closing(sqlite3.connect(path, timeout=PATIENCE_SECONDS)) as connection, connection:
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
            if {"experiments", "runs"} <= tables:
                _follow_folder(connection, path.parent / ARTIFACTS)
    except sqlite3.Error as error:
        raise OSError(str(error)) from None


def _follow_folder(connection: sqlite3.Connection, root: Path) -> None:
    rows = connection.execute(
        "SELECT experiment_id, name, artifact_location FROM experiments"
    ).fetchall()
    for experiment_id, name, old in rows:
        new = _as_uri(root / name)
        is_ours = (
            old is not None
            and old != new
            and old.startswith("file:")
            and old.endswith(f"/{ARTIFACTS}/{name}")
        )
        if is_ours and (
            (root / name).is_dir() or not Path(url2pathname(urlsplit(old).path)).is_dir()
        ):
            connection.execute(
                "UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?",
                (new, experiment_id),
            )
            moved = "UPDATE runs SET artifact_uri = ? || substr(artifact_uri, ?) WHERE experiment_id = ? AND substr(artifact_uri, 1, ?) = ?"
            connection.execute(moved, (new, len(old) + 1, experiment_id, len(old) + 1, f"{old}/"))


def _runs(client: MlflowClient, experiment_id: str, filter_string: str) -> Iterator[StoredRun]:
    token = None
    while True:
        order = ["attributes.start_time ASC"]
        page = client.search_runs(
            [experiment_id], filter_string, max_results=PAGE, order_by=order, page_token=token
        )
        yield from map(StoredRun.of, page)
        token = page.token
        if not token:
            return


def experiments(uri: str, n: int) -> list[tuple[str, str]]:
    """Id and name of the experiments last written to."""
    with reaching(uri):
        found = MlflowClient(uri).search_experiments(
            max_results=n, order_by=["last_update_time DESC"]
        )
    return [(each.experiment_id, each.name) for each in found if each.name != "Default"]


def _batches(items: Sequence[T], size: int) -> list[Sequence[T]]:
    return [items[first : first + size] for first in range(0, len(items), size)]


def _shared(texts: Mapping[str, str]) -> dict[str, str]:
    """A copy whose strings are in memory once, however many runs have them."""
    return {sys.intern(name): sys.intern(text) for name, text in texts.items()}


def _as_uri(root: Path | str) -> str:
    return str(root).rstrip("/") if "://" in str(root) else Path(root).absolute().as_uri()

"""Access to MLflow: its settings, its errors, the runs that it has of a study."""

# ruff: noqa: E402
from __future__ import annotations

import logging
import os
import sqlite3
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

# Before MLflow is imported, and only where the user has not chosen: no usage statistics are sent;
# its log and its links stay out of the progress table; a server that is down or never answers
# delays training by seconds, not minutes.
for name, value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    # in seconds
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}.items():
    os.environ.setdefault(name, value)

from mlflow import MlflowClient
from mlflow.entities import Experiment, Run
from mlflow.exceptions import MlflowException
from mlflow.tracking.registry import UnsupportedModelRegistryStoreURIException
from sqlalchemy import Engine, event
from sqlalchemy.exc import SQLAlchemyError

from ablation.errors import Unavailable
from ablation.formatting import redacted
from ablation.storage.project import (
    PATIENCE_SECONDS,
    first_line,
    making,
    require_usable,
    sqlite_file,
    sqlite_url,
    tracking_uri,
)

# It logs, with a traceback, errors that it also raises.
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
# Its warnings quote addresses with the tokens in them.
logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)

# The last: there is no driver for the database.
UNREACHABLE = (MlflowException, SQLAlchemyError, sqlite3.Error, OSError, ImportError)
# MLflow's own default: a plain `mlflow ui` in the same folder shows the study
DATABASE = "mlflow.db"
ARTIFACTS = "mlartifacts"
ENDED = ("FINISHED", "FAILED")
# runs that MLflow is asked for at once; it takes 30 KiB for each
PAGE = 200


class TrackingUnavailable(Unavailable):
    """MLflow cannot be reached or does not take the results."""

    what = "is not available"

    def __init__(self, url: str, cause: object):
        self.url, self.cause = redacted(url), redacted(str(cause), url)
        super().__init__(f"MLflow at {self.url} {self.what}: {self.cause}")


class TrackingRefused(TrackingUnavailable):
    """MLflow answers, and does not take something; trying again later changes nothing by itself."""

    is_for_now, what = False, "does not take all results"


def is_refusal(error: BaseException) -> bool:
    """Whether MLflow has answered and refused; an address that it does not know has no answer."""
    if isinstance(error, UnsupportedModelRegistryStoreURIException):
        return False
    return isinstance(error, MlflowException) and error.error_code == "INVALID_PARAMETER_VALUE"


def default_uri() -> str:
    """MLFLOW_TRACKING_URI, else ./mlflow.db."""
    return tracking_uri() or sqlite_url(Path(DATABASE))


def is_server(uri: str) -> bool:
    """Whether an MLflow server is behind the URI, which then decides where artifacts go."""
    return uri.startswith(("http://", "https://"))


@contextmanager
def reaching(uri: str) -> Iterator[None]:
    """Turn what MLflow, its database or its artifact store raise into `TrackingUnavailable`."""
    try:
        require_usable(uri)
        yield
    except UNREACHABLE as error:
        kind = TrackingRefused if is_refusal(error) else TrackingUnavailable
        # Without the cause, whose own traceback can hold credentials.
        raise kind(uri, first_line(error)) from None


@dataclass
class StoredRun:
    """What MLflow holds of a run, without its metrics, which would take gigabytes."""

    run_id: str
    # start and end: milliseconds since 1970, as MLflow counts
    start: int
    # RUNNING | KILLED (interrupted) | FINISHED | FAILED
    status: str
    # None while it runs, and if it was interrupted
    end: int | None
    params: dict[str, str]
    tags: dict[str, str]

    @classmethod
    def of(cls, run: Run) -> StoredRun:
        """Make it of MLflow's own object."""
        info = run.info
        end = info.end_time if info.status in ENDED else None
        texts = (_shared(run.data.params), _shared(run.data.tags))
        return cls(info.run_id, info.start_time, info.status, end, *texts)

    @property
    def has_ended(self) -> bool:
        """Whether the run has its final status."""
        return self.status in ENDED


def open_experiment(uri: str, name: str) -> tuple[MlflowClient, str]:
    """A client, and the id of the experiment, which is made where there is none."""
    with making(uri):
        _write_ahead(uri)
        client = MlflowClient(uri)
        found = _experiment_id(client, uri, name)
    follow_folder(uri)
    if found is None:
        location = None if is_server(uri) else _artifacts(name)
        found = client.create_experiment(name, location)
        settle(uri)
    return client, found


def _own_file(uri: str) -> Path | None:
    """The project's own database; None where MLflow keeps its records elsewhere."""
    path = Path(DATABASE).absolute()
    return path if uri == sqlite_url(path) else None


def _write_ahead(uri: str) -> None:
    """Let what is written to the project's own database wait for the disk once a delivery.

    MLflow commits eight times for each trial, and each waits for the disk otherwise. `settle` waits
    for all of them; a power cut before that loses commits, which the next delivery sees, and never
    the file.
    """
    path = _own_file(uri)
    if path is not None:
        with closing(sqlite3.connect(path, timeout=PATIENCE_SECONDS)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")


@event.listens_for(Engine, "connect")
def _do_not_wait(connection: object, _record: object) -> None:
    """Of MLflow's connections, which are its own: those to a file that is written ahead."""
    if isinstance(connection, sqlite3.Connection):
        (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
        if mode == "wal":
            connection.execute("PRAGMA synchronous = NORMAL")


def settle(uri: str) -> None:
    """Have the project's own database hold all that was written, on the disk."""
    path = _own_file(uri)
    if path is not None and path.exists():
        with closing(sqlite3.connect(path, timeout=PATIENCE_SECONDS)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def look_up(uri: str, name: str) -> tuple[MlflowClient, list[StoredRun]]:
    """A client, and the runs of an experiment, if there is one; nothing is made."""
    client, path = MlflowClient(uri), sqlite_file(uri)
    is_absent = path is not None and not path.exists()
    found = None if is_absent else _experiment_id(client, uri, name)
    return client, [] if found is None else find_runs(client, found)


def find_runs(client: MlflowClient, experiment_id: str, filter_string: str = "") -> list[StoredRun]:
    """The experiment's runs, oldest first; deleted ones are left out."""
    runs: list[StoredRun] = []
    order, token = ["attributes.start_time ASC"], None
    while True:
        page = client.search_runs(
            [experiment_id], filter_string, max_results=PAGE, order_by=order, page_token=token
        )
        runs += map(StoredRun.of, page)
        token = page.token
        if not token:
            return runs


def experiments(uri: str, n: int) -> list[Experiment]:
    """The experiments last written to, but for MLflow's own."""
    with reaching(uri):
        found = MlflowClient(uri).search_experiments(
            max_results=n, order_by=["last_update_time DESC"]
        )
    return [each for each in found if each.name != "Default"]


def follow_folder(uri: str) -> None:
    """If the default database was moved or copied with its folder, find its artifacts there.

    MLflow keeps absolute addresses, and has no way of its own to change them.
    """
    path = _own_file(uri)
    if path is None or not path.exists():
        return
    with closing(sqlite3.connect(path, timeout=PATIENCE_SECONDS)) as connection, connection:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'runs'").fetchone():
            return
        known = connection.execute("SELECT experiment_id, name, artifact_location FROM experiments")
        for experiment_id, name, old in known.fetchall():
            new = _artifacts(name)
            ending = Path("/", ARTIFACTS, name).as_uri().removeprefix("file://")
            is_ours = (old or "").startswith("file:") and old.endswith(ending)
            if old == new or not is_ours:
                continue
            was, is_now = (Path(url2pathname(urlsplit(address).path)) for address in (old, new))
            if is_now.is_dir() or not was.is_dir():
                connection.execute(
                    "UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?",
                    (new, experiment_id),
                )
                connection.execute(
                    "UPDATE runs SET artifact_uri = replace(artifact_uri, ?, ?) "
                    "WHERE experiment_id = ?",
                    (f"{old}/", f"{new}/", experiment_id),
                )


def _experiment_id(client: MlflowClient, uri: str, name: str) -> str | None:
    """None where there is no such experiment. Raises TrackingRefused if it is deleted.

    To restore it brings back all runs that are in it, those that were deleted one by one before,
    and those of other people, too; so that is left to a person.
    """
    found = client.get_experiment_by_name(name)
    if found is None:
        return None
    if found.lifecycle_stage == "deleted":
        command = (
            f"MLFLOW_TRACKING_URI='{redacted(uri)}' "
            f"mlflow experiments restore --experiment-id {found.experiment_id}"
        )
        raise TrackingRefused(
            uri,
            f"its experiment {name!r} is deleted; bring it back with all its runs by `{command}`, "
            f"then `ablate sync {name}`; or keep the study under another name with --as NAME",
        )
    return str(found.experiment_id)


def _artifacts(experiment: str) -> str:
    """Where artifacts go, if no server decides it."""
    return (Path(ARTIFACTS).absolute() / experiment).as_uri()


def _shared(texts: Mapping[str, str]) -> dict[str, str]:
    """A copy whose strings are in memory once, however many runs have them."""
    return {sys.intern(name): sys.intern(text) for name, text in texts.items()}

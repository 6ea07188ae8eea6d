"""What has to do with MLflow and needs no MLflow: its settings, addresses, files and errors.

MLflow takes 2 s to import. Its own settings are read when that happens, so they are set here.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from ablation.errors import Unavailable
from ablation.formatting import redacted
from ablation.storage.project import PATIENCE_SECONDS, sqlite_url, tracking_uri

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

# MLflow's own default: a plain `mlflow ui` in the same folder shows the study
DATABASE = "mlflow.db"
ARTIFACTS = "mlartifacts"


class TrackingUnavailable(Unavailable):
    """MLflow cannot be reached or does not take the results."""

    what = "is not available"

    def __init__(self, url: str, cause: object):
        self.url, self.cause = redacted(url), redacted(str(cause), url)
        super().__init__(f"MLflow at {self.url} {self.what}: {self.cause}")


class TrackingRefused(TrackingUnavailable):
    """MLflow answers, and does not take something; trying again later changes nothing by itself."""

    is_for_now, what = False, "does not take all results"


def default_uri() -> str:
    """MLFLOW_TRACKING_URI, else ./mlflow.db."""
    return tracking_uri() or sqlite_url(Path(DATABASE))


def is_server(uri: str) -> bool:
    """Whether an MLflow server is behind the URI, which then decides where artifacts go."""
    return uri.startswith(("http://", "https://"))


def own_file(uri: str) -> Path | None:
    """The project's own database; None where MLflow keeps its records elsewhere."""
    path = Path(DATABASE).absolute()
    return path if uri == sqlite_url(path) else None


def write_ahead(uri: str) -> None:
    """Let what is written to the project's own database wait for the disk once a delivery.

    MLflow commits eight times for each trial, and each waits for the disk otherwise. `settle` waits
    for all of them; a power cut before that loses commits, which the next delivery sees, and never
    the file.
    """
    path = own_file(uri)
    if path is not None:
        with closing(sqlite3.connect(path, timeout=PATIENCE_SECONDS)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")


def settle(uri: str) -> None:
    """Have the project's own database hold all that was written, on the disk."""
    path = own_file(uri)
    if path is not None and path.exists():
        with closing(sqlite3.connect(path, timeout=PATIENCE_SECONDS)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


# has a row where MLflow has made its tables
RUNS = "SELECT 1 FROM sqlite_master WHERE name = 'runs'"


def has_tables(uri: str) -> bool:
    """Whether the project's own database has MLflow's tables; False of any other database."""
    path = own_file(uri)
    if path is None or not path.exists():
        return False
    with closing(sqlite3.connect(path, timeout=PATIENCE_SECONDS)) as connection:
        return connection.execute(RUNS).fetchone() is not None


def follow_folder(uri: str) -> None:
    """If the default database was moved or copied with its folder, find its artifacts there.

    MLflow keeps absolute addresses, and has no way of its own to change them.
    """
    path = own_file(uri)
    if path is None or not path.exists():
        return
    with closing(sqlite3.connect(path, timeout=PATIENCE_SECONDS)) as connection, connection:
        if not connection.execute(RUNS).fetchone():
            return
        known = connection.execute("SELECT experiment_id, name, artifact_location FROM experiments")
        for experiment_id, name, old in known.fetchall():
            new = artifacts_of(name)
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


def artifacts_of(experiment: str) -> str:
    """Where artifacts go, if no server decides it."""
    return (Path(ARTIFACTS).absolute() / experiment).as_uri()

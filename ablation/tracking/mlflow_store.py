"""Access to MLflow: the runs that it has of a study, and what it raises."""

from __future__ import annotations

import logging
import sqlite3
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from ablation.formatting import redacted
from ablation.storage.project import first_line, making, require_usable, sqlite_file
from ablation.tracking.mlflow_places import (
    TrackingRefused,
    TrackingUnavailable,
    artifacts_of,
    follow_folder,
    is_server,
    settle,
    write_ahead,
)

# Only now, since the module above sets what MLflow reads when it is imported.
# isort: split
from mlflow import MlflowClient
from mlflow.entities import Experiment, Run
from mlflow.exceptions import MlflowException
from mlflow.tracking.registry import UnsupportedModelRegistryStoreURIException
from sqlalchemy import Engine, event
from sqlalchemy.exc import SQLAlchemyError

# It logs, with a traceback, errors that it also raises.
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
# Its warnings quote addresses with the tokens in them.
logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)

# The last: there is no driver for the database.
UNREACHABLE = (MlflowException, SQLAlchemyError, sqlite3.Error, OSError, ImportError)
ENDED = ("FINISHED", "FAILED")
# runs that MLflow is asked for at once; it takes 30 KiB for each
PAGE = 200


def is_refusal(error: BaseException) -> bool:
    """Whether MLflow has answered and refused; an address that it does not know has no answer."""
    if isinstance(error, UnsupportedModelRegistryStoreURIException):
        return False
    return isinstance(error, MlflowException) and error.error_code == "INVALID_PARAMETER_VALUE"


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
        write_ahead(uri)
        client = MlflowClient(uri)
        found = _experiment_id(client, uri, name)
    follow_folder(uri)
    if found is None:
        location = None if is_server(uri) else artifacts_of(name)
        found = client.create_experiment(name, location)
        settle(uri)
    return client, found


@event.listens_for(Engine, "connect")
def _do_not_wait(connection: object, _record: object) -> None:
    """Of MLflow's connections, which are its own: those to a file that is written ahead."""
    if isinstance(connection, sqlite3.Connection):
        (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
        if mode == "wal":
            connection.execute("PRAGMA synchronous = NORMAL")


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


def _shared(texts: Mapping[str, str]) -> dict[str, str]:
    """A copy whose strings are in memory once, however many runs have them."""
    return {sys.intern(name): sys.intern(text) for name, text in texts.items()}

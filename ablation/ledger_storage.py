"""Optuna's database as the ledger uses it: opened for several processes, read without what nobody asks for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import optuna
import sqlalchemy
from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState

from ablation.database import let_several_write, making, require_usable, sqlite_file
from ablation.shared_database import CONNECTING

SQLITE_TIMEOUT_SECONDS = 60

TRIALS = sqlalchemy.table("trials", *map(sqlalchemy.column, ("trial_id", "study_id", "number", "state")))
STUDIES = sqlalchemy.table("studies", *map(sqlalchemy.column, ("study_id", "study_name")))
VALUES = sqlalchemy.table("trial_values", *map(sqlalchemy.column, ("trial_id", "value")))
ATTRIBUTES = sqlalchemy.table("trial_user_attributes", *map(sqlalchemy.column, ("trial_id", "key", "value_json")))
PARAMS = sqlalchemy.table("trial_params", *map(sqlalchemy.column, ("trial_id", "param_name", "distribution_json")))


class Enrolled(NamedTuple):
    """A trial with a key."""

    trial_id: int
    state: TrialState
    key: str


class Seen(NamedTuple):
    """What the database holds of a trial with a key."""

    trial_id: int
    state: TrialState
    key: str
    trial: str
    value: float | None


def open_storage(url: str) -> optuna.storages.RDBStorage:
    """The storage at `url`; on SQLite, one that several processes can write to."""
    require_usable(url)
    address = sqlalchemy.make_url(url)
    if address.get_backend_name() != "sqlite":
        return _storage(url)
    with making(url):
        storage = _storage(url, engine_kwargs={"connect_args": {"timeout": SQLITE_TIMEOUT_SECONDS}})
    let_several_write(storage.engine)
    storage.engine.dispose()  # the constructor has opened connections without these
    return storage


def read_trials(storage: optuna.storages.RDBStorage, study_id: int) -> tuple[list[Enrolled], dict[str, BaseDistribution]]:
    """A study's trials that have a key, by number, and the distributions of their params.

    In SQL: Optuna itself reads all trials at once with all that they hold, which takes 20 KiB and half a
    millisecond for each.
    """
    ours = sqlalchemy.and_(TRIALS.c.study_id == study_id, ATTRIBUTES.c.trial_id == TRIALS.c.trial_id, ATTRIBUTES.c.key == "key")
    trials = sqlalchemy.select(TRIALS.c.trial_id, TRIALS.c.state, ATTRIBUTES.c.value_json).where(ours).order_by(TRIALS.c.number)
    params = sqlalchemy.select(PARAMS.c.param_name, PARAMS.c.distribution_json).where(ours, PARAMS.c.trial_id == TRIALS.c.trial_id)
    with storage.engine.connect() as connection:
        enrolled = [Enrolled(trial_id, TrialState[state], json.loads(key)) for trial_id, state, key in connection.execute(trials)]
        distributions = {name: json_to_distribution(text) for name, text in connection.execute(params.distinct())}
    return enrolled, distributions


def look_up(url: str, study: str) -> list[Seen]:
    """A study's trials that have a key, by number; nothing is made or changed, and [] if there is no such database."""
    path = sqlite_file(url)
    if path is not None and not path.exists():
        return []
    name, key = ATTRIBUTES.alias(), ATTRIBUTES
    tables = TRIALS.join(STUDIES, STUDIES.c.study_id == TRIALS.c.study_id)
    tables = tables.join(key, (key.c.trial_id == TRIALS.c.trial_id) & (key.c.key == "key"))
    tables = tables.outerjoin(name, (name.c.trial_id == TRIALS.c.trial_id) & (name.c.key == "trial"))
    tables = tables.outerjoin(VALUES, VALUES.c.trial_id == TRIALS.c.trial_id)
    columns = (TRIALS.c.trial_id, TRIALS.c.state, key.c.value_json, name.c.value_json, VALUES.c.value)
    query = sqlalchemy.select(*columns).select_from(tables).where(STUDIES.c.study_name == study).order_by(TRIALS.c.number)
    engine = sqlalchemy.create_engine(url)
    try:
        with engine.connect() as connection:
            rows = connection.execute(query).all()
    finally:
        engine.dispose()
    return [Seen(trial_id, TrialState[state], json.loads(key), json.loads(trial or '""'), value) for trial_id, state, key, trial, value in rows]


def overrule(url: str, reasons: Mapping[int, str]) -> None:
    """Let trials (id -> why), ended or not, count as failed. Optuna itself never lets one that has ended change."""
    storage = open_storage(url)
    with storage.engine.begin() as connection:
        for trial_id, reason in reasons.items():
            connection.execute(sqlalchemy.update(TRIALS).where(TRIALS.c.trial_id == trial_id).values(state="FAIL"))
            connection.execute(sqlalchemy.delete(VALUES).where(VALUES.c.trial_id == trial_id))
            named = (ATTRIBUTES.c.trial_id == trial_id) & (ATTRIBUTES.c.key == "reason")
            connection.execute(sqlalchemy.delete(ATTRIBUTES).where(named))
            connection.execute(sqlalchemy.insert(ATTRIBUTES).values(trial_id=trial_id, key="reason", value_json=json.dumps(reason)))


def _storage(url: str, **options: Any) -> optuna.storages.RDBStorage:
    if url.startswith("postgresql"):
        options["engine_kwargs"] = {"pool_pre_ping": True, "connect_args": CONNECTING}
    try:
        return optuna.storages.RDBStorage(url, **options)
    except RuntimeError as error:  # another version of Optuna has made the tables
        raise StorageInternalError(str(error)) from None

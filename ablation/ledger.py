"""Optuna's copy of a study, for Optuna's own tools: the trials that have ended, made of the study's files.

Arms and baselines are two Optuna studies, `<study>` and `<study>/baselines`: Optuna's importances and plots know only
the parameters that all trials of a study have, and baselines have none. The parameters of a trial are the levels of its
factors. Its user attributes are `trial`, `arm`, `kind`, `seed`, `key`, and `metrics`, or `reason` of one that failed.

Optuna lets no ended trial change, removes none, and dates by its own clock what it sees end. So a trial is added when it
has ended, and where a complete one is not (any more) what the files say, both studies are made anew. How many trials
still wait or run is the study's user attribute `states`. Optuna is never asked for the next trial.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import platform
import time
import warnings
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from ablation.database import first_line, sqlite_file
from ablation.errors import Unavailable
from ablation.redaction import redacted

BASELINES = "baselines"  # the study of a study's baselines is called `<study>/baselines`
STATES = "states"  # user attribute of the study: state -> number of its trials
PROJECT = (
    "project"  # and, in a database that several projects write to: the folder whose study it is
)
KEY = "key"  # user attribute of the trials that are ours
PATIENCE_SECONDS, PAUSE_SECONDS = 60.0, 0.05  # with another process that writes to the ledger
UNREACHABLE = (
    SQLAlchemyError,
    StorageInternalError,
    OSError,
    ImportError,
)  # the last: no driver for the database


class LedgerUnavailable(Unavailable):
    """Optuna's database cannot be opened, read or written."""

    def __init__(self, url: str, error: BaseException):
        cause = first_line(error.__cause__ or error)  # Optuna says only that something was raised
        super().__init__(
            f"Optuna's ledger at {redacted(url)} is not available: {redacted(cause, url)}"
        )


class OthersStudy(Unavailable):
    """Another project keeps a study of this name in the same database: what it holds is not ours to make anew."""

    is_for_now = False

    def __init__(self, name: str, project: str):
        super().__init__(
            f"the study '{name}' in Optuna's ledger is of the project {project}; keep this one under another name with --as NAME"
        )


@contextlib.contextmanager
def reaching_ledger(url: str) -> Iterator[None]:
    """Turns whatever the database raises into `LedgerUnavailable`."""
    try:
        yield
    except UNREACHABLE as error:
        raise LedgerUnavailable(
            url, error
        ) from None  # the error's own traceback can hold credentials


@contextlib.contextmanager
def one_at_a_time(url: str) -> Iterator[None]:
    """Hold a ledger that is a file for this process. Raises OSError if another process does not let go of it."""
    path = sqlite_file(url)
    if path is None:
        yield
        return
    end = time.monotonic() + PATIENCE_SECONDS
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f"{path.name}.lock").open("w") as file:
        while True:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            if time.monotonic() > end:
                raise OSError("another process is writing to it")
            time.sleep(PAUSE_SECONDS)
        yield


def studies_of(study: str) -> list[str]:
    """The names of a study's Optuna studies: of its arms, of its baselines."""
    return [study, f"{study}/{BASELINES}"]


def read_trials(storage: BaseStorage, name: str) -> list[FrozenTrial]:
    """The trials of an Optuna study by number; [] if there is no such study."""
    study_id = _study_id(storage, name)
    return [] if study_id is None else storage.get_all_trials(study_id, deepcopy=False)


def require_ours(storage: BaseStorage, names: Sequence[str], project: str) -> None:
    """Raise OthersStudy if an Optuna study of these names is of another project than this."""
    for name in names:
        study_id = _study_id(storage, name)
        theirs = None if study_id is None else storage.get_study_user_attrs(study_id).get(PROJECT)
        if theirs not in (None, project):
            raise OthersStudy(name, theirs)


def project_of(url: str, runs: Path) -> str | None:
    """What a study of this folder is called in a database that several projects write to; None where it is the project's own."""
    return None if sqlite_file(url) else f"{platform.node()}:{runs.resolve()}"


def is_same(known: FrozenTrial, wanted: FrozenTrial) -> bool:
    """Whether Optuna has of an ended trial what it should have; intermediate values aside, which follow from the rest."""
    return _content(known) == _content(wanted)


def stale(
    known: Sequence[FrozenTrial], wanted: Sequence[FrozenTrial], open_keys: Collection[str] = (),
) -> list[FrozenTrial]:  # fmt: skip
    """Of our trials in Optuna, those that must not stay: complete or open, and not what the files say.

    A failure counts in none of Optuna's tools, and stays on record unless its parameters have other levels by now. So does
    a complete trial with a key of `open_keys`, of which the files have no end (any more), until it is run again.
    """
    left = {trial.user_attrs[KEY]: trial for trial in wanted}
    choices = {name: each for trial in wanted for name, each in trial.distributions.items()}
    found = []
    for trial in known:
        if KEY not in trial.user_attrs:
            continue
        is_kept = trial.state == TrialState.COMPLETE and trial.user_attrs[KEY] in open_keys
        if trial.state == TrialState.FAIL or is_kept:
            is_stale = any(
                choices.get(name, each) != each for name, each in trial.distributions.items()
            )
        else:
            expected = left.pop(trial.user_attrs[KEY], None)
            is_stale = expected is None or not is_same(trial, expected)
        if is_stale:
            found.append(trial)
    return found


def missing(known: Sequence[FrozenTrial], wanted: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Those of the wanted trials that Optuna does not have."""
    there = {_content(trial) for trial in known if KEY in trial.user_attrs}
    return [trial for trial in wanted if _content(trial) not in there]


def is_of_direction(storage: BaseStorage, name: str, direction: str) -> bool:
    """Whether an Optuna study has this one direction, `maximize` or `minimize`; true if there is no such study."""
    study_id = _study_id(storage, name)
    return study_id is None or storage.get_study_directions(study_id) == [
        StudyDirection[direction.upper()]
    ]


def remake(storage: BaseStorage, names: Sequence[str], direction: str) -> None:
    """Delete Optuna studies, and make them again with what others have put into them: their trials and attributes."""
    kept = {}
    for name in names:
        study_id = _study_id(storage, name)
        if study_id is not None:
            others = [
                trial for trial in storage.get_all_trials(study_id) if KEY not in trial.user_attrs
            ]
            attributes = (
                storage.get_study_user_attrs(study_id),
                storage.get_study_system_attrs(study_id),
            )
            kept[name] = others, *attributes
            storage.delete_study(study_id)
    # All are made before any is filled, in this order: whoever asks Optuna for its studies meets the arms first.
    made = {name: _made(storage, name, direction) for name in kept}
    for name, (others, user_attributes, system_attributes) in kept.items():
        made[name].add_trials(others)
        for key, value in user_attributes.items():
            made[name].set_user_attr(key, value)
        for key, value in system_attributes.items():
            storage.set_study_system_attr(made[name]._study_id, key, value)


def add(
    storage: BaseStorage, name: str, direction: str, metric: str, trials: Sequence[FrozenTrial], states: dict[str, int],
    project: str | None = None,
) -> None:  # fmt: skip
    """Add ended trials to an Optuna study, which is made where there is none."""
    study = _made(storage, name, direction)
    if study.metric_names != [metric]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            study.set_metric_names([metric])
    try:
        study.add_trials(trials)
    except ValueError as error:  # others have put trials into the study whose parameters of these names have other choices
        raise StorageInternalError(f"study {name!r}: {error}") from None
    for key, value in ((STATES, states), (PROJECT, project)):
        if study.user_attrs.get(key) != value:
            study.set_user_attr(key, value)


def _made(storage: BaseStorage, name: str, direction: str) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(
        storage=storage, study_name=name, direction=direction, load_if_exists=True
    )


def _study_id(storage: BaseStorage, name: str) -> int | None:
    try:
        return storage.get_study_id_from_name(name)
    except KeyError:
        return None


def _content(trial: FrozenTrial) -> str:
    """As text: NaN among the metrics equals NaN."""
    distributions = sorted((name, repr(each)) for name, each in trial.distributions.items())
    attributes = json.dumps(trial.user_attrs, sort_keys=True)
    told = (trial.state.name, trial.values, sorted(trial.params.items()), distributions, attributes)
    return repr((*told, trial.datetime_start, trial.datetime_complete))

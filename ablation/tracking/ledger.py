"""Optuna's copy of a study, for Optuna's own tools: the trials that have ended.

Arms and baselines are two Optuna studies, `<study>` and `<study>/baselines`: Optuna's importances
and plots know only the parameters that all trials of a study have, and baselines have none. The
parameters of a trial are the levels of its factors. Its user attributes are `trial`, `arm`, `kind`,
`seed`, `key`, and `metrics`, or `reason` of one that failed. How many trials are in which state,
those that wait or run too, is the study's user attribute `states`. Of the search of a study's arms
(`search:` of the grid), each arm is an Optuna study `<study>.search/<arm>`, its parameters the
settings that are looked for.

What Optuna should hold follows from the files. Trials that it lacks are added. If it holds any
other trial of ours, both studies are deleted and made anew: Optuna lets no ended trial change, and
removes none. So a trial whose files are lost or damaged is not in Optuna until `ablate run` has
made them again. Trials and attributes that others have put into the two studies stay.

The database is a file of the project, or a team's PostgreSQL (`storage_url`, `opened`).
"""

from __future__ import annotations

import importlib.util
import json
import math
import platform
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import optuna
import sqlalchemy
from filelock import FileLock, Timeout
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from ablation.errors import InputError, Problem, Unavailable
from ablation.formatting import redacted
from ablation.grid.search import Choices, Domain, domain_of
from ablation.storage.asked import COMPLETE, FAILED, SearchLog, trial_name
from ablation.storage.project import first_line, making, require_usable, sqlite_file
from ablation.storage.runs import Manifest, Outcome, RunFolder, TrialSpec, reason
from ablation.tracking.mlflow_content import begun_at, ended_at, finite

SUFFIXES = {"arm": "", "baseline": "/baselines"}
"""Kind of trials -> what follows the study's name in that of their Optuna study."""

# user attribute of the study: state -> number of its trials
STATES = "states"
# User attribute of the study in a database of several projects: the folder whose study it is.
PROJECT = "project"
# user attribute of the trials that are ours
KEY = "key"
# the largest step that Optuna's tables hold
LAST_STEP = 2**31 - 1


class OthersStudy(Unavailable):
    """The database holds a study of this name that belongs to another project."""

    is_for_now = False

    def __init__(self, name: str, project: str):
        super().__init__(
            f"the study '{name}' in Optuna's ledger is of the project {project}; "
            "keep this one under another name with --as NAME"
        )


@dataclass(frozen=True)
class OptunaStudy:
    """The content that one of a study's Optuna studies should have."""

    name: str
    # without intermediate values, in the manifest's order
    trials: list[FrozenTrial]
    states: dict[str, int]

    def compare(self, storage: RDBStorage) -> tuple[list[FrozenTrial], list[FrozenTrial]]:
        """The trials that Optuna holds of ours and should not, and those that it lacks."""
        known = _existing(storage, self.name)
        # Not known.trials: after a trial was deleted, that takes two others for one.
        trials = storage.get_all_trials(known._study_id, deepcopy=False) if known else []
        held = [(_content(trial), trial) for trial in trials if KEY in trial.user_attrs]
        wanted = [(_content(trial), trial) for trial in self.trials]
        return _beyond(held, wanted), _beyond(wanted, held)


def _beyond(
    these: Sequence[tuple[str, FrozenTrial]], those: Sequence[tuple[str, FrozenTrial]]
) -> list[FrozenTrial]:
    """The trials whose content these have, and those have not, or less often."""
    left = Counter(content for content, _ in those)
    found = []
    for content, trial in these:
        left[content] -= 1
        if left[content] < 0:
            found.append(trial)
    return found


def update_ledger(url: str, folder: RunFolder, is_running: bool = True) -> None:
    """Bring Optuna's studies up to the files. A second call changes nothing.

    is_running: whether any process runs the study; if none does, no trial counts as running.

    Raises:
        LedgerUnavailable: the database is locked, damaged or out of reach; later is soon enough.
        OthersStudy: another project keeps a study of this name there.
    """
    manifest = folder.manifest()
    metric, direction = manifest.metric["name"], StudyDirection[manifest.metric["goal"].upper()]
    studies = wanted_studies(manifest, folder, is_running)
    with opened(url) as storage:
        project = _require_ours(storage, studies, url, folder)
        compared = [study.compare(storage) for study in studies]
        known = [found for study in studies if (found := _existing(storage, study.name))]
        is_anew = any(wrong for wrong, _ in compared) or any(
            study.direction != direction for study in known
        )
        if is_anew:
            _make_anew(storage, known, direction)
        for study, (_, lacking) in zip(studies, compared, strict=True):
            if not study.states:
                continue
            made = _made(storage, study.name, direction)
            if made.metric_names != [metric]:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", ExperimentalWarning)
                    made.set_metric_names([metric])
            for trial in study.trials if is_anew else lacking:
                trial.intermediate_values = _by_epoch(folder, trial.user_attrs["trial"], metric)
                try:
                    made.add_trial(trial)
                except ValueError as error:
                    # others have added trials whose parameters have other choices
                    raise StorageInternalError(f"study {study.name!r}: {error}") from None
            for key, value in ((STATES, study.states), (PROJECT, project)):
                if made.user_attrs.get(key) != value:
                    made.set_user_attr(key, value)


def ledger_differences(url: str, manifest: Manifest, folder: RunFolder) -> list[str]:
    """Names of the trials in which Optuna and the files differ."""
    studies = wanted_studies(manifest, folder)
    path = sqlite_file(url)
    # to open a database that is not there would make it
    if path is not None and not path.exists():
        return [trial.user_attrs["trial"] for study in studies for trial in study.trials]
    with opened(url) as storage:
        _require_ours(storage, studies, url, folder)
        found = [
            trial for study in studies for trials in study.compare(storage) for trial in trials
        ]
    return list(dict.fromkeys(trial.user_attrs["trial"] for trial in found))


def wanted_studies(
    manifest: Manifest, folder: RunFolder, is_running: bool = True
) -> list[OptunaStudy]:
    """What Optuna should hold: the arms' study and the baselines', or that of each arm's search."""
    if manifest.search.get("of"):
        return _studies_of_search(manifest, folder)
    choices = _choices(manifest)
    studies = []
    for kind, suffix in SUFFIXES.items():
        trials, states = [], Counter[str]()
        for spec in (spec for spec in manifest.trials if spec.kind == kind):
            outcome = folder.outcome(spec.trial)
            state = folder.state(spec, outcome, is_running)
            if outcome is not None and state in ("COMPLETE", "FAILED"):
                trials.append(_ended(manifest, folder, spec, choices, outcome))
                state = "COMPLETE" if trials[-1].state == TrialState.COMPLETE else "FAILED"
            states[state] += 1
        studies.append(OptunaStudy(manifest.study + suffix, trials, dict(states)))
    return studies


def _studies_of_search(manifest: Manifest, folder: RunFolder) -> list[OptunaStudy]:
    """An Optuna study for each arm of a search, with the settings that were tried as parameters.

    A trial under several seeds is one of Optuna's, its value their mean. Values that do not go
    together were never trained, and are not there.
    """
    specs = {spec.trial: spec for spec in reversed(manifest.trials)}
    first_seed = manifest.seeds[0]
    studies = []
    for arm, told in manifest.search["arms"].items():
        distributions = {key: distribution(domain_of(raw)) for key, raw in told["space"].items()}
        log, trials = SearchLog(folder.path, arm, told["digest"]), []
        for asked in log.ended():
            spec = specs.get(trial_name(arm, asked.number, first_seed))
            outcome = folder.outcome(spec.trial) if spec else None
            if spec is None or outcome is None:
                continue
            attributes = _identity(spec) | {"metrics": dict(outcome.metrics)}
            if outcome.error:
                attributes["reason"] = reason(outcome)
            trial = create_trial(
                state=TrialState.FAIL if asked.state == FAILED else TrialState[asked.state],
                value=asked.value if asked.state == COMPLETE else None,
                params={
                    key: distributions[key].to_external_repr(
                        # Optuna holds 1 of an arm's own 1.0 where the grid has whole numbers
                        distributions[key].to_internal_repr(value)
                    )
                    for key, value in asked.values.items()
                },
                distributions=distributions,
                user_attrs=attributes,
            )
            trials.append(_timed(trial, folder, outcome))
        states = Counter(asked.state for asked in log.ended())
        states["RUNNING"] = len(log.open)
        studies.append(OptunaStudy(f"{manifest.study}/{arm}", trials, dict(+states)))
    return studies


def distribution(domain: Domain) -> BaseDistribution:
    """The range of a tuned setting, as an Optuna distribution."""
    if isinstance(domain, Choices):
        return CategoricalDistribution(domain.values)
    # Optuna's highest value is one that can be reached
    low, high, log = domain.low, domain.highest, domain.log
    if domain.is_whole:
        return IntDistribution(int(low), int(high), log, int(domain.step or 1))
    return FloatDistribution(low, high, log, domain.step)


def _identity(spec: TrialSpec) -> dict[str, Any]:
    return {name: getattr(spec, name) for name in ("trial", "arm", "kind", "seed", KEY)}


def _ended(
    manifest: Manifest,
    folder: RunFolder,
    spec: TrialSpec,
    choices: Mapping[str, CategoricalDistribution],
    outcome: Outcome,
) -> FrozenTrial:
    """A trial that has ended, as Optuna can hold it: a complete one has a finite value."""
    name = manifest.metric["name"]
    value = finite(outcome.metrics.get(name, math.nan)) if outcome.state == "COMPLETE" else math.nan
    is_complete = math.isfinite(value)
    attributes = _identity(spec)
    if is_complete:
        attributes["metrics"] = dict(outcome.metrics)
    elif outcome.error:
        attributes["reason"] = reason(outcome)
    else:
        attributes["reason"] = f"MissingMetric: {name} is {outcome.metrics.get(name)}"
    trial = create_trial(
        state=TrialState.COMPLETE if is_complete else TrialState.FAIL,
        value=value if is_complete else None,
        params=dict(spec.levels),
        distributions={factor: choices[factor] for factor in spec.levels},
        user_attrs=attributes,
    )
    return _timed(trial, folder, outcome)


def _timed(trial: FrozenTrial, folder: RunFolder, outcome: Outcome) -> FrozenTrial:
    """The trial with the times at which it began and ended."""
    end = ended_at(folder, trial.user_attrs["trial"], outcome)
    begun = begun_at(outcome)
    begun = max(0, end - round(1000 * outcome.wall_seconds)) if begun is None else begun
    # In local time without a zone, as Optuna writes its own.
    trial.datetime_start, trial.datetime_complete = (
        datetime.fromtimestamp(moment / 1000) for moment in (begun, end)
    )
    return trial


def _choices(manifest: Manifest) -> dict[str, CategoricalDistribution]:
    """Factor -> its levels, the reference first, alike for all trials of a study."""
    levels = {factor: dict.fromkeys(found) for factor, found in manifest.factors.items()}
    for spec in manifest.trials:
        for factor, level in spec.levels.items():
            levels.setdefault(factor, {}).setdefault(level)
    return {
        factor: CategoricalDistribution(tuple(found)) for factor, found in levels.items() if found
    }


def _by_epoch(folder: RunFolder, trial: str, metric: str) -> dict[int, float]:
    """Epoch -> the primary metric, where measured. Pre-training counts its own epochs."""
    return {
        max(-LAST_STEP, min(record["epoch"], LAST_STEP)): finite(record["metrics"][metric])
        for record in folder.records(trial)
        if record["phase"] != "pretrain" and metric in record["metrics"]
    }


def _content(trial: FrozenTrial) -> str:
    """What is compared of a trial: all but intermediate values, which follow from the rest.

    As text: NaN among the metrics equals NaN.
    """
    distributions = sorted((name, repr(each)) for name, each in trial.distributions.items())
    attributes = json.dumps(trial.user_attrs, sort_keys=True)
    told = (trial.state.name, trial.values, sorted(trial.params.items()), distributions, attributes)
    return repr((*told, trial.datetime_start, trial.datetime_complete))


def _require_ours(
    storage: RDBStorage, studies: Sequence[OptunaStudy], url: str, folder: RunFolder
) -> str | None:
    """What a database of several projects calls this folder; None for the project's own file.

    Raises OthersStudy if one of the studies there is of another project.
    """
    if sqlite_file(url):
        return None
    project = f"{platform.node()}:{folder.path.resolve()}"
    for study in studies:
        known = _existing(storage, study.name)
        theirs = known.user_attrs.get(PROJECT) if known else None
        if theirs not in (None, project):
            raise OthersStudy(study.name, theirs)
    return project


def _make_anew(
    storage: RDBStorage, studies: Sequence[optuna.Study], direction: StudyDirection
) -> None:
    """Delete Optuna studies, and make them again with the trials and attributes of others alone."""
    kept = []
    for study in studies:
        others = [trial for trial in study.trials if KEY not in trial.user_attrs]
        system_attributes = storage.get_study_system_attrs(study._study_id)
        kept.append((study.study_name, others, study.user_attrs, system_attributes))
        optuna.delete_study(study_name=study.study_name, storage=storage)
    # All are made before any is filled: a list of Optuna's studies begins with the arms.
    made = [_made(storage, name, direction) for name, *_ in kept]
    for study, (_, others, user_attributes, system_attributes) in zip(made, kept, strict=True):
        study.add_trials(others)
        for key, value in user_attributes.items():
            study.set_user_attr(key, value)
        for key, value in system_attributes.items():
            storage.set_study_system_attr(study._study_id, key, value)


def _made(storage: RDBStorage, name: str, direction: StudyDirection) -> optuna.Study:
    return optuna.create_study(
        storage=storage, study_name=name, direction=direction, load_if_exists=True
    )


def _existing(storage: RDBStorage, name: str) -> optuna.Study | None:
    with suppress(KeyError):
        return optuna.load_study(storage=storage, study_name=name)
    return None


OPTION = "--storage"
# drivers for PostgreSQL, the better one first
DRIVERS = ("psycopg", "psycopg2")
SQLITE_TIMEOUT_SECONDS = 60
# how long to wait for another process that holds the ledger
PATIENCE_SECONDS = 60.0
# A network that is cut is noticed, and not waited for. Seconds, but for the last: milliseconds.
CONNECTING = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
# ImportError: no driver for the database.
UNREACHABLE = (SQLAlchemyError, StorageInternalError, OSError, ImportError)


class LedgerUnavailable(Unavailable):
    """Optuna's database cannot be opened, read or written."""

    def __init__(self, url: str, error: BaseException):
        # Optuna says only that something was raised
        cause = first_line(error.__cause__ or error)
        super().__init__(
            f"Optuna's ledger at {redacted(url)} is not available: {redacted(cause, url)}"
        )


def storage_url(text: str) -> str:
    """The URL of a team's database, with the driver that is installed.

    Raises InputError if it is none.
    """
    try:
        url = sqlalchemy.make_url(text)
    except (ArgumentError, ValueError):
        # the error is not shown: its text holds the URL, or a part of the password
        raise _refusal(text, "is no database URL; write postgresql://user@host/database") from None
    if "@" in f"{url.host}{url.database}":
        raise _refusal(
            text,
            "special characters in a password are written as %40 (@), %2F (/) and so on",
        )
    if url.get_backend_name() == "sqlite" and url.database not in (None, "", ":memory:"):
        return text
    if url.get_backend_name() not in ("postgresql", "postgres"):
        raise _refusal(
            text,
            "must be postgresql://user@host/database "
            "(or sqlite:///file, for processes of one machine)",
        )
    if "+" not in url.drivername:
        driver = next((name for name in DRIVERS if importlib.util.find_spec(name)), None)
        if driver is None:
            raise _refusal(text, "needs a driver for PostgreSQL: pip install 'ablate-lt[postgres]'")
        url = url.set(drivername=f"postgresql+{driver}")
    return url.render_as_string(hide_password=False)


def _refusal(text: str, message: str) -> InputError:
    return InputError([Problem(OPTION, redacted(text), message)])


@contextmanager
def opened(url: str) -> Iterator[RDBStorage]:
    """The storage at `url`; a file is held for this process.

    Raises LedgerUnavailable, whatever the database raises, here or inside the `with`.
    """
    try:
        with ExitStack() as stack:
            path = sqlite_file(url)
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                lock = FileLock(path.with_name(f"{path.name}.lock"), timeout=PATIENCE_SECONDS)
                try:
                    stack.enter_context(lock)
                except Timeout:
                    raise OSError("another process is writing to it") from None
            require_usable(url)
            storage = _open(url)
            stack.callback(storage.engine.dispose)
            stack.callback(storage.remove_session)
            yield storage
    except UNREACHABLE as error:
        # The error's own traceback can hold credentials.
        raise LedgerUnavailable(url, error) from None


def _open(url: str) -> RDBStorage:
    options: dict[str, Any] = {}
    if url.startswith("postgresql"):
        options = {"pool_pre_ping": True, "connect_args": CONNECTING}
    elif sqlite_file(url):
        options = {"connect_args": {"timeout": SQLITE_TIMEOUT_SECONDS}}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with making(url):
            storage = RDBStorage(url, engine_kwargs=options)
    except RuntimeError as error:
        # another version of Optuna has made the tables
        raise StorageInternalError(str(error)) from None
    if sqlite_file(url):
        sqlalchemy.event.listen(storage.engine, "connect", _write_ahead)
        # Optuna's constructor has opened connections without these settings
        storage.engine.dispose()
    return storage


def _write_ahead(connection: Any, _record: Any) -> None:
    """Let others read a SQLite file while it is written, and commits not wait for the disk."""
    connection.execute("PRAGMA journal_mode = WAL")
    # A power cut loses the last commits, never the file.
    connection.execute("PRAGMA synchronous = NORMAL")

"""Optuna as the ledger of a study: which trials there are, and how far each has come.

A trial of the design is known by its content `key` and has at most one Optuna trial that counts: the
first that has not failed, else the last that failed. Several machines may share a ledger; each trial is
started by one of them. The harness says which trial is next, so no Optuna sampler is ever asked.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.exc import SQLAlchemyError

from ablation.database import first_line
from ablation.errors import InputError, Problem, Unavailable
from ablation.ledger_storage import open_storage, read_trials
from ablation.redaction import redacted
from ablation.runs import TrialSpec

TWICE = "enrolled twice"
SEEDS = IntDistribution(0, 2**32 - 1)
UNREACHABLE = (SQLAlchemyError, StorageInternalError, OSError, ImportError)  # the last: no driver for the database
STATES = {
    TrialState.WAITING: "WAITING",
    TrialState.RUNNING: "RUNNING",
    TrialState.COMPLETE: "COMPLETE",
    TrialState.FAIL: "FAILED",
    TrialState.PRUNED: "FAILED",  # the harness never prunes; a person with Optuna's own tools might
}


class LedgerUnavailable(Unavailable):
    """Optuna's database cannot be opened, read or written."""

    def __init__(self, url: str, error: BaseException):
        cause = first_line(error.__cause__ or error)  # Optuna says only that something was raised
        super().__init__(f"Optuna's ledger at {redacted(url)} is not available: {redacted(cause, url)}")


@contextlib.contextmanager
def reaching_ledger(url: str) -> Iterator[None]:
    """Turns whatever the database raises into `LedgerUnavailable`."""
    try:
        yield
    except UNREACHABLE as error:
        raise LedgerUnavailable(url, error) from None  # the error's own traceback can hold credentials


def _reaching(method: Callable[..., Any]) -> Callable[..., Any]:
    """The same for a method of `Ledger`."""

    @functools.wraps(method)
    def reach(ledger: Ledger, *args: Any, **kwargs: Any) -> Any:
        try:
            return method(ledger, *args, **kwargs)
        except UNREACHABLE as error:
            raise LedgerUnavailable(ledger._url, error) from None

    return reach


@dataclass
class _Entry:
    """The Optuna trial that counts for a key."""

    state: TrialState
    trial_id: int  # what the storage knows it by


class Ledger:
    """The trials of one study and their states. Not for use by several threads.

    Params of an Optuna trial are the levels of its factors and its `seed`; its user attributes are
    `trial`, `arm`, `kind`, `seed`, `key`, and, once it has ended, `metrics` or `reason`.

    Raises:
        InputError: the study exists and has the other direction.
        LedgerUnavailable: the database is locked, damaged or out of reach; every method can raise it.
    """

    @_reaching
    def __init__(self, storage_url: str, study: str, direction: str):
        self._url = storage_url
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._storage = open_storage(storage_url)
        self._study = optuna.create_study(
            storage=self._storage, study_name=study, direction=direction, load_if_exists=True
        )
        known = self._study.direction.name.lower()
        if known != direction:
            message = f"{direction!r}, but the study {study!r} was begun as {known!r}; give it another name"
            raise InputError([Problem("", "metric.goal", message)])
        self._study_id = self._storage.get_study_id_from_name(study)
        self._entries: dict[str, _Entry] = {}
        self._rivals: list[_Entry] = []  # RUNNING trials of keys that another trial counts for
        self._distributions: dict[str, BaseDistribution] = {}
        self._reload()

    def close(self) -> None:
        """Let go of the database; the ledger is of no use afterwards."""
        self._storage.remove_session()
        self._storage.engine.dispose()

    @_reaching
    def enroll(self, specs: Sequence[TrialSpec]) -> int:
        """Add a WAITING trial for every key that the study does not have; returns how many."""
        levels: dict[str, dict[str, None]] = defaultdict(dict)  # ordered sets
        for spec in specs:
            for factor, level in spec.levels.items():
                levels[factor][level] = None
        self._reload()
        n_before = len(self._entries)
        for spec in specs:
            if spec.key in self._entries:
                continue
            params, distributions = {"seed": spec.seed}, {"seed": SEEDS}
            for factor, level in spec.levels.items():
                name, choices = self._choices(factor, level, levels[factor])
                params[name], distributions[name] = level, choices
            attributes = {name: getattr(spec, name) for name in ("trial", "arm", "kind", "seed", "key")}
            self._add(params, distributions, attributes)
        n_added = len(self._entries) - n_before
        if n_added:
            self._reload()  # another machine may have enrolled the same keys meanwhile
        return n_added

    @_reaching
    def start(self, key: str) -> bool:
        """Take a WAITING trial; False if it is not waiting (any more), here or on another machine."""
        entry = self._entries[key]
        try:
            started = self._storage.set_trial_state_values(entry.trial_id, TrialState.RUNNING)
        except UpdateFinishedTrialError:
            entry.state = self._storage.get_trial(entry.trial_id).state
            return False
        entry.state = TrialState.RUNNING
        return started

    @_reaching
    def complete(self, key: str, metrics: Mapping[str, float], value: float) -> None:
        """Record a result. A `value` that is not finite is a failure. A trial that has ended stays as it is."""
        if math.isfinite(value):
            self._end(self._entries[key], TrialState.COMPLETE, "metrics", dict(metrics), [value])
        else:
            self.fail(key, f"the metric is {value}")

    @_reaching
    def fail(self, key: str, reason: str) -> None:
        """Record a failure. A trial that has ended stays as it is."""
        self._end(self._entries[key], TrialState.FAIL, "reason", reason)

    @_reaching
    def retry(self, key: str) -> bool:
        """Give a FAILED key a new WAITING trial; False if it has not failed."""
        entry = self._entries[key]
        if STATES[entry.state] != "FAILED":
            return False
        self._add_again(self._storage.get_trial(entry.trial_id))
        return True

    @_reaching
    def wait(self, key: str) -> None:
        """A RUNNING trial waits again, until it goes on."""
        entry = self._entries[key]
        if entry.state == TrialState.RUNNING:
            try:
                self._storage.set_trial_state_values(entry.trial_id, TrialState.WAITING)
                entry.state = TrialState.WAITING
            except UpdateFinishedTrialError:
                entry.state = self._storage.get_trial(entry.trial_id).state

    @_reaching
    def recover(self) -> list[str]:
        """Every RUNNING trial waits again; returns their keys. One that was enrolled and started twice waits once.

        For a study that no process is running, on any machine: what runs cannot be told from what was killed.
        """
        self._reload()
        interrupted = [key for key, entry in self._entries.items() if entry.state == TrialState.RUNNING]
        for key in interrupted:
            self.wait(key)
        for entry in self._rivals:
            self._end(entry, TrialState.FAIL, "reason", TWICE)
        return interrupted

    @_reaching
    def states(self) -> dict[str, str]:
        """key -> WAITING, RUNNING, COMPLETE or FAILED, as the storage has it now."""
        self._reload()
        return {key: STATES[entry.state] for key, entry in self._entries.items()}

    def _choices(self, factor: str, level: str, levels: Iterable[str]) -> tuple[str, CategoricalDistribution]:
        """The param that holds this level of a factor, and its choices.

        Optuna fixes a param's choices for ever with the first trial that has it. So a factor is the param of
        its own name with the levels it began with, and levels added later are in `<factor>#2`, and so on.
        """
        names = chain([factor], (f"{factor}#{n}" for n in count(2)))
        begun_with = CategoricalDistribution(tuple(levels))
        params = ((name, self._distributions.setdefault(name, begun_with)) for name in names)
        return next((name, known) for name, known in params if level in known.choices)

    def _add(self, params: dict, distributions: dict[str, BaseDistribution], attributes: dict) -> None:
        trial = create_trial(
            state=TrialState.WAITING, params=params, distributions=distributions, user_attrs=attributes
        )
        trial_id = self._storage.create_new_trial(self._study_id, trial)
        self._entries[attributes["key"]] = _Entry(TrialState.WAITING, trial_id)

    def _add_again(self, trial: FrozenTrial) -> None:
        attributes = {name: value for name, value in trial.user_attrs.items() if name != "reason"}
        self._add(trial.params, trial.distributions, attributes)

    def _end(
        self, entry: _Entry, state: TrialState, attribute: str, detail: object, values: list[float] | None = None
    ) -> None:
        trial_id = entry.trial_id
        try:
            self._storage.set_trial_user_attr(trial_id, attribute, detail)  # first: an ended trial is immutable
            self._storage.set_trial_state_values(trial_id, state, values)
        except UpdateFinishedTrialError:
            state = self._storage.get_trial(trial_id).state
        entry.state = state

    def _reload(self) -> None:
        """Read the trials' keys and states, and settle keys that were enrolled twice at once."""
        enrolled, distributions = read_trials(self._storage, self._study_id)
        self._distributions.update(distributions)
        entries: dict[str, _Entry] = {}
        surplus: list[_Entry] = []
        self._rivals = []
        for trial_id, state, key in enrolled:
            entry, rival = _Entry(state, trial_id), entries.get(key)
            if rival is None or STATES[rival.state] == "FAILED":
                entries[key] = entry
            elif entry.state == TrialState.WAITING:
                surplus.append(entry)
            elif entry.state == TrialState.RUNNING:
                self._rivals.append(entry)
        self._entries = entries
        for entry in surplus:
            self._end(entry, TrialState.FAIL, "reason", TWICE)

"""The search of one arm: Optuna's sampler and pruner, asked and told in the order of the events.

The Optuna study is in memory, and made again from the events of `ablation.storage.asked`. A sampler
is made anew for each trial, seeded by the trial's number: what it suggests follows from that and
the events so far, and from nothing else. So a search that is killed and goes on asks for the same
trials as one that is not. All arms have the same seeds: where two have the same space, their first
trials are the same.
"""

from __future__ import annotations

import hashlib
import itertools
import random
import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial

from ablation.grid.search import Scalar, Search, Space
from ablation.storage.asked import COMPLETE, AskedTrial, Event, SearchLog
from ablation.tracking.ledger import distribution

# of rungs, and of what is promoted at each
FACTOR = 3

# complete trials that importances are taken of: 200 take 1.5 s
MOST_IMPORTANCES = 200

# a study in memory is nobody's news
optuna.logging.disable_default_handler()


class ArmSearch:
    """One arm's Optuna study.

    Args:
        own: values of the arm without a search; they are tried first. None: outside the space
        n_epochs: of a whole trial; None: not known, of own code
    """

    def __init__(
        self,
        search: Search,
        space: Space,
        log: SearchLog,
        own: Mapping[str, Scalar] | None,
        n_epochs: int | None,
    ):
        self.search, self.log, self._own, self._n_epochs = search, log, own, n_epochs
        self._domains = {key: distribution(domain) for key, domain in space.items()}
        self._cells = None
        if search.sampler == "grid":
            values = [domain.values or () for domain in space.values()]
            self._cells = [
                dict(zip(space, cell, strict=True)) for cell in itertools.product(*values)
            ]
            # where there are fewer trials than cells, these are from all over the grid
            random.Random(0).shuffle(self._cells)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            self._study = optuna.create_study(
                # brackets of hyperband follow from it
                study_name="search",
                direction=StudyDirection[search.metric["goal"].upper()],
                pruner=_pruner(search, n_epochs),
            )
        self._trials: dict[int, optuna.Trial] = {}
        # of trials that have not ended, the last step that was reported
        self._steps: dict[int, int] = {}
        for event in log.events:
            self._replay(event)

    def ask(self) -> AskedTrial:
        """The next trial."""
        number = len(self.log.trials)
        fixed: Mapping[str, Scalar] | None = self._own if number == 0 else None
        if self._cells is not None:
            fixed = self._cells[number]
        elif fixed is None and self.search.sampler == "gp":
            fixed = self._by_gaussian_process(number)
        if fixed is not None:
            self._study.enqueue_trial(dict(fixed))
        trial = self._asked(number)
        self.log.append({"ask": number, "values": {key: trial.params[key] for key in trial.params}})
        self._trials[number] = trial
        return self.log.trials[number]

    def report(self, number: int, step: int, value: float) -> bool:
        """Tell a trial's metric at its next step that has one; returns whether it is to end there.

        That is decided at the first step from each rung on.
        """
        is_end = self._reported(number, step, value)
        self.log.append({"step": step, "of": number, "value": value, "prune": is_end})
        return is_end

    def rung_after(self, step: int) -> int:
        """The first rung after a step: it is decided there whether a trial goes on."""
        if self.search.pruner == "none":
            return sys.maxsize
        rung = self.search.min_epochs
        if self.search.pruner == "median":
            return (step // rung + 1) * rung
        while rung <= step:
            rung *= FACTOR
        return rung

    def tell(self, number: int, state: str, value: float | None = None) -> None:
        """End a trial. value: of a complete one."""
        event: Event = {"end": number, "state": state}
        if value is not None:
            event["value"] = value
        self._end(event)
        self.log.append(event)

    def _replay(self, event: Event) -> None:
        if "ask" in event:
            self._study.enqueue_trial(dict(event["values"]))
            # its values are known, so that there is nothing to sample
            self._study.sampler = optuna.samplers.RandomSampler(seed=0)
            self._trials[event["ask"]] = self._study.ask(dict(self._domains))
        elif "step" in event:
            # what was decided stands in the event
            self._reported(event["of"], event["step"], event["value"])
        else:
            self._end(event)

    def _reported(self, number: int, step: int, value: float) -> bool:
        trial, before = self._trials[number], self._steps.get(number, 0)
        self._steps[number] = step
        trial.report(value, step)
        # NumPy's bool, of some pruners, is none of JSON's
        is_rung = self.rung_after(before) <= step and self._has_brackets
        return is_rung and bool(trial.should_prune())

    @property
    def _has_brackets(self) -> bool:
        """Whether hyperband can have its brackets by now, where they are by complete trials.

        It makes them when it is first asked, for good; trials shorter than a bracket would give it
        none, and it would end no trial ever.
        """
        if self.search.pruner != "hyperband" or self._n_epochs is not None:
            return True
        complete = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return any((one.last_step or 0) + 1 >= self.search.min_epochs for one in complete)

    def _asked(self, number: int) -> optuna.Trial:
        self._study.sampler = _sampler(self.search, number)
        return self._study.ask(dict(self._domains))

    def _by_gaussian_process(self, number: int) -> dict[str, Scalar]:
        """The next values, by a process that takes what was not completed for as bad as the worst.

        Optuna's sees complete trials alone: where the best that it expects diverges, fails or is
        pruned, it would learn nothing, and ask for the same again until the budget is spent.
        """
        trials = self.log.trials.values()
        complete = [one.value for one in trials if one.state == COMPLETE]
        direction = self._study.direction
        worst = (max if direction == StudyDirection.MINIMIZE else min)(complete, default=None)
        study = optuna.create_study(direction=direction, sampler=_sampler(self.search, number))
        for one in trials:
            state, value = TrialState.RUNNING, None
            if one.state:
                state = TrialState.COMPLETE
                value = one.value if one.state == COMPLETE else worst
                if value is None:
                    # nothing is known yet that it could be as bad as
                    continue
            told = create_trial(
                state=state, value=value, params=one.values, distributions=self._domains
            )
            study.add_trial(told)
        return study.ask(dict(self._domains)).params

    def _end(self, event: Event) -> None:
        is_complete = event["state"] == COMPLETE
        # samplers pass over failed trials, and ask for the like again: they are told as bad ones
        state = TrialState.COMPLETE if is_complete else TrialState.PRUNED
        value = event["value"] if is_complete else None
        self._steps.pop(event["end"], None)
        self._study.tell(self._trials.pop(event["end"]), value, state)


def _sampler(search: Search, number: int) -> BaseSampler:
    """Seeded by a trial's number. A grid's cells are counted out, and its sampler is never used."""
    seed = int.from_bytes(hashlib.sha256(f"search {number}".encode()).digest()[:4], "big")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        if search.sampler == "tpe":
            return optuna.samplers.TPESampler(seed=seed)
        if search.sampler == "gp":
            return optuna.samplers.GPSampler(seed=seed)
        return optuna.samplers.RandomSampler(seed=seed)


def _pruner(search: Search, n_epochs: int | None) -> BasePruner:
    least = search.min_epochs
    if search.pruner == "hyperband":
        # "auto": by the first trial that is complete and long enough; none is pruned before
        most: int | str = "auto" if n_epochs is None else max(n_epochs, least)
        return optuna.pruners.HyperbandPruner(least, most, FACTOR)
    if search.pruner == "successive-halving":
        return optuna.pruners.SuccessiveHalvingPruner(least, FACTOR)
    if search.pruner == "median":
        return optuna.pruners.MedianPruner()
    return optuna.pruners.NopPruner()


def importances(goal: str, space: Space, trials: Sequence[AskedTrial]) -> dict[str, float]:
    """Setting -> share of the metric's variance over the complete trials (fANOVA), largest first.

    {} where there is one setting alone, or too few trials to tell. Of more than MOST_IMPORTANCES
    complete trials, as many are drawn: the time grows with the square of their number.
    """
    complete = [one for one in trials if one.state == COMPLETE]
    if len(complete) > MOST_IMPORTANCES:
        complete = random.Random(0).sample(complete, MOST_IMPORTANCES)
    if len(space) < 2 or len(complete) < 4 or len({one.value for one in complete}) < 2:
        return {}
    domains = {key: distribution(domain) for key, domain in space.items()}
    study = optuna.create_study(direction=StudyDirection[goal.upper()])
    study.add_trials(
        create_trial(params=one.values, distributions=domains, value=one.value) for one in complete
    )
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    for cache in forest_caches():
        cache.cache_clear()
    return {key: float(share) for key, share in found.items()}


def forest_caches() -> list[Any]:
    """Caches of Optuna's for nodes of trees, which keep each forest for ever: 10 MB an arm."""
    # private: where another version of Optuna has none, there is nothing to clear
    module = sys.modules.get("optuna.importance._fanova._tree")
    classes = [
        found for found in (vars(module) if module else {}).values() if isinstance(found, type)
    ]
    methods = [method for found in classes for method in vars(found).values()]
    return [method for method in methods if hasattr(method, "cache_clear")]

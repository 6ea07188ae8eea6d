"""Tune every arm of a study: its search's trials as a study of its own, `<study>.search`.

Each arm and each baseline with a space is searched by itself: a trial is asked for when the one
before it has ended (`parallel` of them at a time), and arms are searched side by side. A trial's
chain is planned up to the next rung, where it is decided whether it goes on from its checkpoint;
what trials have in common is trained once, as everywhere. When all budgets are spent, the settings
of each arm's best trial take the place of its own; the untuned ones are run beside them.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from ablation.errors import InputError
from ablation.formatting import listed
from ablation.grid.idle import Layer, merged
from ablation.grid.load import Study, Variant
from ablation.grid.search import (
    Scalar,
    Search,
    Space,
    n_before,
    n_cells,
    own_values,
    space_of,
)
from ablation.grid.strict_yaml import show
from ablation.planning.plan import Plan, PlannedTrial, Planner, counted, plan_trial, revise
from ablation.storage.asked import (
    COMPLETE,
    FAILED,
    PRUNED,
    AskedTrial,
    SearchLog,
    trial_name,
)
from ablation.storage.cache import DiskStore
from ablation.storage.runs import SEARCH, UNTUNED, RunFolder
from ablation.subject.own import OwnCode
from ablation.subject.protocol import LinkLike, Record, digest_of

# trials in a row whose settings contradict each other, before an arm's search is given up
MAX_UNFIT = 100
# trials in a row without an epoch of their own, before a budget of epochs counts as spent
MAX_FREE = 100

TEST_IMAGES_SEEN = (
    "Every seed draws its own test images: those of the study's seeds are among the images that the"
    " search trains and validates on, for all arms alike, and results on them can be better than on"
    " new images"
)


class ArmTuning:
    """One arm's space, and what its search has found so far; nothing of Optuna."""

    def __init__(self, study: Study, search: Search, variant: Variant, space: Space, folder: Path):
        self.study, self.search, self.variant, self.space = study, search, variant, space
        layers = (*variant.layers, Layer(study.grid.file, "search.settings", search.settings))
        # of its trials, before what is looked for
        self.settings = merged(layers)
        self.config = study.subject.resolve(self.settings)
        self.own = own_values(space, self.config)
        self.log = SearchLog(folder, variant.name, self._digest)
        # of the first trials, all of which have ended: epochs that no earlier one has, and their
        # keys
        self._n_new: list[int] = []
        self._seen: set[str] = set()

    @cached_property
    def chain(self) -> Sequence[LinkLike]:
        """Of a trial with the arm's own settings, at its longest."""
        seed = self.search.seeds[0]
        return self.study.subject.chain(self.settings, seed, lambda key: None)

    @property
    def _digest(self) -> str:
        """Of all that the events depend on, but for how many trials there are to be."""
        told = {**asdict(self.search), "space": {k: repr(v) for k, v in self.space.items()}}
        del told["trials"], told["budget"]
        return digest_of([told, self.config, self.chain[-1].key])

    def settings_of(self, values: Mapping[str, Scalar]) -> dict[str, Any]:
        """The settings of a trial of the search."""
        return merged((Layer("", "", self.settings), Layer("", "", values)))

    @property
    def epochs_spent(self) -> int:
        """Epochs of its trials, each counted once: those that trials share cost once."""
        return sum(self._new_epochs())

    def _new_epochs(self) -> list[int]:
        """Of each trial in order, how many epochs no earlier one has."""
        found, of_open = list(self._n_new), set[str]()
        is_settled = True
        for number in range(len(found), len(self.log.trials)):
            trial = self.log.trials[number]
            keys = self._keys(trial) - self._seen - of_open
            found.append(len(keys))
            is_settled = is_settled and bool(trial.state)
            if is_settled:
                self._seen |= keys
                self._n_new.append(len(keys))
            else:
                of_open |= keys
        return found

    def _keys(self, trial: AskedTrial) -> set[str]:
        if not self.is_fit(trial.values):
            return set()
        settings = self.settings_of(trial.values)
        return {
            link.key
            for seed in self.search.seeds
            for link in until(
                self.study.subject.chain(settings, seed, lambda key: None), trial.pruned_at
            )
        }

    def is_fit(self, values: Mapping[str, Scalar]) -> bool:
        """Whether values go together."""
        faults = self.study.subject.check(self.settings_of(values))
        return all(fault.absent for fault in faults)

    @property
    def n_cells(self) -> int | None:
        """Of a full grid; None where another sampler is asked."""
        return n_cells(self.space) if self.search.sampler == "grid" else None

    @property
    def is_spent(self) -> bool:
        """Whether its budget is, or its grid has no cell left, but for trials that are open."""
        n = len(self.log.trials)
        if self.n_cells is not None and n >= self.n_cells:
            return True
        return n >= self.search.trials if self.search.trials else self._spends_budget()

    def _spends_budget(self) -> bool:
        new = self._new_epochs()
        if not new or sum(new) >= self.search.budget:
            return bool(new)
        # What was tried before costs nothing: there may be nothing else to ask for.
        last = list(self.log.trials.values())[-MAX_FREE:]
        return (
            len(last) == MAX_FREE
            and not any(new[-MAX_FREE:])
            and any(self.is_fit(trial.values) for trial in last)
        )

    @property
    def is_finished(self) -> bool:
        """Whether nothing is left to be asked or told."""
        return self.is_spent and not self.log.open

    @property
    def n_counted(self) -> int:
        """How many of its first trials the budget pays for; more are there if it was larger."""
        if self.search.trials:
            return min(self.search.trials, len(self.log.trials))
        spent = itertools.accumulate(self._new_epochs(), initial=0)
        return sum(n < self.search.budget for n in list(spent)[:-1])

    @property
    def n_epochs_counted(self) -> int:
        """Epochs of these trials, each counted once."""
        return sum(self._new_epochs()[: self.n_counted])

    @property
    def n_measured(self) -> int:
        """How many of these trials measured the metric where the pruner could still end them."""
        n, least = self.n_counted, self.search.min_epochs
        ended = (trial for trial in self.log.ended() if trial.number < n)
        return sum(trial.last_step >= least for trial in ended)

    @property
    def best(self) -> AskedTrial | None:
        """The trial whose settings the arm gets; None if no trial was completed."""
        return self.log.best(self.search.metric["goal"], self.n_counted)


def until(links: Sequence[LinkLike], step: int | None) -> Sequence[LinkLike]:
    """The links of a chain up to a step, which counts its epochs without pre-training."""
    return links if step is None else links[: n_before(links) + step]


@dataclass(frozen=True)
class Tuning:
    """The search of all arms of a study whose grid has one."""

    study: Study
    # of the search's trials
    folder: RunFolder

    @cached_property
    def arms(self) -> dict[str, ArmTuning]:
        """Arm or baseline -> its search, of those with a space."""
        study, search, folder = self.study, self.search, self.folder.path
        return {
            variant.name: ArmTuning(study, search, variant, space, folder)
            for variant in study.variants
            if (space := space_of(search, study.subject, variant.layers))
        }

    @property
    def search(self) -> Search:
        """What the grid says."""
        search = self.study.grid.search
        assert search is not None
        return search

    @property
    def warnings(self) -> list[str]:
        """What the subject warns of in the settings of the search's trials, and test images seen.

        Held-out images do not overlap the test images of their own seed; those of others, they may.
        """
        describe, arms = self.study.subject.describe, self.arms.values()
        found = [text for arm in arms for text in describe(arm.settings).get("warnings", [])]
        if any("test" in describe(arm.variant.settings).get("drawn_per_seed", []) for arm in arms):
            found.append(TEST_IMAGES_SEEN)
        return list(dict.fromkeys(found))

    @property
    def replaced_options(self) -> list[str]:
        """A line for each setting of `-S` that tuned arms will not have: it is looked for."""
        # all arms and baselines have them
        layers = tuple(layer for layer in self.study.variants[0].layers if layer.file == "-S")
        lines = []
        for key, value in merged(layers).items():
            arms = [arm for arm in self.arms.values() if key in arm.space]
            if arms:
                told = f"-S {key}={show(value)} does not hold for tuned arms: the search sets {key}"
                begins = any(arm.own is not None for arm in arms)
                lines.append(f"{told}{', and only begins there' if begins else ''}")
        return lines

    @property
    def unpruned(self) -> list[str]:
        """A line for the arms whose trials the pruner could not end."""
        arms = [name for name, arm in self.arms.items() if arm.log.ended() and not arm.n_measured]
        if self.search.pruner == "none" or not arms:
            return []
        metric, least = self.search.metric["name"], self.search.min_epochs
        why = f"none measured {metric} at an epoch from {least} on that was not its last"
        return [f"no trial of {listed(arms)} could be ended early: {why}"]

    @property
    def is_finished(self) -> bool:
        """Whether the search of every arm is."""
        return all(arm.is_finished for arm in self.arms.values())

    @property
    def is_due(self) -> bool:
        """Whether it is to be run: it is not finished, or has lost its manifest."""
        return not (self.is_finished and self.folder.exists())

    @property
    def search_study(self) -> Study:
        """The study of the search's trials; its variants are the arms that are searched."""
        grid = replace(
            self.study.grid,
            metric=self.search.metric,
            seeds=self.search.seeds,
            claims=(),
            reference=None,
            baselines=(),
            search=None,
            looks=(),
        )
        variants = [replace(arm.variant, settings=arm.settings) for arm in self.arms.values()]
        common = merged((Layer("", "", self.study.common), Layer("", "", self.search.settings)))
        return replace(self.study, grid=grid, variants=tuple(variants), common=common)

    def tuned(self) -> Study:
        """The study with the best settings of each arm, and its own ones beside them."""
        variants, untuned = [], []
        for variant in self.study.variants:
            arm = self.arms.get(variant.name)
            best = arm.best if arm else None
            if best is None:
                variants.append(variant)
                continue
            found = Layer(self.study.grid.file, "search.space", best.values)
            layers = (*variant.layers, found)
            variants.append(replace(variant, settings=merged(layers), layers=layers))
            if best.values != (arm.own if arm else None):
                untuned.append(untuned_twin(variant))
        return replace(self.study, variants=(*variants, *untuned))


def untuned_twin(variant: Variant) -> Variant:
    """What stands beside an arm or baseline that was tuned: the same with its own settings."""
    return replace(variant, name=f"{variant.name}.{UNTUNED}", kind=UNTUNED)


class _Entry(NamedTuple):
    """A trial of the search under one seed, as it is planned."""

    arm: str
    number: int
    # without the end that the pruner may make
    whole: PlannedTrial


class SearchPlanner(Planner):
    """Plans the search's trials: asks for new ones, and decides at the rungs which go on."""

    def __init__(self, tuning: Tuning, store: DiskStore):
        # Optuna is loaded where it is asked.
        from ablation.search.sampling import ArmSearch

        super().__init__(tuning.search_study)
        self.tuning, self.store = tuning, store
        self._entries: dict[str, _Entry] = {}
        # key of a link -> the trial that has it first
        self._owner: dict[str, str] = {}
        self._optuna: dict[str, ArmSearch] = {}
        is_own = isinstance(tuning.study.subject, OwnCode)
        for name, arm in tuning.arms.items():
            n_epochs = None if is_own else len(arm.chain) - n_before(arm.chain)
            self._optuna[name] = ArmSearch(tuning.search, arm.space, arm.log, arm.own, n_epochs)

    @property
    def logs(self) -> dict[str, SearchLog]:
        """Arm -> its events."""
        return {name: arm.log for name, arm in self.tuning.arms.items()}

    def begun(self) -> Plan:
        """The trials that have been asked for already, as far as is decided."""
        trials: dict[str, PlannedTrial] = {}
        for name, arm in self.tuning.arms.items():
            for asked in arm.log.trials.values():
                if arm.is_fit(asked.values):
                    trials |= self._planned(name, asked)
        return Plan(trials)

    def revised(self, plan: Plan, name: str, store: DiskStore) -> Plan:
        """The plan with a trial's chain up to its next rung, or to its end."""
        entry, trial = self._entries[name], plan.trials[name]
        if entry.whole.undecided:
            # of a plateau, which ends where records say
            known = revise(self.study, Plan({name: entry.whole}), store, name).trials[name]
            entry = entry._replace(whole=known)
            self._entries[name] = entry
        n = self._n_links(entry, store, len(trial.links))
        links = entry.whole.links[:n]
        if links == trial.links:
            return plan
        return Plan({**plan.trials, name: self._owned(replace(trial, links=links))})

    def ends_after(self, name: str, epoch: Record) -> bool:
        """Whether the pruner ends a trial of own code with this epoch."""
        entry = self._entries[name]
        asked = self.tuning.arms[entry.arm].log.trials[entry.number]
        if asked.pruned_at is not None:
            return epoch["epoch"] >= asked.pruned_at
        is_new = not asked.state and epoch["epoch"] > asked.last_step
        value = epoch["metrics"].get(self.tuning.search.metric["name"], math.nan)
        if self.tuning.search.pruner == "none" or not is_new or not math.isfinite(value):
            return False
        return self._optuna[entry.arm].report(entry.number, epoch["epoch"], value)

    def grown(self, plan: Plan) -> Plan:
        """The plan with the trials that are due: of each arm whose last ones have ended."""
        added: dict[str, PlannedTrial] = {}
        for name, arm in self.tuning.arms.items():
            self._tell(name)
            while len(arm.log.open) < self.tuning.search.parallel and not arm.is_spent:
                added |= self._asked(name)
        return Plan({**plan.trials, **added}) if added else plan

    def _asked(self, name: str) -> dict[str, PlannedTrial]:
        """A new trial of an arm. Values that do not go together end theirs at once."""
        arm, optuna = self.tuning.arms[name], self._optuna[name]
        for seed in self.tuning.search.seeds:
            # that of another search, in which it may have been pruned
            self.tuning.folder.forget_outcome(trial_name(name, len(arm.log.trials), seed))
        asked = optuna.ask()
        if arm.is_fit(asked.values):
            return self._planned(name, asked)
        optuna.tell(asked.number, FAILED)
        last = arm.log.ended()[-MAX_UNFIT:]
        if len(last) == MAX_UNFIT and not any(arm.is_fit(one.values) for one in last):
            faults = self.study.subject.check(arm.settings_of(asked.values))
            raise InputError(
                [self.study.located(arm.variant, one.key, one.message) for one in faults]
            )
        return {}

    def _planned(self, name: str, asked: AskedTrial) -> dict[str, PlannedTrial]:
        arm, found = self.tuning.arms[name], {}
        settings = arm.settings_of(asked.values)
        variant = replace(arm.variant, kind=SEARCH, settings=settings)
        config = self.study.subject.resolve(settings)
        for seed in self.tuning.search.seeds:
            trial = trial_name(name, asked.number, seed)
            whole = plan_trial(
                self.study.subject, variant, trial, seed, self.store, self.tuning.folder, config
            )
            entry = _Entry(name, asked.number, whole)
            self._entries[trial] = entry
            n = self._n_links(entry, self.store, 0)
            links = whole.links[:n]
            found[trial] = self._owned(PlannedTrial(whole.spec, links, undecided=True))
        return found

    def _n_links(self, entry: _Entry, store: DiskStore, n_known: int) -> int:
        """How many links of a trial are sure to be run; decides at the rungs that it has reached.

        n_known: as many were sure so far.
        """
        arm, optuna = self.tuning.arms[entry.arm], self._optuna[entry.arm]
        asked, links = arm.log.trials[entry.number], entry.whole.links
        before = n_before(links)
        if asked.pruned_at is not None:
            return before + asked.pruned_at
        if asked.state:
            return len(links)
        n = max(n_known, before + optuna.rung_after(asked.last_step))
        while n < len(links):
            if not all(store.holds("record", link.key) for link in reversed(links[:n])):
                return n
            values = self._values(asked, links[before:n], store)
            # what is not measured at the rung decides later
            if n - before in values:
                ends = [optuna.report(entry.number, *one) for one in values.items()]
                if ends[-1]:
                    return n
                n = before + optuna.rung_after(n - before)
            else:
                n += 1
        return len(links)

    def _values(
        self, asked: AskedTrial, links: Sequence[LinkLike], store: DiskStore
    ) -> dict[int, float]:
        """Step -> metric, of a trial's epochs of which Optuna has not been told."""
        metric, values = self.tuning.search.metric["name"], {}
        for step, link in enumerate(links, 1):
            if step > asked.last_step:
                record = store.record(link.key)
                value = record["metrics"].get(metric) if record else None
                if value is not None and math.isfinite(value):
                    values[step] = value
        return values

    def _owned(self, trial: PlannedTrial) -> PlannedTrial:
        """The trial, with how many of its links no trial before it has."""
        name = trial.spec.trial
        keys = {link.key for link in trial.links}
        n_own = sum(self._owner.setdefault(key, name) == name for key in keys)
        return counted(trial, len(keys), n_own)

    def _tell(self, name: str) -> None:
        """Tell Optuna of the trials that have ended since."""
        arm, folder = self.tuning.arms[name], self.tuning.folder
        for asked in list(arm.log.open.values()):
            if trial_name(name, asked.number, self.tuning.search.seeds[0]) not in self._entries:
                # its values do not go together, and the search was killed before that was noted
                self._optuna[name].tell(asked.number, FAILED)
                continue
            specs = [
                self._entries[trial_name(name, asked.number, seed)].whole.spec
                for seed in self.tuning.search.seeds
            ]
            outcomes = [folder.ending(spec) for spec in specs]
            ended = [outcome for outcome in outcomes if outcome is not None]
            if len(ended) < len(outcomes):
                continue
            optuna = self._optuna[name]
            failures = [one.error["type"] for one in ended if one.error is not None]
            if failures:
                # a trial that diverges is as bad as one that is pruned: its settings are to blame
                diverged = {"Diverged", "NotFinite"}.issuperset(failures)
                optuna.tell(asked.number, PRUNED if diverged else FAILED)
            elif asked.pruned_at is not None:
                optuna.tell(asked.number, PRUNED)
            else:
                metric = self.tuning.search.metric["name"]
                values = [outcome.metrics[metric] for outcome in ended]
                optuna.tell(asked.number, COMPLETE, sum(values) / len(values))


def search_begun(tuning: Tuning, name: str) -> dict[str, Any]:
    """Of the study of the search's trials: whose search it is, and each arm's space and events."""
    arms = {
        arm: {"space": _space(found), "digest": found.log.digest}
        for arm, found in tuning.arms.items()
    }
    return {"of": name, "arms": arms}


def search_found(tuning: Tuning, before: Mapping[str, Any]) -> dict[str, Any]:
    """Of the study that was tuned: how it was searched, and what was found for each arm.

    before: as it was found last, or {}; importances, which take seconds, are taken from there
    """
    search = tuning.search
    arms = {}
    for name, arm in tuning.arms.items():
        n, best = arm.n_counted, arm.best
        ended = [one for one in arm.log.ended() if one.number < n]
        counts = {
            state: sum(one.state == state for one in ended) for state in (COMPLETE, PRUNED, FAILED)
        }
        own = next((one for one in ended if one.values == arm.own and one.state == COMPLETE), None)
        trials = [[one.number, one.state, *_values(one)] for one in ended]
        known = before.get("arms", {}).get(name, {})
        if (known.get("trials"), known.get("digest")) == (trials, arm.log.digest):
            shares = known["importances"]
        else:
            # Optuna is loaded where a search has just ended.
            from ablation.search.sampling import importances

            shares = importances(search.metric["goal"], arm.space, ended)
        arms[name] = {
            "space": _space(arm),
            "digest": arm.log.digest,
            "counts": counts,
            "epochs": arm.n_epochs_counted,
            "best": best.values if best else None,
            "value": best.value if best else None,
            "number": best.number if best else None,
            "own": arm.own,
            "own_value": own.value if own else None,
            "importances": shares,
            "trials": trials,
            "n_measured": arm.n_measured,
        }
    how = {key: value for key, value in asdict(search).items() if key != "space"}
    warnings = {"warnings": tuning.warnings} if tuning.warnings else {}
    return {**how, **warnings, "arms": arms}


def _values(trial: AskedTrial) -> tuple[float | None, float | None]:
    """The metric at the end of a complete trial, and as it was reported last, if it was."""
    return (trial.value, trial.value) if trial.state == COMPLETE else (None, trial.last_value)


def _space(arm: ArmTuning) -> dict[str, Any]:
    """As JSON gives it back: tuples become lists."""
    told = {key: asdict(domain) for key, domain in arm.space.items()}
    space: dict[str, Any] = json.loads(json.dumps(told))
    return space

"""What a study will compute: trials, their chains of epochs, what is shared and what is there already."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ablation.forest import ownership
from ablation.grid import Study
from ablation.runs import RunFolder, TrialSpec
from ablation.store import DiskStore
from ablation.subject import Link, Record

LookUp = Callable[[str], Record | None]


@dataclass(frozen=True)
class PlannedTrial:
    """A trial and its chain as known now."""

    spec: TrialSpec
    links: Sequence[Link]
    undecided: bool  # the chain's length depends on records: it was planned at its longest, or is now known


@dataclass(frozen=True)
class Plan:
    """All trials in the order of the report: arms, then baselines, seeds within."""

    trials: Mapping[str, PlannedTrial]

    @property
    def specs(self) -> list[TrialSpec]:
        return [trial.spec for trial in self.trials.values()]

    def unfinished(self, folder: RunFolder) -> Plan:
        """The plan of those trials that have no outcome yet."""
        return Plan(
            {
                name: trial
                for name, trial in self.trials.items()
                if folder.ending(trial.spec) is None
            }
        )

    def n_naive(self) -> int:
        """Epochs if every trial ran alone."""
        return sum(len(trial.links) for trial in self.trials.values())

    def unique(self) -> dict[str, Link]:
        return {link.key: link for trial in self.trials.values() for link in trial.links}

    def missing(self, store: DiskStore) -> list[Link]:
        """Links without a record: what is left to train."""
        return [link for key, link in self.unique().items() if not store.holds("record", key)]


def build_plan(study: Study, store: DiskStore, folder: RunFolder) -> Plan:
    """Plan every variant under every seed. Keys alone are computed: no training code is loaded.

    A chain whose length depends on records is looked up in `store`; that of a trial that is finished, in its folder,
    since the store need not have what it reported any more.
    """
    trials: dict[str, PlannedTrial] = {}
    for variant in study.variants:
        for seed in study.grid.seeds:
            links, undecided = _chain(study, variant.settings, seed, store.record)
            longest = (
                _chain(study, variant.settings, seed, lambda key: None)[0] if undecided else links
            )
            name = f"{variant.name}--s{seed}"
            spec = TrialSpec(
                trial=name, arm=variant.name, kind=variant.kind, levels=dict(variant.levels), seed=seed,
                key=trial_key(name, longest, study.subject.resolve(variant.settings)), settings=dict(variant.settings),
                epochs_planned=len(links), epochs_trained=0, epochs_shared=0,
            )  # fmt: skip
            if undecided and folder.ending(spec) is not None:
                links = study.subject.chain(
                    spec.settings, seed, _by_place(longest, folder.records(name))
                )
            trials[spec.trial] = PlannedTrial(spec, links, undecided)
    return _with_ownership(trials)


def revise(study: Study, plan: Plan, store: DiskStore, name: str) -> Plan:
    """The plan with an undecided trial's chain looked up again, now that more records are there."""
    trial = plan.trials[name]
    if not trial.undecided:
        return plan
    links = study.subject.chain(trial.spec.settings, trial.spec.seed, store.record)
    if links == trial.links:
        return plan
    return _with_ownership({**plan.trials, name: replace(trial, links=links)})


def expected(study: Study, plan: Plan, store: DiskStore, folder: RunFolder) -> Plan:
    """The plan with undecided chains of unfinished trials as long as that of a finished trial of the same arm came to."""
    undecided = {name: trial for name, trial in plan.trials.items() if trial.undecided}
    unfinished = Plan(undecided).unfinished(folder).trials
    finished = {trial.spec.arm: name for name, trial in undecided.items() if name not in unfinished}
    trials = dict(plan.trials)
    for name, trial in unfinished.items():
        if trial.spec.arm in finished:
            look_up = _by_place(trial.links, folder.records(finished[trial.spec.arm]), store.record)
            links = study.subject.chain(trial.spec.settings, trial.spec.seed, look_up)
            trials[name] = replace(trial, links=links)
    return _with_ownership(trials)


def _chain(
    study: Study, settings: Mapping, seed: int, look_up: LookUp
) -> tuple[Sequence[Link], bool]:
    """A trial's links, and whether their number depends on records."""
    asked = False

    def records(key: str) -> Record | None:
        nonlocal asked
        asked = True
        return look_up(key)

    return study.subject.chain(settings, seed, records), asked


def _by_place(
    links: Sequence[Link], records: Iterable[Record], known: LookUp = lambda key: None
) -> LookUp:
    """Looks up records without keys, where none is `known`, by phase and epoch of the links with the keys."""
    places = {link.key: (link.phase, link.epoch) for link in links}
    found = {(record["phase"], record["epoch"]): record for record in records}
    return lambda key: known(key) or found.get(places.get(key))


def trial_key(name: str, links: Sequence[Link], config: Mapping) -> str:
    """A trial's identity: its name, its chain at its longest, which no record changes, and its configuration,
    which may say where the chain ends (a plateau's tolerance) without being in any link."""
    text = json.dumps([name, links[-1].key, config], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _with_ownership(trials: dict[str, PlannedTrial]) -> Plan:
    counts = ownership({name: trial.links for name, trial in trials.items()})
    return Plan({
        name: replace(trial, spec=replace(trial.spec, epochs_planned=len(trial.links), epochs_trained=counts[name][0], epochs_shared=counts[name][1]))
        for name, trial in trials.items()
    })  # fmt: skip

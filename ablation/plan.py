"""What a study will compute: trials, their chains of epochs, what is shared and what is there already."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ablation.forest import ownership
from ablation.grid import Study
from ablation.runs import TrialSpec
from ablation.store import DiskStore
from ablation.subject import Link, Record


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

    def n_naive(self) -> int:
        """Epochs if every trial ran alone."""
        return sum(len(trial.links) for trial in self.trials.values())

    def unique(self) -> dict[str, Link]:
        return {link.key: link for trial in self.trials.values() for link in trial.links}

    def missing(self, store: DiskStore) -> list[Link]:
        """Links without a record: what is left to train."""
        return [link for key, link in self.unique().items() if not store.holds("record", key)]


def build_plan(study: Study, store: DiskStore) -> Plan:
    """Plan every variant under every seed. Keys alone are computed: no training code is loaded."""
    trials: dict[str, PlannedTrial] = {}
    for variant in study.variants:
        for seed in study.grid.seeds:
            links, undecided = chain(study, variant.settings, seed, store)
            longest = chain(study, variant.settings, seed, None)[0] if undecided else links
            name = f"{variant.name}--s{seed}"
            spec = TrialSpec(
                trial=name, arm=variant.name, kind=variant.kind, levels=dict(variant.levels), seed=seed,
                key=_key(name, longest, study.subject.resolve(variant.settings)), settings=dict(variant.settings),
                epochs_planned=len(links), epochs_trained=0, epochs_shared=0,
            )  # fmt: skip
            trials[spec.trial] = PlannedTrial(spec, links, undecided)
    return _with_ownership(trials)


def revise(study: Study, plan: Plan, store: DiskStore, name: str) -> Plan:
    """The plan with an undecided trial's chain looked up again, now that more records are there."""
    trial = plan.trials[name]
    if not trial.undecided:
        return plan
    links, _ = chain(study, trial.spec.settings, trial.spec.seed, store)
    if links == trial.links:
        return plan
    return _with_ownership({**plan.trials, name: replace(trial, links=links)})


def chain(study: Study, settings: Mapping, seed: int, store: DiskStore | None) -> tuple[Sequence[Link], bool]:
    """A trial's links, and whether their number depends on records."""
    asked = False

    def records(key: str) -> Record | None:
        nonlocal asked
        asked = True
        return store.record(key) if store else None

    return study.subject.chain(settings, seed, records), asked


def _key(name: str, links: Sequence[Link], config: Mapping) -> str:
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

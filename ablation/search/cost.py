"""What a search will cost at most, and the study after it, before it is known what is found.

What is not asked for yet has chains of made-up keys: its epochs are shared with no other trial, but
for pre-training where no setting that is looked for can change it. Pruning, and epochs that trials
turn out to share, make it less.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from ablation.grid.load import Study, Variant
from ablation.grid.search import n_before
from ablation.planning.plan import Plan, PlannedTrial, trial_name, with_ownership
from ablation.search.tuning import ArmTuning, Tuning, untuned_twin
from ablation.subject.protocol import Link, LinkLike

Chains = dict[str, Sequence[LinkLike]]


class ArmCost(NamedTuple):
    """One arm's search."""

    # that are looked for
    settings: list[str]
    # in all, at most; None where the budget is one of epochs
    n_trials: int | None
    n_ended: int
    # epochs in all, at most; those that its trials share counted once
    n_most: int
    # of what is left, at most: a chain for each trial that is searched beside others, and seed
    chains: Chains


@dataclass(frozen=True)
class _Longest:
    """A trial of an arm at its longest, under one seed."""

    # pre-training that all trials share; [] where they may not
    shared: list[LinkLike]
    # the others
    own: list[LinkLike]

    def numbered(self, name: str) -> list[LinkLike]:
        """The links that are not shared, with keys of their own."""
        return [Link(f"{name} {link.key}", link.phase, link.epoch, link.cost) for link in self.own]


def arm_costs(tuning: Tuning) -> dict[str, ArmCost]:
    """Arm or baseline -> what its search costs at most."""
    return {name: _cost(name, arm, tuning) for name, arm in tuning.arms.items()}


def _cost(name: str, arm: ArmTuning, tuning: Tuning) -> ArmCost:
    log = arm.log
    longest = {seed: _longest(arm, arm.settings, seed) for seed in tuning.search.seeds}
    n_shared = sum(len(one.shared) for one in longest.values())
    n_of_trial = sum(len(one.own) for one in longest.values())
    n_spent, n_asked = arm.epochs_spent, len(log.trials)
    # what the first trial brings with it
    n_new = 0 if n_asked else n_shared
    limits = [n for n in (tuning.search.trials, arm.n_cells) if n]
    to_ask = [max(n - n_asked, 0) for n in limits]
    if tuning.search.budget:
        n_left = tuning.search.budget - n_spent
        # the last one may begin when a single epoch of the budget is left
        to_ask.append(math.ceil(max(n_left - 1 - n_new, 0) / n_of_trial) + 1 if n_left > 0 else 0)
    n_to_ask, n_slots = min(to_ask), tuning.search.parallel
    chains: Chains = {}
    for seed, one in longest.items():
        for slot in range(n_slots):
            numbers = range(n_asked + slot, n_asked + n_to_ask, n_slots)
            links = [link for n in numbers for link in one.numbered(f"{name} {n}")]
            if links:
                chains[f"{name} {slot} {seed}"] = [*one.shared, *links]
        for number, asked in log.open.items():
            settings = arm.settings_of(asked.values)
            known = arm.study.subject.chain(settings, seed, lambda key: None)
            chains[f"{name} open {number} {seed}"] = known
    most = n_spent + n_to_ask * n_of_trial + n_new * (n_to_ask > 0)
    return ArmCost(list(arm.space), min(limits, default=None), len(log.ended()), most, chains)


def _longest(arm: ArmTuning, settings: Mapping[str, Any], seed: int) -> _Longest:
    """A trial with these settings and anything of the arm's space, at its longest."""
    subject = arm.study.subject
    chain = list(subject.chain(settings, seed, lambda key: None))
    others = []
    for key, domain in arm.space.items():
        for end in domain.ends:
            tried = {**settings, key: end}
            if not subject.check(tried):
                others.append(list(subject.chain(tried, seed, lambda key: None)))
    before = n_before(chain)
    is_shared = all(
        [link.key for link in other[:before]] == [link.key for link in chain[:before]]
        for other in others
    )
    longest = max([chain, *others], key=len)
    n = before if is_shared else 0
    return _Longest(longest[:n], longest[n:])


def study_at_most(tuning: Tuning, plan: Plan) -> tuple[Study, Plan]:
    """The study after its search, if that finds other settings for every arm.

    plan: of the arms with their own settings
    """
    study = tuning.study
    variants: list[Variant] = []
    untuned: list[Variant] = []
    trials: dict[str, PlannedTrial] = {}
    twins: dict[str, PlannedTrial] = {}
    by_arm: dict[str, list[PlannedTrial]] = {}
    for trial in plan.trials.values():
        by_arm.setdefault(trial.spec.arm, []).append(trial)
    for variant in study.variants:
        variants.append(variant)
        arm, twin = tuning.arms.get(variant.name), untuned_twin(variant)
        for trial in by_arm[variant.name]:
            spec = trial.spec
            if arm is None:
                trials[spec.trial] = trial
                continue
            one = _longest(arm, variant.settings, spec.seed)
            links = [*one.shared, *one.numbered(f"{spec.trial} tuned")]
            trials[spec.trial] = PlannedTrial(replace(spec, key=""), links, undecided=False)
            name = trial_name(twin.name, spec.seed)
            own = replace(spec, trial=name, arm=twin.name, kind=twin.kind)
            twins[name] = replace(trial, spec=own)
        if arm is not None:
            untuned.append(twin)
    return replace(study, variants=(*variants, *untuned)), with_ownership({**trials, **twins})

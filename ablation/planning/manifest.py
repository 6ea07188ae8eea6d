"""The manifest of a planned study, as far as it is known without the files that trials read.

p-values and intervals hold for the seeds, looks, claims and levels that were planned before any
result was seen. So a manifest keeps those that a study had then, where it was given others since.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from ablation.formatting import listed
from ablation.grid.load import Study
from ablation.grid.seeds import FEWEST
from ablation.planning.plan import Plan, arm_and_seed
from ablation.storage.cache import DiskStore
from ablation.storage.runs import Claim, FirstPlan, Levels, Manifest, RunFolder


def manifest_of(study: Study, name: str, plan: Plan) -> Manifest:
    """What study.json holds but for published numbers, facts, provenance and configuration."""
    grid, experiment = study.grid, study.experiment
    factors = {
        factor.name: {level.name: dict(level.overrides) for level in factor.levels}
        for factor in grid.factors
    }
    planned = {spec.seed for spec in plan.specs}
    return Manifest(
        study=name,
        experiment=experiment.name,
        title=experiment.title,
        question=grid.question,
        dataset=experiment.dataset,
        design=list(grid.design),
        metric=grid.metric,
        factors=factors,
        # those that any trial has so far, in the order in which they are taken
        seeds=[seed for seed in grid.seeds if seed in planned],
        baselines=list(grid.baselines),
        reference=grid.reference,
        claims=list(grid.claims),
        trials=plan.specs,
        published=[],
        facts={},
        provenance={},
        subject=experiment.subject,
        looks=list(grid.looks),
        decides_effects=grid.decides_effects,
        planned_seeds=list(grid.planned_seeds),
    )


def first_plan(manifest: Manifest, folder: RunFolder) -> FirstPlan | None:
    """What was planned as results were first seen: looks, seeds, claims, levels; None if as now.

    Results are seen once trials of two seeds are complete: of one, there is no p-value over seeds.
    These may be trials that the last run left out. Those that have changed since, by their keys, do
    not count, and if all that are planned now have, there are no results of this study yet.

    manifest: of the study as it is planned now
    folder: of the study as it was run before
    """
    if manifest.search.get("of") or not folder.exists():
        return None
    before = folder.manifest()
    first = before.first_plan or _plan_of(before)
    if not plan_warnings(replace(manifest, first_plan=first)):
        return None
    complete = folder.complete()
    keys = {spec.trial: spec.key for spec in manifest.trials}
    first = replace(first, levels=_seen_levels(first, before, manifest, complete))
    if not plan_warnings(replace(manifest, first_plan=first)):
        return None
    is_same = {name: key in ("", keys[name]) for name, key in complete.items() if name in keys}
    is_another_study = bool(is_same) and not any(is_same.values())
    seeds = {arm_and_seed(name)[1] for name in complete if is_same.get(name, True)}
    is_seen = before.first_plan is not None or len(seeds) >= FEWEST
    return first if is_seen and not is_another_study else None


def _plan_of(manifest: Manifest) -> FirstPlan:
    seeds = manifest.planned_seeds or manifest.seeds
    return FirstPlan(manifest.looks, seeds, manifest.claims, manifest.factors)


def _seen_levels(
    first: FirstPlan, before: Manifest, manifest: Manifest, complete: Mapping[str, str]
) -> Levels:
    """The levels of the first plan, where one that had no results yet is as it is planned now.

    So is one whose trials are the same, by their keys, as before.

    complete: trial -> its key
    """
    keys = {spec.trial: spec.key for spec in manifest.trials}

    def is_replaced(factor: str, level: str) -> bool:
        seen = [
            spec
            for spec in before.trials
            if spec.levels.get(factor) == level and complete.get(spec.trial) in ("", spec.key)
        ]
        is_seen = len({spec.seed for spec in seen}) >= FEWEST
        return is_seen and any(keys.get(spec.trial) != spec.key for spec in seen)

    found: Levels = {}
    for factor, levels in first.levels.items():
        known, now = before.factors.get(factor, {}), manifest.factors.get(factor, {})
        found[factor] = {}
        for level, overrides in levels.items():
            if known.get(level) != overrides or is_replaced(factor, level):
                found[factor][level] = overrides
            elif level in now:
                found[factor][level] = now[level]
    return found


def n_known(plan: Plan, store: DiskStore, folder: RunFolder) -> int:
    """How many trials were complete before the study was first planned: `Manifest.known_trials`.

    Another study may have left them in the cache, or this one, whose manifest was removed since.
    """
    if folder.exists():
        return folder.manifest().known_trials
    complete = folder.complete()
    known = [
        trial.spec
        for name, trial in plan.trials.items()
        if complete.get(name) == trial.spec.key
        or any(store.holds("record", link.key) for link in trial.links[-1:])
    ]
    return len(known) if len({spec.seed for spec in known}) >= FEWEST else 0


def plan_warnings(manifest: Manifest) -> list[str]:
    """Says what of a study's plan was changed after results were seen; [] if nothing was.

    It is to be said wherever p-values or verdicts are.
    """
    found = [changed_seeds(manifest), changed_claims(manifest), changed_levels(manifest)]
    return [text for text in found if text]


def changed_seeds(manifest: Manifest) -> str:
    """Says that a study was given other seeds or looks after results were seen; "" if not."""
    first, now = manifest.first_plan, _plan_of(manifest)
    if first is None or _have_same_seeds(first, now):
        return ""
    told = [_counted(first), _counted(now)]
    if told[0] == told[1]:
        told = [f"seeds {listed([*map(str, plan.seeds)])}" for plan in (first, now)]
    return (
        f"the number of seeds was changed after results were seen (first {told[0]}, now "
        f"{told[1]}), so that false findings are likelier than the 5 % of one plan; with the first "
        "again, its verdicts hold"
    )


def _have_same_seeds(first: FirstPlan, now: FirstPlan) -> bool:
    if first.looks != now.looks:
        return False
    if not first.looks:
        return set(first.seeds) == set(now.seeds)
    # a manifest of an earlier version has the seeds that were due by then
    n = min(len(first.seeds), len(now.seeds))
    return first.seeds[:n] == now.seeds[:n]


def _counted(plan: FirstPlan) -> str:
    """`looks at 3, 5 and 8 seeds`, `3 seeds`."""
    if plan.looks:
        return f"looks at {listed([*map(str, plan.looks)])} seeds"
    n = len(plan.seeds)
    return f"{n} seed{'s' * (n != 1)}"


def changed_claims(manifest: Manifest) -> str:
    """Says which claims were added, removed or changed after results were seen; "" if none was."""
    new, gone = _changes(manifest)
    changed = [name for name in new if name in gone]
    told = [
        f"{what} {listed([f'`{name}`' for name in names])}"
        for what, names in (
            ("added", [name for name in new if name not in changed]),
            ("removed", [name for name in gone if name not in changed]),
            ("changed", changed),
        )
        if names
    ]
    if not told:
        return ""
    said = f"claims were changed after results were seen ({'; '.join(told)})"
    if manifest.claims:
        which = "all claims" if gone else "these"
        said += f", so that verdicts on {which} are post hoc: confirm them on new seeds (with --as)"
    return f"{said}; with the first claims again, the verdicts hold"


def changed_levels(manifest: Manifest) -> str:
    """Says which levels have other settings, or are gone, since results were seen; "" if none."""
    changed, gone = _level_changes(manifest)
    told = [
        f"{what} {listed([f'`{factor}: {level}`' for factor, level in names])}"
        for what, names in (("other settings of", changed), ("removed", gone))
        if names
    ]
    if not told:
        return ""
    return (
        f"levels were changed after results were seen ({'; '.join(told)}), so that false findings "
        "are likelier than the 5 % of one plan: confirm what is found on new seeds (with --as); "
        "with the first levels again, verdicts hold"
    )


def _level_changes(manifest: Manifest) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """(factor, level) of those with other settings than when seen, and of those that are gone."""
    changed, gone = list[tuple[str, str]](), list[tuple[str, str]]()
    first = {} if manifest.first_plan is None else manifest.first_plan.levels
    for factor, levels in first.items():
        now = manifest.factors.get(factor, {})
        for level, overrides in levels.items():
            if level in now and now[level] != overrides:
                changed.append((factor, level))
            # not where it has another name alone
            elif level not in now and overrides not in now.values():
                gone.append((factor, level))
    return changed, gone


def post_hoc_claims(manifest: Manifest) -> set[str]:
    """The ids of claims whose verdicts do not hold as those of the first plan do.

    They are those that test anything new, or levels that have other settings since. Where a test is
    gone, they are all: Holm's correction of the others is weaker than it was to be.
    """
    new, gone = _changes(manifest)
    if gone:
        return {claim["id"] for claim in manifest.claims}
    changed = set(_level_changes(manifest)[0])
    of_arms = {spec.arm: set(spec.levels.items()) for spec in manifest.trials}
    retested = [
        claim["id"] for claim in manifest.claims if changed & _levels_of(claim["contrast"], of_arms)
    ]
    return {*new, *retested}


def _levels_of(
    contrast: Mapping[str, str], of_arms: Mapping[str, set[tuple[str, str]]]
) -> set[tuple[str, str]]:
    """(factor, level) of what a contrast names."""
    if factor := contrast.get("factor"):
        return {(factor, level) for side, level in contrast.items() if side != "factor"}
    return set[tuple[str, str]]().union(*(of_arms.get(arm, ()) for arm in contrast.values()))


class _Test(NamedTuple):
    """What a claim tests, whatever it says."""

    contrast: dict[str, str]
    # metric, direction, within, value; 0 where it has no such number
    expects: list[tuple[str, str, float, float]]


def _changes(manifest: Manifest) -> tuple[list[str], list[str]]:
    """The ids of claims whose tests are new, and of first ones whose tests are gone."""
    if manifest.first_plan is None:
        return [], []
    first, now = map(_tests, (manifest.first_plan.claims, manifest.claims))
    return (
        [name for name, test in now.items() if test not in first.values()],
        [name for name, test in first.items() if test not in now.values()],
    )


def _tests(claims: Sequence[Claim]) -> dict[str, _Test]:
    """Id -> what a claim tests."""
    return {
        claim["id"]: _Test(
            claim["contrast"],
            sorted(
                (one["metric"], one["direction"], one.get("within", 0.0), one.get("value", 0.0))
                for one in claim["expects"]
            ),
        )
        for claim in claims
    }

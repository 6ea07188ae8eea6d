"""What of a study's plan was changed after results were seen.

p-values and intervals hold for the seeds, looks, claims and arms that were planned before any
result was seen. So a manifest keeps those that a study had then, where it was given others since.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from ablation.analysis.contrasts import Contrast, claimed, main_effects
from ablation.formatting import listed
from ablation.grid.load import Study
from ablation.grid.seeds import FEWEST
from ablation.planning.plan import Plan, arm_and_seed, plan_trial
from ablation.storage.cache import DiskStore
from ablation.storage.runs import (
    UNTUNED,
    Claim,
    FirstPlan,
    Manifest,
    Outcome,
    PlannedArm,
    RunFolder,
    TrialSpec,
)

# fact of a manifest: fingerprint of the code
SOURCE = "source_fingerprint"


def first_plan(manifest: Manifest, before: Manifest | None, folder: RunFolder) -> FirstPlan | None:
    """What was planned as results were first seen: looks, seeds, claims, arms; None if as now.

    Results are seen once trials of two seeds are complete: of one, there is no p-value over seeds.
    These may be trials that the last run left out. Those that have changed since, by their keys, do
    not count, and if all that are planned now have, there are no results of this study yet.

    manifest: of the study as it is planned now
    before: as it was run before, in `folder`; None if it was not
    """
    if manifest.search.get("of") or before is None:
        return None
    first = before.first_plan or _plan_of(before)
    if not _changed(replace(manifest, first_plan=first)):
        return None
    complete = folder.complete()
    keys = {spec.trial: spec.key for spec in manifest.trials}
    first = replace(first, arms=_seen_arms(first, before, manifest, complete))
    if not _changed(replace(manifest, first_plan=first)):
        return None
    is_same = {name: key in ("", keys[name]) for name, key in complete.items() if name in keys}
    is_another_study = bool(is_same) and not any(is_same.values())
    seeds = {arm_and_seed(name)[1] for name in complete if is_same.get(name, True)}
    is_seen = before.first_plan is not None or len(seeds) >= FEWEST
    return first if is_seen and not is_another_study else None


def _plan_of(manifest: Manifest) -> FirstPlan:
    return FirstPlan(
        looks=manifest.looks,
        seeds=manifest.planned_seeds or manifest.seeds,
        claims=manifest.claims,
        levels={factor: [*levels] for factor, levels in manifest.factors.items()},
        arms={
            spec.arm: {"levels": spec.levels, "settings": spec.settings}
            for spec in manifest.trials
            if spec.kind != UNTUNED
        },
    )


def _seen_arms(
    first: FirstPlan, before: Manifest, manifest: Manifest, complete: Mapping[str, str]
) -> dict[str, PlannedArm]:
    """The arms of the first plan, where one that had no results yet is as it is planned now.

    So is one whose trials are the same, by their keys, as before.

    complete: trial -> its key
    """
    keys = {spec.trial: spec.key for spec in manifest.trials}
    known, now = _plan_of(before).arms, _plan_of(manifest).arms
    seen: dict[str, list[TrialSpec]] = {}
    for spec in before.trials:
        if complete.get(spec.trial) in ("", spec.key):
            seen.setdefault(spec.arm, []).append(spec)
    found = {}
    for name, arm in first.arms.items():
        specs = seen.get(name, [])
        is_seen = len({spec.seed for spec in specs}) >= FEWEST
        is_replaced = is_seen and any(keys.get(spec.trial) != spec.key for spec in specs)
        if known.get(name) != arm or is_replaced:
            found[name] = arm
        elif name in now:
            found[name] = now[name]
    return found


def n_known(plan: Plan, before: Manifest | None, store: DiskStore, folder: RunFolder) -> int:
    """How many trials were complete before the study was first planned: `Manifest.known_trials`.

    Another study may have left them in the cache, or this one, whose manifest was removed since.

    before: as `first_plan` takes it
    """
    if before is not None:
        return before.known_trials
    complete = folder.complete()
    known = [
        trial.spec
        for name, trial in plan.trials.items()
        if complete.get(name) == trial.spec.key
        or any(store.holds("record", link.key) for link in trial.links[-1:])
    ]
    return len(known) if len({spec.seed for spec in known}) >= FEWEST else 0


def earlier_code(facts: Mapping[str, Any], before: Manifest | None, folder: RunFolder) -> list[str]:
    """Other versions of a study's code whose results were seen: `Manifest.earlier_code`.

    facts: of the study as it is planned now
    before: as `first_plan` takes it
    """
    if before is None or before.search.get("of"):
        return []
    found, last = list(before.earlier_code), str(before.facts.get(SOURCE, ""))
    # only then are all outcomes read
    if last not in ("", facts.get(SOURCE), *found):
        complete = folder.complete()
        seen = {spec.seed for spec in before.trials if complete.get(spec.trial) == spec.key}
        found += [last] if len(seen) >= FEWEST else []
    return [one for one in found if one != facts.get(SOURCE)]


def other_trials(manifest: Manifest, folder: RunFolder) -> dict[str, Outcome]:
    """Trial -> how it ended, of the study's arms under seeds that it does not have now."""
    arms, found = {spec.arm for spec in manifest.trials}, {}
    for path in sorted(folder.path.glob("*/outcome.json")):
        name = path.parent.name
        arm, seed = arm_and_seed(name)
        if arm in arms and seed not in (None, *manifest.seeds):
            outcome = folder.outcome(name)
            if outcome is not None:
                found[name] = outcome
    return found


def left_out(manifest: Manifest, study: Study, store: DiskStore, folder: RunFolder) -> list[int]:
    """The planned seeds whose trials have ended, as they would now, and that are left out.

    manifest: of the study as it is planned now
    """
    planned = set(manifest.planned_seeds) - set(manifest.seeds)
    if manifest.looks or manifest.search.get("of") or not planned:
        return []
    variants, found = {variant.name: variant for variant in study.variants}, set[int]()
    for name, outcome in other_trials(manifest, folder).items():
        arm, seed = arm_and_seed(name)
        if seed is not None and seed in planned - found:
            variant = variants[arm]
            config = study.subject.resolve(variant.settings)
            again = plan_trial(study.subject, variant, name, seed, store, folder, config)
            if outcome.key in ("", again.spec.key):
                found.add(seed)
    return sorted(found)


def plan_warnings(manifest: Manifest) -> list[str]:
    """Says what of a study's plan was changed after results were seen, or is left out of it.

    It is to be said wherever p-values or verdicts are; [] if there is nothing to say.
    """
    return [*_changed(manifest), *filter(None, [partial_seeds(manifest)])]


def _changed(manifest: Manifest) -> list[str]:
    found = [changed_seeds(manifest), changed_claims(manifest), changed_effects(manifest)]
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


def partial_seeds(manifest: Manifest) -> str:
    """Says that verdicts are of some of a fixed number of seeds; "" if of all, or of one seed."""
    n, planned = len(manifest.seeds), manifest.planned_seeds
    if manifest.looks or n < FEWEST or not set(manifest.seeds) < set(planned):
        return ""
    said = f"{n} of {len(planned)} planned seeds are counted"
    if manifest.left_out:
        seeds = listed([*map(str, manifest.left_out)])
        many = "s" * (len(manifest.left_out) > 1)
        said += f", and results that are known are left out (seed{many} {seeds})"
        said += ", so that verdicts on all claims are post hoc" if manifest.claims else ""
    return f"{said}: p-values and verdicts hold with all planned seeds"


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
    first, now = ({claim["id"]: claim for claim in plan.claims} for plan in _plans(manifest))
    # the claim is as it was
    is_same = {
        name: first[name]["contrast"] == now[name]["contrast"]
        and _expected(first[name]) == _expected(now[name])
        for name in changed
    }
    told = _named(
        ("added", [name for name in new if name not in changed]),
        ("removed", [name for name in gone if name not in changed]),
        ("changed", [name for name in changed if not is_same[name]]),
        ("other arms for", [name for name in changed if is_same[name]]),
    )
    if not told:
        return ""
    said = f"claims were changed after results were seen ({told})"
    if manifest.claims:
        which = "all claims" if gone else "these"
        said += f", so that verdicts on {which} are post hoc: confirm them on new seeds (with --as)"
    return f"{said}; with the first claims again, the verdicts hold"


def changed_effects(manifest: Manifest) -> str:
    """Says which effects are gone, or are of other arms, since results were seen; "" if none."""
    if manifest.first_plan is None:
        return ""
    first, now = map(_effects, _plans(manifest))
    gone = [name for name, arms in first.items() if arms not in now.values()]
    told = _named(
        ("other arms for", [name for name in gone if name in now]),
        ("removed", [name for name in gone if name not in now]),
    )
    if not told:
        return ""
    return (
        f"effects were changed after results were seen ({told}), so that false findings are "
        "likelier than the 5 % of one plan: confirm what is found on new seeds (with --as); with "
        "the first arms again, verdicts hold"
    )


def _named(*groups: tuple[str, Sequence[str]]) -> str:
    """`added `a`; removed `b` and `c``: of each group that has any names."""
    return "; ".join(
        f"{what} {listed([f'`{name}`' for name in names])}" for what, names in groups if names
    )


def post_hoc_claims(manifest: Manifest) -> set[str]:
    """The ids of claims whose verdicts do not hold as those of the first plan do.

    They are those that test anything new. Where a test is gone, they are all: Holm's correction of
    the others is weaker than it was to be. So they are where seeds that have results are left out.
    """
    new, gone = _changes(manifest)
    if gone or (manifest.left_out and partial_seeds(manifest)):
        return {claim["id"] for claim in manifest.claims}
    return set(new)


class _Test(NamedTuple):
    """What a claim tests, whatever it says and its arms are called."""

    # the settings, as text, of the arms that are taken together: pairs, or one side of a mean
    compared: list[tuple[str, ...]]
    # metric, direction, within, value; 0 where it has no such number
    expects: list[tuple[str, str, float, float]]


def _plans(manifest: Manifest) -> tuple[FirstPlan, FirstPlan]:
    """The first plan and that of now; the same where nothing has changed."""
    now = _plan_of(manifest)
    first = manifest.first_plan or now
    # an earlier version did not note the arms
    return first if first.arms else replace(first, arms=now.arms, levels=now.levels), now


def _changes(manifest: Manifest) -> tuple[list[str], list[str]]:
    """The ids of claims whose tests are new, and of first ones whose tests are gone."""
    if manifest.first_plan is None:
        return [], []
    first, now = map(_tests, _plans(manifest))
    return (
        [name for name, test in now.items() if test not in first.values()],
        [name for name, test in first.items() if test not in now.values()],
    )


def _tests(plan: FirstPlan) -> dict[str, _Test]:
    """Id -> what a claim tests."""
    return {
        claim["id"]: _Test(
            _compared(plan, claimed(_levels(plan), claim["contrast"])), _expected(claim)
        )
        for claim in plan.claims
    }


def _expected(claim: Claim) -> list[tuple[str, str, float, float]]:
    return sorted(
        (one["metric"], one["direction"], one.get("within", 0.0), one.get("value", 0.0))
        for one in claim["expects"]
    )


def _effects(plan: FirstPlan) -> dict[str, list[tuple[str, ...]]]:
    """Main effect -> the arms that it compares."""
    return {one.name: _compared(plan, one) for one in main_effects(_levels(plan), plan.levels)}


def _levels(plan: FirstPlan) -> dict[str, dict[str, str]]:
    return {name: arm["levels"] for name, arm in plan.arms.items()}


def _compared(plan: FirstPlan, contrast: Contrast) -> list[tuple[str, ...]]:
    """The settings of the arms that a contrast takes together, as text."""
    texts = {name: json.dumps(arm["settings"], sort_keys=True) for name, arm in plan.arms.items()}
    # an arm that is gone is known by its name
    return sorted(tuple(texts.get(name, name) for name in cells) for cells in contrast.replicas)

"""The manifest of a planned study, as far as it is known without the files that trials read.

p-values and intervals hold for the seeds and looks that were planned before any result was seen. So
a manifest keeps those that a study had then, where it has been given others since.
"""

from __future__ import annotations

from ablation.formatting import listed
from ablation.grid.load import Study
from ablation.grid.seeds import FEWEST
from ablation.planning.plan import Plan
from ablation.storage.runs import Manifest, RunFolder


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


def first_seeds(manifest: Manifest, folder: RunFolder) -> dict[str, list[int]]:
    """The looks and seeds that were planned as results were first seen; {} if it has these now.

    Results are seen once trials of two seeds are complete: of one, there is no p-value over seeds.
    If all of them have changed since, by their keys, there are none of this study yet.

    manifest: of the study as it is planned now
    folder: of the study as it was run before
    """
    if manifest.search.get("of") or not folder.exists():
        return {}
    before = folder.manifest()
    first = before.first_seeds or _plan_of_seeds(before)
    if _are_planned(first, manifest):
        return {}
    complete = [
        spec
        for spec in before.trials
        if folder.state(spec, folder.outcome(spec.trial)) == "COMPLETE"
    ]
    keys = {spec.trial: spec.key for spec in manifest.trials}
    kept = [keys[spec.trial] == spec.key for spec in complete if spec.trial in keys]
    is_another_study = bool(kept) and not any(kept)
    is_seen = bool(before.first_seeds) or len({spec.seed for spec in complete}) >= FEWEST
    return first if is_seen and not is_another_study else {}


def _are_planned(first: dict[str, list[int]], manifest: Manifest) -> bool:
    """Whether these looks and seeds are those of the manifest."""
    (looks, seeds), now = (first["looks"], first["seeds"]), _plan_of_seeds(manifest)
    if looks != now["looks"]:
        return False
    if not looks:
        return set(seeds) == set(now["seeds"])
    # a manifest of an earlier version has the seeds that were due by then
    n = min(len(seeds), len(now["seeds"]))
    return seeds[:n] == now["seeds"][:n]


def _plan_of_seeds(manifest: Manifest) -> dict[str, list[int]]:
    return {"looks": manifest.looks, "seeds": manifest.planned_seeds or manifest.seeds}


def changed_seeds(manifest: Manifest) -> str:
    """Says that a study was given other seeds or looks after results were seen; "" if not."""
    if not manifest.first_seeds:
        return ""
    each = [manifest.first_seeds, _plan_of_seeds(manifest)]
    first, now = map(_counted, each)
    if first == now:
        first, now = (f"seeds {listed([*map(str, one['seeds'])])}" for one in each)
    return (
        f"the number of seeds was changed after results were seen (first {first}, now {now}), so "
        "that false findings are likelier than the 5 % of one plan; with the first again, its "
        "verdicts hold"
    )


def _counted(planned: dict[str, list[int]]) -> str:
    """`looks at 3, 5 and 8 seeds`, `3 seeds`."""
    if planned["looks"]:
        return f"looks at {listed([*map(str, planned['looks'])])} seeds"
    n = len(planned["seeds"])
    return f"{n} seed{'s' * (n != 1)}"

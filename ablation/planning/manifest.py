"""The manifest of a planned study, as far as it is known without the files that trials read."""

from __future__ import annotations

from ablation.grid.load import Study
from ablation.planning.plan import Plan
from ablation.storage.runs import Manifest


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

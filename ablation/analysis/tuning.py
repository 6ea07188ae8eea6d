"""What tuning gained: tuned arms against the same arms with their own settings, which run beside.

An arm's untuned twin has trials of the kind `untuned`. Twins are no arms of the design: effects,
rankings and claims are of the tuned arms. `as_untuned` gives the results as if nothing had been
tuned, so that all that judges the one judges the other, too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ablation.analysis.claims import judge_claims, judged_intervals
from ablation.analysis.effects import judge, over_images
from ablation.analysis.results import OVER, Results
from ablation.analysis.statistics import Estimate, contrast
from ablation.storage.runs import UNTUNED, Metric

# of claims.csv where arms were tuned: the same expectation, judged on the untuned arms
UNTUNED_COLUMNS = {
    f"{UNTUNED}_{name}": name
    for name in (
        *("estimate", "low", "high", "p_holm", "n_seeds", "verdict", "claim_verdict"),
        *("low_holm", "high_holm"),
    )
}


def twins(results: Results) -> dict[str, str]:
    """Arm or baseline -> the name of its untuned twin, of those that have one."""
    names = dict.fromkeys(spec.arm for spec in results.manifest.trials if spec.kind == UNTUNED)
    return {name.removesuffix(f".{UNTUNED}"): name for name in names}


def as_untuned(results: Results) -> Results:
    """The results with every arm that has an untuned twin replaced by it."""
    twin_of = twins(results)
    specs = results.manifest.trials
    kinds = {spec.arm: spec.kind for spec in specs}
    untuned = {(spec.arm, spec.seed): spec for spec in specs if spec.kind == UNTUNED}
    trials = []
    for spec in specs:
        if spec.arm in twin_of:
            own = untuned.get((twin_of[spec.arm], spec.seed))
            if own is not None:
                trials.append(replace(own, arm=spec.arm, kind=spec.kind))
        elif spec.kind != UNTUNED:
            trials.append(spec)

    def renamed(table: pd.DataFrame) -> pd.DataFrame:
        arm_of = {name: arm for arm, name in twin_of.items()}
        left = table[~table["arm"].isin(twin_of)]
        arms = left["arm"].map(lambda name: arm_of.get(name, name))
        return left.assign(arm=arms)

    rows = renamed(results.trials)
    return replace(
        results,
        manifest=replace(results.manifest, trials=trials),
        trials=rows.assign(kind=rows["arm"].map(kinds)),
        history=renamed(results.history),
        per_class=renamed(results.per_class),
    )


def beside_untuned(claims: pd.DataFrame, results: Results) -> pd.DataFrame:
    """The claims with `UNTUNED_COLUMNS`: each judged on the untuned arms, too.

    claims: from `judge_claims`
    """
    untuned = as_untuned(results)
    found = judge_claims(untuned, judge(untuned))
    found = found.assign(**judged_intervals(found))
    told = [*UNTUNED_COLUMNS.items(), (f"{UNTUNED}_{OVER}", OVER)]
    return claims.assign(**{column: found[name] for column, name in told if name in found})


class Tuned(NamedTuple):
    """What the search found for one arm or baseline, and what that gained."""

    arm: str
    # of `Manifest.search`
    found: Mapping[str, Any]
    # "" where its own settings are the best, or no trial was completed
    twin: str
    # of the search's metric, best minus own settings; NaN where one of them is not known
    on_validation: float
    # of the primary metric, tuned minus untuned; of no seed where there is no twin
    on_test: Estimate

    @property
    def is_own_best(self) -> bool:
        """Whether no settings were found that are better than its own."""
        return self.found["best"] is not None and self.found["best"] == self.found["own"]


def tuned_arms(results: Results) -> list[Tuned]:
    """A row per arm and baseline that was searched, in the study's order."""
    searched, twin_of = results.manifest.search.get("arms", {}), twins(results)
    return [
        Tuned(
            arm,
            searched[arm],
            twin_of.get(arm, ""),
            _difference(searched[arm]["value"], searched[arm]["own_value"]),
            _on_test(results, arm, twin_of.get(arm)),
        )
        for arm in [*results.arms, *results.baselines]
        if arm in searched
    ]


def unrewarded(results: Results) -> Iterator[Tuned]:
    """Those that tuning made better by the search's metric, and not by the primary metric."""
    on_validation = _sign(results.manifest.search["metric"])
    on_test = _sign(results.manifest.metric)
    for one in tuned_arms(results):
        found = one.on_test
        # without an interval, the sign alone is known
        is_separable = not math.isfinite(found.low) or found.low * found.high > 0
        is_gain = found.mean * on_test > 0 and is_separable
        if one.on_validation * on_validation > 0 and found.n and not is_gain:
            yield one


def _sign(metric: Metric) -> int:
    return -1 if metric["goal"] == "minimize" else 1


def _difference(value: float | None, own: float | None) -> float:
    return math.nan if value is None or own is None else value - own


def _on_test(results: Results, arm: str, twin: str | None) -> Estimate:
    """Tuned minus untuned over the study's seeds; of one seed, over test images where known."""
    metric, names = results.primary, [arm, twin or arm]
    finished = results.trials[results.trials["state"] == "COMPLETE"]
    values = finished.pivot(index="seed", columns="arm", values=metric)
    cells = values.reindex(index=results.manifest.seeds, columns=names).astype(float)
    signs = np.array([1.0, -1.0])
    if twin is None:
        return contrast(cells.iloc[:0], signs)
    return over_images(results, metric, names, [signs], [contrast(cells, signs)])[0]

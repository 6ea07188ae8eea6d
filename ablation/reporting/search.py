"""What a report says of the search of a study's arms: how it was made, what it found and gained.

Numbers are those of `Manifest.search` (see `ablation.search.tuning.search_found`) and of
`ablation.analysis.tuning`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from ablation.analysis.claims import numbers_told
from ablation.analysis.results import OVER, Results
from ablation.analysis.tuning import UNTUNED_COLUMNS, Tuned, tuned_arms, twins, unrewarded
from ablation.formatting import (
    MISSING,
    column_decimals,
    effect,
    is_percent,
    label,
    over_seeds,
    points,
    span,
    spread,
    table,
    value,
)
from ablation.storage.asked import COMPLETE, FAILED, PRUNED
from ablation.storage.runs import UNTUNED, of_one_link
from ablation.subject.loading import BUILT_IN

SAMPLERS = {
    "tpe": "Optuna's TPE sampler",
    "gp": "Optuna's Gaussian-process sampler",
    "random": "random sampling",
    "grid": "a grid in random order",
}
PRUNERS = {
    "hyperband": "hyperband",
    "successive-halving": "successive halving",
    "median": "the median rule",
}
OWN_BEST = "own settings were best"
# fewer complete trials of an arm than this say little of importances
FEW_TRIALS = 30


def told(results: Results) -> dict[str, Any]:
    """The values of the template `search.j2`. The study was tuned."""
    search = results.manifest.search
    metric = search["metric"]
    complete = [one["counts"][COMPLETE] for one in search["arms"].values()]
    names = [*results.arms, *results.baselines]
    own = [name for name in names if name in search["arms"]]
    others = [f"`{name}`" for name in names if name not in search["arms"]]
    outside = [f"`{name}`" for name in own if search["arms"][name]["own"] is None]
    is_built_in = results.manifest.subject in BUILT_IN
    return {
        "search": search,
        # arms whose own settings were not tried first
        "outside": outside,
        "is_built_in": is_built_in,
        "counts_epochs": not of_one_link(results.manifest.trials),
        "is_unseen": is_built_in
        and metric["name"] != results.primary
        and "test" not in results.manifest.facts.get("drawn_per_seed", []),
        "primary": label(results.primary),
        "budget": f"{search['trials']} trials"
        if search["trials"]
        else f"{search['budget']} epochs",
        "sampler": SAMPLERS[search["sampler"]],
        "pruner": PRUNERS.get(search["pruner"], ""),
        "metric": label(metric["name"]),
        "is_lower_better": metric["goal"] == "minimize",
        "settings": _settings(search["settings"]),
        "n_searched": len(own),
        "others": others,
        "search_table": search_table(results),
        "importances_table": importances_table(results),
        "few": span(complete) if min(complete, default=0) < FEW_TRIALS else "",
        "unrewarded": [_gains(one, results) for one in unrewarded(results)],
        "unpruned": [f"`{one}`" for one in own if search["arms"][one].get("n_measured", 1) == 0],
        "unfinished": [f"`{one.arm}`" for one in tuned_arms(results) if one.found["best"] is None],
    }


def search_table(results: Results) -> str:
    """A row per arm and baseline that was searched: what that took, found and gained."""
    name = results.manifest.search["metric"]["name"]
    primary = label(results.primary)
    counts_epochs = not of_one_link(results.manifest.trials)
    header = [
        "arm",
        "complete / pruned / failed",
        *(["epochs"] if counts_epochs else []),
        "best settings",
        f"{label(name)}, own -> best",
        f"{primary}, untuned -> tuned",
        f"difference{points(results.primary) and ', points'} [95 %]",
    ]
    rows = []
    for one in tuned_arms(results):
        found, counts = one.found, one.found["counts"]
        rows.append(
            [
                f"`{one.arm}`",
                " / ".join(str(counts[state]) for state in (COMPLETE, PRUNED, FAILED)),
                *([str(found["epochs"])] if counts_epochs else []),
                "no trial was completed" if found["best"] is None else _settings(found["best"]),
                f"{_number(found['own_value'], name)} -> {_number(found['value'], name)}",
                _on_test(one, results),
                _difference(one),
            ]
        )
    return table(header, rows, f"lr{'r' * counts_epochs}lrrr")


def importances_table(results: Results) -> str:
    """A row per arm: the share of each setting; "" where none is known."""
    searched = [one for one in tuned_arms(results) if one.found["importances"]]
    settings = list(dict.fromkeys(key for one in searched for key in one.found["space"]))
    rows = [
        [
            f"`{one.arm}`",
            *(
                f"{100 * one.found['importances'][key]:.0f} %"
                if key in one.found["importances"]
                else MISSING
                for key in settings
            ),
        ]
        for one in searched
    ]
    return table(["arm", *(f"`{key}`" for key in settings)], rows, "l" + "r" * len(settings))


def untuned_means(results: Results) -> dict[str, str]:
    """Arm or baseline -> mean of the primary metric without tuning, for the table of accuracies."""
    twin_of = twins(results)
    own_best = {one.arm for one in tuned_arms(results) if one.is_own_best}
    found = {}
    finished = {arm: results.complete(twin)[results.primary] for arm, twin in twin_of.items()}
    places = column_decimals(map(spread, finished.values()))
    for arm in [*results.arms, *results.baselines]:
        if arm in twin_of:
            found[arm] = over_seeds(finished[arm], show_sd=False, places=places) or MISSING
            if 0 < len(finished[arm]) < len(results.complete(arm)):
                # of a study that adds seeds to its tuned arms
                found[arm] += f" ({len(finished[arm])} seeds)"
        else:
            found[arm] = "the same" if arm in own_best else MISSING
    return found


def untuned_claims(claims: pd.DataFrame) -> dict[str, str]:
    """Claim -> what the same contrasts say of the untuned arms.

    claims: from `ablation.analysis.tuning.beside_untuned`; {} where these columns are not there
    """
    if "untuned_verdict" not in claims:
        return {}
    told = {}
    # the rows with their numbers of the untuned arms
    untuned = claims.assign(**{name: claims[own] for own, name in UNTUNED_COLUMNS.items()})
    untuned["level_by_level"] = ""
    untuned[OVER] = claims.get(f"{UNTUNED}_{OVER}", "")
    for name, rows in untuned.groupby("claim", sort=False):
        verdict = rows.iloc[0]["claim_verdict"]
        own = claims.loc[rows.index]
        # twins get the seeds of the first look alone, with which less is decided
        has_same_seeds = (own["n_seeds"] == rows["n_seeds"]).all()
        differs = verdict != own["claim_verdict"].iloc[0] and has_same_seeds
        if not has_same_seeds:
            verdict += f" after {span(rows['n_seeds'])} seeds (tuned: {span(own['n_seeds'])})"
        each = "; ".join(
            f"{label(row.metric)} {numbers_told(row)}" + f": {row.verdict}" * (len(rows) > 1)
            for row in rows.itertuples()
        )
        told[str(name)] = f"{f'**{verdict}**' if differs else verdict}; {each}"
    return told


def _on_test(one: Tuned, results: Results) -> str:
    """`61.2 -> 64.0`, means over the seeds that both have, so that they can be compared."""
    tuned = results.complete(one.arm)
    if not one.twin:
        return over_seeds(tuned[results.primary], show_sd=False) or MISSING
    untuned = results.complete(one.twin)
    both = set(tuned["seed"]) & set(untuned["seed"])
    if both:
        tuned, untuned = (each[each["seed"].isin(both)] for each in (tuned, untuned))
    means = [over_seeds(each[results.primary], show_sd=False) for each in (untuned, tuned)]
    return " -> ".join(mean or MISSING for mean in means)


def _difference(one: Tuned) -> str:
    """Of the primary metric, bold where the interval excludes 0; or why there is none."""
    if one.is_own_best:
        return OWN_BEST
    text = effect(*one.on_test[:3])
    return f"**{text}**" if one.on_test.n > 1 and one.on_test.low * one.on_test.high > 0 else text


def _gains(one: Tuned, results: Results) -> str:
    """What tuning did to one arm, on both metrics."""
    name = results.manifest.search["metric"]["name"]
    validation = effect(one.on_validation, math.nan, math.nan)
    test = effect(*one.on_test[:3])
    return (
        f"`{one.arm}` ({label(name)} {validation}{points(name)}, "
        f"{label(results.primary)} {test}{points(results.primary)})"
    )


def _number(metric: float | None, name: str) -> str:
    """One value of a metric: one decimal of percent, else three digits."""
    if metric is None:
        return MISSING
    return f"{metric:.1f}" if is_percent(name) else value(metric, math.nan)


def _settings(values: Mapping[str, Any]) -> str:
    """``optim.lr.encoder: 0.0057`` and so on; numbers with three digits."""
    return ", ".join(f"`{key}: {_short(one)}`" for key, one in values.items())


def _short(setting: Any) -> str:
    if isinstance(setting, bool) or setting is None:
        return {True: "true", False: "false", None: "null"}[setting]
    return f"{setting:.3g}" if isinstance(setting, float) else str(setting)

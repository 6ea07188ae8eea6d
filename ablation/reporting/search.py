"""What a report says of the search of a study's arms: how it was made, what it found and gained.

Numbers are those of `Manifest.search` (see `ablation.search.tuning.search_found`) and of
`ablation.analysis.tuning`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ablation.analysis.results import Results
from ablation.analysis.tuning import Tuned, tuned_arms, twins, unrewarded
from ablation.formatting import (
    MISSING,
    column_decimals,
    compared_p,
    effect,
    is_percent,
    label,
    mean_of,
    over_seeds,
    points,
    span,
    spread,
    table,
    value,
)
from ablation.reporting.figure_style import (
    GREY,
    INK,
    axis_label,
    colours,
    legend_of,
    panels,
    style,
    wrapped,
)
from ablation.storage.asked import COMPLETE, FAILED, PRUNED

SAMPLERS = {
    "tpe": "Optuna's TPE sampler",
    "gp": "Optuna's Gaussian-process sampler",
    "random": "random sampling",
    "grid": "a full grid",
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
    own = [f"`{name}`" for name in [*results.arms, *results.baselines] if name in search["arms"]]
    others = [
        f"`{name}`" for name in [*results.arms, *results.baselines] if name not in search["arms"]
    ]
    return {
        "search": search,
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
        "unfinished": [f"`{one.arm}`" for one in tuned_arms(results) if one.found["best"] is None],
    }


def search_table(results: Results) -> str:
    """A row per arm and baseline that was searched: what that took, found and gained."""
    name = results.manifest.search["metric"]["name"]
    primary = label(results.primary)
    header = [
        "arm",
        "complete / pruned / failed",
        "epochs",
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
                str(found["epochs"]),
                "no trial was completed" if found["best"] is None else _settings(found["best"]),
                f"{_number(found['own_value'], name)} -> {_number(found['value'], name)}",
                _on_test(one, results),
                _difference(one),
            ]
        )
    return table(header, rows, "lrrlrrr")


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
    for name, rows in claims.groupby("claim", sort=False):
        verdict = rows.iloc[0]["untuned_claim_verdict"]
        differs = verdict != rows.iloc[0]["claim_verdict"]
        each = "; ".join(
            f"{label(row.metric)} {_untuned(row)}" + f": {row.untuned_verdict}" * (len(rows) > 1)
            for row in rows.itertuples()
        )
        told[str(name)] = f"{f'**{verdict}**' if differs else verdict}; {each}"
    return told


def _untuned(row: Any) -> str:
    """The numbers of one expectation on the untuned arms."""
    if not row.untuned_n_seeds:
        return "not measured"
    numbers = (row.untuned_estimate, row.untuned_low_holm, row.untuned_high_holm)
    is_mean = row.direction.startswith(("above", "below"))
    unit = (" %" if is_percent(row.metric) else "") if is_mean else points(row.metric)
    size = f"{(mean_of if is_mean else effect)(*numbers)}{unit}"
    told = []
    if not math.isnan(row.untuned_p_holm):
        told.append(f"interval and p {compared_p(row.untuned_p_holm)} after Holm's correction")
    if row.untuned_n_seeds < row.n_seeds:
        told.append(f"{int(row.untuned_n_seeds)} seeds")
    return f"{size} ({', '.join(told)})" if told else size


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


N_COLUMNS = 4
# the most arms that the figure shows
MAX_ARMS = 16
# times the distance from the median to the best trial
REACH = 5


def search_figure(results: Results) -> Figure | None:
    """The search's metric of each trial by its number, a panel per arm.

    Trials that ended early stand at the last value that they reported. The best so far is a line,
    the arm's own settings are a dashed one. Of more arms than MAX_ARMS, those with the best trials
    are shown.
    """
    search = results.manifest.search
    arms = _shown(results)
    if not arms:
        return None
    goal, name = search["metric"]["goal"], search["metric"]["name"]
    colour = colours(list(results.arms))
    worst = _worst([search["arms"][arm] for arm in arms], goal)
    with style():
        size = (2.9, 2.3) if len(arms) > 2 else (4.2, 2.8)
        figure, grid = panels(len(arms), N_COLUMNS, size, 5, 0.8, sharex=True, sharey=True)
        for position, (arm, axes) in enumerate(zip(arms, grid, strict=True)):
            _draw(axes, search["arms"][arm], goal, worst, colour.get(arm, INK))
            axes.set_title(wrapped(arm), fontweight="bold", size=10)
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            if position + N_COLUMNS >= len(arms):
                axes.set_xlabel("trial")
                axes.tick_params(labelbottom=True)
        # of all panels: a long name has no room beside one of them
        figure.supylabel(axis_label(name), size="medium")
        legend_of(figure, grid, "outside lower center", 4 if figure.get_figwidth() > 8 else 2)
    return figure


def _shown(results: Results) -> list[str]:
    """The arms and baselines of the figure, in the study's order."""
    search = results.manifest.search
    sign = -1 if search["metric"]["goal"] == "minimize" else 1
    arms = [one.arm for one in tuned_arms(results) if one.found["value"] is not None]
    best = sorted(arms, key=lambda arm: -sign * search["arms"][arm]["value"])[:MAX_ARMS]
    return [arm for arm in arms if arm in best]


def _worst(found: Sequence[Mapping[str, Any]], goal: str) -> float:
    """The worst value that stands at its place: one trial that broke down would hide the others.

    Counted from the median, `REACH` times as far as the best one. found: of each arm that is shown
    """
    values = np.array([last for one in found for *_, last in one["trials"] if last is not None])
    best = values.min() if goal == "minimize" else values.max()
    middle = np.median(values)
    if best == middle:
        return math.inf if goal == "minimize" else -math.inf
    return float(middle - REACH * (best - middle))


def _draw(axes: Axes, found: Mapping[str, Any], goal: str, worst: float, colour: str) -> None:
    """One arm's trials. found: as in `Manifest.search`; worst: from `_worst`"""
    sign = -1 if goal == "minimize" else 1
    looks: dict[str, dict[str, Any]] = {
        COMPLETE: {"marker": "o", "mew": 0, "alpha": 0.75, "color": colour, "zorder": 3},
        "early": {"marker": "x", "mew": 1.3, "color": GREY, "zorder": 1},
        "beyond": {"marker": "^" if goal == "minimize" else "v", "mew": 1.3, "color": GREY},
    }
    looks["beyond"] |= {"mfc": "white", "zorder": 1}
    points_of: dict[str, list[tuple[int, float]]] = {look: [] for look in looks}
    for number, state, _, last in found["trials"]:
        if last is None:
            continue
        look = COMPLETE if state == COMPLETE else "early"
        is_beyond = sign * last < sign * worst
        points_of["beyond" if is_beyond else look].append((number, worst if is_beyond else last))
    complete = {number: last for number, state, _, last in found["trials"] if state == COMPLETE}
    best = (
        pd.Series(complete)
        .agg("cummin" if goal == "minimize" else "cummax")
        .clip(**{"upper" if goal == "minimize" else "lower": worst})
    )
    end = max(number for number, *_ in found["trials"])
    steps = [*best.index, end], [*best, best.iloc[-1]]
    axes.step(*steps, where="post", color=colour, lw=1.8, zorder=2)
    axes.plot([], [], color=INK, lw=1.8, label="best so far")
    axes.plot([], [], "o", ms=5, mew=0, color=INK, label="complete trial")
    labels = {"early": "ended early, at its last value", "beyond": "beyond the axis"}
    for look, places in points_of.items():
        if places:
            numbers, values = zip(*places, strict=True)
            axes.plot(numbers, values, ls="", ms=5, label=labels.get(look), **looks[look])
    if found["own_value"] is not None and sign * found["own_value"] >= sign * worst:
        axes.axhline(found["own_value"], color=INK, lw=1.1, ls="--", label="own settings", zorder=1)

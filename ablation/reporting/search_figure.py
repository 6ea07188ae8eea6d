"""The figure of a search: the trials of each arm, one by one."""

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
from ablation.analysis.tuning import tuned_arms
from ablation.reporting.curves import arm_panels
from ablation.reporting.figure_style import GREY, INK, axis_label, colours, legend_of, style
from ablation.storage.asked import COMPLETE

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
        figure, grid = arm_panels(arms, "trial", size=size)
        for arm, axes in grid.items():
            _draw(axes, search["arms"][arm], goal, worst, colour.get(arm, INK))
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        # of all panels: a long name has no room beside one of them
        figure.supylabel(axis_label(name), size="medium")
        legend_of(
            figure, grid.values(), "outside lower center", 4 if figure.get_figwidth() > 8 else 2
        )
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
    grey: dict[str, Any] = {"mew": 1.3, "color": GREY, "zorder": 1}
    looks: dict[str, dict[str, Any]] = {
        COMPLETE: {"marker": "o", "mew": 0, "alpha": 0.75, "color": colour, "zorder": 3},
        "early": {"marker": "x", **grey},
        "beyond": {"marker": "v" if sign > 0 else "^", "mfc": "white", **grey},
    }
    points_of: dict[str, list[tuple[int, float]]] = {look: [] for look in looks}
    for number, state, _, last in found["trials"]:
        if last is None:
            continue
        look = COMPLETE if state == COMPLETE else "early"
        is_beyond = sign * last < sign * worst
        points_of["beyond" if is_beyond else look].append((number, worst if is_beyond else last))
    complete = {number: last for number, state, _, last in found["trials"] if state == COMPLETE}
    best = sign * (sign * pd.Series(complete)).cummax().clip(lower=sign * worst)
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

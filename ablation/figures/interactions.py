"""Interaction plots: a panel per pair of factors, a line per level of the second."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ablation.combinations import Pair
from ablation.figures.style import DASHES, MARKERS, PALETTE, axis_label, style
from ablation.formatting import effect

SHIFT = 0.05  # between lines, of the distance between two levels, so that intervals stay apart
TITLE = 30  # characters that a line above a panel holds


def interactions(pairs: Sequence[Pair], effects: pd.DataFrame, metric: str) -> Figure | None:
    """Mean and 95 % interval over seeds of each combination of two factors' levels.

    Args:
        pairs: from `ablation.combinations.pairs`
        effects: from `ablation.effects.judge`; the interaction stands above its panel
    """
    if not pairs:
        return None
    found = effects[effects["metric"] == metric].set_index("effect")
    n_columns = min(3, len(pairs))
    n_rows = math.ceil(len(pairs) / n_columns)
    with style():
        figure = Figure(figsize=(max(3.7 * n_columns, 4.5), 3.6 * n_rows), layout="constrained")
        grid = figure.subplots(n_rows, n_columns, sharey=True, squeeze=False).ravel()
        for axes, pair in zip(grid, pairs):
            _draw(axes, pair)
            sizes = [
                effect(*found.loc[name, ["estimate", "low", "high"]]) for name in pair.interactions
            ]
            names = [(" x " if len("".join(pair.factors)) < TITLE else "\nx ").join(pair.factors)]
            axes.set_title(
                "\n".join(names + ([f"interaction {sizes[0]}"] if len(sizes) == 1 else []))
            )
        for axes in grid[::n_columns]:
            axes.set_ylabel(axis_label(metric))
        for axes in grid[len(pairs) :]:
            axes.set_axis_off()
    return figure


def _draw(axes: Axes, pair: Pair) -> None:
    first, second = pair.factors
    levels = [list(dict.fromkeys(levels[side] for levels in pair.means)) for side in (0, 1)]
    for index, level in enumerate(levels[1]):
        shift = SHIFT * (index - (len(levels[1]) - 1) / 2)
        found = [pair.means[x, level] for x in levels[0]]
        places = [x + shift for x in range(len(found))]
        look = {
            "color": PALETTE[index % len(PALETTE)],
            "marker": MARKERS[index % len(MARKERS)],
            "ls": DASHES[index % len(DASHES)],
        }
        axes.plot(
            places,
            [one.mean for one in found],
            lw=1.8,
            ms=8,
            mec="white",
            label=f"{second}={level}",
            zorder=3,
            **look,
        )
        for x, one in zip(places, found):
            axes.plot(
                [x, x], [one.low, one.high], color=look["color"], lw=1.6, zorder=2
            )  # NaN draws nothing
    axes.set_xticks(range(len(levels[0])), levels[0])
    axes.set_xlim(-0.35, len(levels[0]) - 0.65)
    axes.set_xlabel(first)
    axes.legend(loc="best", fontsize=9)

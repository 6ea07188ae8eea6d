"""Interaction plots: a panel per pair of factors, a line per level of the second."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ablation.analysis.effects import FactorPair
from ablation.formatting import effect
from ablation.reporting.figures.style import DASHES, MARKERS, PALETTE, axis_label, panels, style

SHIFT = 0.05  # between lines, of the distance between two levels, so that intervals stay apart
TITLE = 30  # characters that a line above a panel holds


def interactions(pairs: Sequence[FactorPair], effects: pd.DataFrame, metric: str) -> Figure | None:
    """Mean and 95 % interval over seeds of each combination of two factors' levels.

    Args:
        pairs: from `ablation.analysis.effects.factor_pairs`
        effects: from `ablation.analysis.effects.judge`; the interaction stands above its panel
    """
    if not pairs:
        return None
    found = effects[effects["metric"] == metric].set_index("effect")
    with style():
        figure, grid = panels(len(pairs), 3, (3.7, 3.6), 4.5, sharey=True)
        for axes, pair in zip(grid, pairs):
            _draw(axes, pair)
            between = " x " if len("".join(pair.factors)) < TITLE else "\nx "
            title = between.join(pair.factors)
            if len(pair.interactions) == 1:
                row = found.loc[pair.interactions[0]]
                title += f"\ninteraction {effect(row['estimate'], row['low'], row['high'])}"
            axes.set_title(title)
        for axes in grid[::3]:
            axes.set_ylabel(axis_label(metric))
    return figure


def _draw(axes: Axes, pair: FactorPair) -> None:
    first, second = pair.factors
    levels = [list(dict.fromkeys(levels[side] for levels in pair.means)) for side in (0, 1)]
    for index, level in enumerate(levels[1]):
        shift = SHIFT * (index - (len(levels[1]) - 1) / 2)
        found = [pair.means[x, level] for x in levels[0]]
        places = [x + shift for x in range(len(found))]
        colour = PALETTE[index % len(PALETTE)]
        axes.plot(
            places,
            [one.mean for one in found],
            lw=1.8,
            ms=8,
            mec="white",
            label=f"{second}={level}",
            zorder=3,
            color=colour,
            marker=MARKERS[index % len(MARKERS)],
            ls=DASHES[index % len(DASHES)],
        )
        for x, one in zip(places, found):
            # NaN draws nothing
            axes.plot([x, x], [one.low, one.high], color=colour, lw=1.6, zorder=2)
    axes.set_xticks(range(len(levels[0])), levels[0])
    axes.set_xlim(-0.35, len(levels[0]) - 0.65)
    axes.set_xlabel(first)
    axes.legend(loc="best", fontsize=9)

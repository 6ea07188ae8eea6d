"""Two sides beside each other: what each measured, and the difference with its interval."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ablation.analysis.compare import Comparison
from ablation.errors import InputError, Problem
from ablation.formatting import is_percent
from ablation.reporting.figures.style import (
    CONTEXT,
    GREY,
    INK,
    PALETTE,
    draw_interval,
    label_rows,
    legend_of,
    of_points,
    save_as,
    style,
)

SUFFIXES = (".png", ".svg")
OFFSET = 0.16  # of a row, between left and right


def draw_comparison(found: Comparison, file: Path) -> None:
    """Write the figure to `file`, PNG or SVG by its name."""
    if file.suffix not in SUFFIXES:
        raise InputError([Problem("", "--figure", f"{file} must end in {' or '.join(SUFFIXES)}")])
    save_as(comparison_figure(found), file)


def comparison_figure(found: Comparison) -> Figure:
    """A row per metric or arm, of those in the headline's unit: left a dot per seed and a bar at the mean, right the difference."""
    first = found.rows[0].metric
    rows = [row for row in found.rows if is_percent(row.metric) == is_percent(first)]
    is_on_run = any(row.found.is_on_run for row in rows)
    over = "over test images, of this one training run" if is_on_run else "filled: separable from 0"
    with style():
        figure = Figure(figsize=(10.5, 1.7 + 0.55 * len(rows)), layout="constrained")
        values, differences = figure.subplots(1, 2, sharey=True, width_ratios=[1.3, 1])
        for y, row in enumerate(rows):
            _draw_side(values, y - OFFSET, row.left, PALETTE[0], "o", found.left)
            _draw_side(values, y + OFFSET, row.right, PALETTE[1], "s", found.right)
            look = {"marker": "o", "ms": 8, "color": INK}
            draw_interval(differences, y, row.found[:3], look, row.found.is_separable)
        names = [row.what.replace("`", "").replace(", ", "\n", 1) for row in rows]
        label_rows(values, dict(enumerate(names)))
        unit = "percent" if is_percent(first) else first
        values.set_xlabel(f"{unit}:\na dot per seed, a bar at the mean")
        differences.axvline(0, color=GREY, lw=1, zorder=0)
        differences.set_xlabel(f"difference{of_points(first)}, 95 % interval;\n{over}")
        for axes in (values, differences):
            axes.tick_params(axis="y", length=0)
            axes.xaxis.set_major_locator(MaxNLocator(5))
            axes.grid(axis="y", color=CONTEXT, lw=0.6)
        legend_of(figure, [values], "outside upper center", 2)
    return figure


def _draw_side(
    axes: Axes, y: float, values: pd.Series, colour: str, marker: str, name: str
) -> None:
    axes.plot(values, [y] * len(values), marker, ms=7, alpha=0.55, mew=0, color=colour, label=name)
    axes.plot(values.mean(), y, "|", ms=14, mew=2.5, color=colour)

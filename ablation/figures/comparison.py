"""Two sides beside each other: what each measured, and the difference with its interval."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ablation.compare import Comparison, Row
from ablation.compare_text import is_on_run, is_separable
from ablation.errors import InputError, Problem
from ablation.figures.style import CONTEXT, GREY, INK, PALETTE, save_as, style
from ablation.formatting import effect, is_percent, points

SUFFIXES = (".png", ".svg")
OFFSET = 0.16  # of a row, between left and right


def draw_comparison(found: Comparison, file: Path) -> None:
    """Write the figure to `file`, PNG or SVG by its name."""
    if file.suffix not in SUFFIXES:
        raise InputError([Problem("", "--figure", f"{file} must end in {' or '.join(SUFFIXES)}")])
    save_as(comparison_figure(found), file)


def comparison_figure(found: Comparison) -> Figure:
    """A row per metric or arm, of those in the headline's unit: left a dot per seed and a bar at the mean, right the difference."""
    rows = [row for row in found.rows if is_percent(row.metric) == is_percent(found.rows[0].metric)]
    with style():
        figure = Figure(figsize=(10.5, 1.7 + 0.55 * len(rows)), layout="constrained")
        values, differences = figure.subplots(1, 2, sharey=True, width_ratios=[1.3, 1])
        for y, row in enumerate(rows):
            _draw_side(values, y - OFFSET, row.left, PALETTE[0], "o", found.left)
            _draw_side(values, y + OFFSET, row.right, PALETTE[1], "s", found.right)
            _draw_difference(differences, y, row)
        values.set_yticks(
            range(len(rows)), [row.what.replace("`", "").replace(", ", "\n", 1) for row in rows]
        )
        values.set_ylim(len(rows) - 0.5, -0.5)
        values.set_xlabel(
            f"{'percent' if is_percent(rows[0].metric) else rows[0].metric}:\na dot per seed, a bar at the mean"
        )
        differences.axvline(0, color=GREY, lw=1, zorder=0)
        unit = points(rows[0].metric).strip()
        differences.set_xlabel(
            f"difference{f' ({unit})' if unit else ''}, 95 % interval;\n{_filled(rows)}"
        )
        for axes in (values, differences):
            axes.tick_params(axis="y", length=0)
            axes.xaxis.set_major_locator(MaxNLocator(5))
            axes.grid(axis="y", color=CONTEXT, lw=0.6)
        handles, names = values.get_legend_handles_labels()
        shown = dict(zip(names, handles))
        figure.legend(shown.values(), shown.keys(), loc="outside upper center", ncols=2)
    return figure


def _filled(rows: list[Row]) -> str:
    """What the intervals and their points say."""
    return (
        "over test images, of this one training run"
        if any(is_on_run(row.found) for row in rows)
        else "filled: separable from 0"
    )


def _draw_side(
    axes: Axes, y: float, values: pd.Series, colour: str, marker: str, name: str
) -> None:
    axes.plot(values, [y] * len(values), marker, ms=7, alpha=0.55, mew=0, color=colour, label=name)
    axes.plot(values.mean(), y, "|", ms=14, mew=2.5, color=colour)


def _draw_difference(axes: Axes, y: float, row: Row) -> None:
    if math.isfinite(row.found.low):
        axes.plot(
            [row.found.low, row.found.high], [y, y], "-", color=INK, lw=2, solid_capstyle="butt"
        )
    axes.plot(
        row.found.mean,
        y,
        "o",
        ms=8,
        color=INK,
        mfc=INK if is_separable(row.found) else "white",
        mew=2,
    )
    axes.annotate(
        effect(*row.found[:3]),
        (1.02, y),
        xycoords=("axes fraction", "data"),
        va="center",
        family="DejaVu Sans Mono",
        size=10,
    )

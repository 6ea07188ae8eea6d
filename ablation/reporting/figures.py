"""The figures of a report, and those of a study at a glance: accuracy by arm, effects of the fixes.

They draw numbers that are already there; no statistics are computed here.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ablation.analysis.effects import HIGHER, LOWER, FactorPair, factor_pairs
from ablation.analysis.factors import judged_intervals
from ablation.analysis.results import Results
from ablation.errors import InputError, Problem
from ablation.formatting import column_decimals, effect, is_percent, label, over_seeds, spread
from ablation.reporting.curves import learning_curves, mechanism, per_class
from ablation.reporting.figure_style import (
    CONTEXT,
    DASHES,
    GREY,
    INK,
    MARKERS,
    PALETTE,
    axis_label,
    colours,
    draw_interval,
    label_rows,
    legend_of,
    of_points,
    panels,
    save,
    save_as,
    style,
    write_beside,
    write_intervals,
)
from ablation.reporting.ranges import effects_zoom, published_of, zoom
from ablation.reporting.search_figure import search_figure

if TYPE_CHECKING:
    from ablation.analysis.compare import Comparison


def draw(results: Results, effects: pd.DataFrame, destination: Path) -> list[str]:
    """Draw every figure that the study has data for, as `<name>.png` and `<name>.svg`.

    Files of figures that can no longer be drawn are removed from `destination`.

    Args:
        effects: from `ablation.analysis.effects.judge`

    Returns:
        the names drawn, in the order of the report
    """
    primary = judged_intervals(results, effects[effects["metric"] == results.primary])
    figures = {
        "accuracy": accuracy(results),
        "effects": effects_figure(primary, results.primary),
        "interactions": interactions(
            list(factor_pairs(results, results.primary)), primary, results.primary
        ),
        "learning_curves": learning_curves(results),
        "mechanism": mechanism(results),
        "per_class": per_class(results),
        "search": search_figure(results) if results.manifest.search else None,
    }
    for name, figure in figures.items():
        save(figure, destination / name)
    return [name for name, figure in figures.items() if figure is not None]


# between arms, baselines and published numbers, as a share of a row's height
GAP = 0.6
LOOKS: dict[str, dict[str, Any]] = {
    "main": {"marker": "o", "ms": 9, "color": INK},
    "interaction": {"marker": "D", "ms": 8, "color": "#117733"},
}


def accuracy(results: Results) -> Figure | None:
    """A dot per seed and a bar at the mean, per arm and baseline.

    Published numbers stand below; the reference is a vertical line. Where `zoom` gives a range, a
    second panel shows it.
    """
    cells = results.cells(results.primary).dropna(axis="columns", how="all")
    if cells.empty:
        return None
    zoomed = zoom(results)
    published = published_of(results)
    with style():
        height = 1.5 + 0.36 * (cells.shape[1] + len(published))
        figure = Figure(figsize=(10.5 if zoomed else 10, height), layout="constrained")
        first = figure.add_subplot(1, 2 if zoomed else 1, 1)
        axes = _draw_accuracy(first, results, cells)
        if zoomed:
            whole, axes = axes, _draw_accuracy(figure.add_subplot(1, 2, 2), results, cells)
            whole.set_xlabel(f"{axis_label(results.primary)}, the whole range")
            axes.set_xlim(*zoomed)
            axes.set_yticklabels([])
            for name, y in _places(results, cells).items():
                mean = cells[name].mean()
                if not zoomed[0] < mean < zoomed[1]:
                    side = 0.0 if mean < zoomed[0] else 1.0
                    _point_outside(axes, side, y, colours(list(results.arms)).get(name, INK))
        n_decimals = column_decimals(spread(cells[name]) for name in cells)
        for name, y in _places(results, cells).items():
            write_beside(axes, y, over_seeds(cells[name], places=n_decimals))
        below = _below(results, cells)
        for y, entry in enumerate(published):
            write_beside(axes, below + y, f"{entry['top1']:.2f}")
        start = "enlarged" if zoomed else axis_label(results.primary)
        axes.set_xlabel(f"{start}: a dot per seed, a bar at the mean")
        legend_of(figure, [axes], "outside lower center", 1)
    return figure


def _places(results: Results, cells: pd.DataFrame) -> dict[str, float]:
    """Arm or baseline -> the height of its row."""
    return {
        name: index + GAP * (name not in results.arms) for index, name in enumerate(cells.columns)
    }


def _below(results: Results, cells: pd.DataFrame) -> float:
    """The height of the first published number's row."""
    return max(_places(results, cells).values()) + 1 + GAP


def _draw_accuracy(axes: Axes, results: Results, cells: pd.DataFrame) -> Axes:
    """The rows of `accuracy` on some axes. cells: (seeds, arms and baselines that have any)"""
    colour, reference = colours(list(results.arms)), results.manifest.reference
    places, published = _places(results, cells), published_of(results)
    names = {y: name for name, y in places.items()}
    below = _below(results, cells)
    diamond: dict[str, Any] = {
        "marker": "D",
        "ls": "",
        "ms": 6,
        "color": GREY,
        "mfc": "white",
        "mew": 1.6,
    }
    for name, y in places.items():
        dots = cells[name].dropna()
        own = colour.get(name, GREY)
        axes.plot(dots, [y] * len(dots), "o", ms=7, alpha=0.55, mew=0, color=own)
        axes.plot(dots.mean(), y, "|", ms=17, mew=3, color=colour.get(name, INK))
    for y, entry in enumerate(published):
        axes.plot(entry["top1"], below + y, **diamond)
        names[below + y] = f"published {entry['method']}"
    if reference in cells:
        mean, name = cells[reference].mean(), f"measured {reference}"
        axes.axvline(mean, color=INK, lw=1.2, zorder=0, label=name)
    if published:
        axes.plot([], [], **diamond, label=_protocols(published))
    label_rows(axes, names)
    axes.grid(axis="y", color=CONTEXT, lw=0.6)
    return axes


def _point_outside(axes: Axes, side: float, y: float, colour: str) -> None:
    """Mark a row whose values lie outside of the axes, at their left (0) or right (1) end."""
    marker = "<" if side == 0 else ">"
    transform = axes.get_yaxis_transform()
    # within the axes, so that it hides no number beside them
    axes.plot(
        0.015 + 0.97 * side, y, marker, ms=7, color=colour, transform=transform, clip_on=False
    )


def _protocols(published: list[dict[str, Any]]) -> str:
    """The legend's text: the protocols that published numbers were obtained by."""
    protocols = dict.fromkeys(entry.get("protocol", "protocol unknown") for entry in published)
    return textwrap.fill(f"published: {', or '.join(protocols)}", 100)


def effects_figure(effects: pd.DataFrame, metric: str) -> Figure | None:
    """Point and interval per main effect (round) and interaction (diamond).

    Filled where it is separable from 0.

    effects: with the intervals of `ablation.analysis.factors.judged_intervals`
    """
    rows = effects[(effects["metric"] == metric) & effects["kind"].isin(LOOKS)]
    rows = rows[rows["estimate"].notna()]
    if rows.empty:
        return None
    zoomed = effects_zoom(rows)
    name = f"effect on {label(metric)}{of_points(metric)}"
    with style():
        height = 1.1 + 0.42 * (len(rows) + 0.7)
        figure = Figure(figsize=(10.5 if zoomed else 10, height), layout="constrained")
        axes = _draw_effects(figure.add_subplot(1, 2 if zoomed else 1, 1), rows)
        if zoomed:
            whole, axes = axes, _draw_effects(figure.add_subplot(1, 2, 2), rows)
            whole.set_xlabel(f"{name},\nthe whole range")
            axes.set_xlim(*zoomed)
            axes.set_yticklabels([])
            for y, row in zip(_heights(rows), rows.itertuples(), strict=True):
                if not zoomed[0] < row.estimate < zoomed[1]:
                    side = 0.0 if row.estimate < zoomed[0] else 1.0
                    _point_outside(axes, side, y, LOOKS[row.kind]["color"])
        write_intervals(axes, _heights(rows), _triples(rows))
        told = _intervals(rows)
        axes.set_xlabel(f"enlarged{told.replace('; ', ';' + chr(10))}" if zoomed else name + told)
    return figure


def _draw_effects(axes: Axes, rows: pd.DataFrame) -> Axes:
    """The rows of `effects_figure` on some axes."""
    places, names = _heights(rows), dict(zip(_heights(rows), rows["effect"], strict=True))
    axes.axvline(0, color=GREY, lw=1)
    for y, row, interval in zip(places, rows.itertuples(), _triples(rows), strict=True):
        draw_interval(axes, y, interval, LOOKS[row.kind], row.verdict in (HIGHER, LOWER))
    label_rows(axes, names)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    return axes


def _heights(rows: pd.DataFrame) -> list[float]:
    """Main effects, then interactions."""
    n_main = int((rows["kind"] == "main").sum())
    return [position + 0.7 * (position >= n_main) for position in range(len(rows))]


def _triples(rows: pd.DataFrame) -> list[tuple[float, float, float]]:
    """Estimate, low and high of each."""
    return list(zip(rows["estimate"], rows["low"], rows["high"], strict=True))


def _intervals(rows: pd.DataFrame) -> str:
    """What the intervals of effects are, for the axis."""
    if rows["low"].isna().all():
        return "; no interval can be given"
    if (rows["n_seeds"] == 1).all():
        together = " (together)" * (len(rows) > 1)
        return f", 95 % interval{together} over test images, of this one training run"
    corrected = rows["p_holm"].count() > 1
    interval = "interval at Holm's level" if corrected else "95 % interval"
    return f", {interval}; filled: separable from 0"


# between lines, as a share of the distance between two levels, so that intervals stay apart
SHIFT = 0.05
# how many characters a line above a panel holds
TITLE = 30


def interactions(pairs: Sequence[FactorPair], effects: pd.DataFrame, metric: str) -> Figure | None:
    """Mean and 95 % interval over seeds of each combination of two factors' levels.

    Args:
        pairs: from `ablation.analysis.effects.factor_pairs`
        effects: as for `effects_figure`; the interaction stands above its panel
    """
    if not pairs:
        return None
    found = effects[effects["metric"] == metric].set_index("effect")
    with style():
        figure, grid = panels(len(pairs), 3, (3.7, 3.6), 4.5, sharey=True)
        for axes, pair in zip(grid, pairs, strict=True):
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
        for x, one in zip(places, found, strict=True):
            # NaN draws nothing
            axes.plot([x, x], [one.low, one.high], color=colour, lw=1.6, zorder=2)
    axes.set_xticks(range(len(levels[0])), levels[0])
    axes.set_xlim(-0.35, len(levels[0]) - 0.65)
    axes.set_xlabel(first)
    axes.legend(loc="best", fontsize=9)


SUFFIXES = (".png", ".svg")
# of left and right from the middle of a row, as a share of its height
OFFSET = 0.16


def draw_comparison(found: Comparison, file: Path) -> None:
    """Write the figure to `file`, PNG or SVG by its name."""
    if file.suffix not in SUFFIXES:
        raise InputError([Problem("", "--figure", f"{file} must end in {' or '.join(SUFFIXES)}")])
    save_as(comparison_figure(found), file)


def comparison_figure(found: Comparison) -> Figure:
    """A row per metric or arm, of those in the primary metric's unit.

    On the left a dot per seed and a bar at the mean, on the right the difference.
    """
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
        write_intervals(differences, range(len(rows)), [row.found[:3] for row in rows])
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

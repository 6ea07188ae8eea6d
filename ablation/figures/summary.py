"""A study at a glance: accuracy by arm, and the effect of each fix."""

from __future__ import annotations

import math
import textwrap

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ablation.effects import HIGHER, LOWER
from ablation.figures.style import CONTEXT, GREY, INK, axis_label, colours, style
from ablation.formatting import effect, label, points, value
from ablation.results import Results

GAP = 0.6  # of a row, between arms, baselines and published numbers


def accuracy(results: Results) -> Figure | None:
    """A dot per seed and a bar at the mean, per arm and baseline; published numbers below, the reference as a line."""
    cells = results.cells(results.headline).dropna(axis="columns", how="all")
    if cells.empty:
        return None
    colour, reference = colours(list(results.arms)), results.manifest.reference
    places = {name: index + GAP * (name not in colour) for index, name in enumerate(cells.columns)}
    published = results.manifest.published if results.headline == "test/top1" else []
    below = max(places.values()) + 1 + GAP
    with style():
        figure = Figure(
            figsize=(10, 1.5 + 0.36 * (len(places) + len(published))), layout="constrained"
        )
        axes = figure.add_subplot()
        for name, y in places.items():
            dots = cells[name].dropna()
            axes.plot(
                dots, [y] * len(dots), "o", ms=7, alpha=0.55, mew=0, color=colour.get(name, GREY)
            )
            axes.plot(dots.mean(), y, "|", ms=17, mew=3, color=colour.get(name, INK))
            _write_beside(axes, y, value(dots.mean(), dots.std()))
        for n, entry in enumerate(published):
            axes.plot(entry["top1"], below + n, "D", ms=6, color=GREY, mfc="white", mew=1.6)
            _write_beside(axes, below + n, f"{entry['top1']:.2f}")
        if reference in cells:
            axes.axvline(
                cells[reference].mean(), color=INK, lw=1.2, zorder=0, label=f"measured {reference}"
            )
        if published:
            axes.plot(
                [], [], "D", ms=6, color=GREY, mfc="white", mew=1.6, label=_protocols(published)
            )
        names = [f"published {entry['method']}" for entry in published]
        axes.set_yticks(
            [*places.values(), *(below + n for n in range(len(published)))], [*places, *names]
        )
        axes.set_ylim(
            (below + len(published) - 1 if published else max(places.values())) + 0.6, -0.6
        )
        axes.grid(axis="y", color=CONTEXT, lw=0.6)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel(f"{axis_label(results.headline)}: a dot per seed, a bar at the mean")
        if axes.get_legend_handles_labels()[0]:
            figure.legend(loc="outside lower center")
    return figure


def _write_beside(axes: Axes, y: float, text: str) -> None:
    """To the right of the axes, at a height in the data's unit."""
    axes.annotate(
        text,
        (1.01, y),
        xycoords=("axes fraction", "data"),
        va="center",
        family="DejaVu Sans Mono",
        size=10,
    )


def _protocols(published: list[dict]) -> str:
    """The legend's text: the protocols that published numbers were obtained by."""
    protocols = list(
        dict.fromkeys(entry.get("protocol", "protocol unknown") for entry in published)
    )
    return textwrap.fill(f"published: {', or '.join(protocols)}", 100)


def effects_figure(effects: pd.DataFrame, metric: str) -> Figure | None:
    """Point and 95 % interval per main effect (round) and interaction (diamond); filled where separable from 0."""
    rows = effects[(effects["metric"] == metric) & effects["kind"].isin(["main", "interaction"])]
    rows = rows[rows["estimate"].notna()]
    if rows.empty:
        return None
    n_main = (rows["kind"] == "main").sum()
    places = [position + (0.7 if position >= n_main else 0) for position in range(len(rows))]
    with style():
        figure = Figure(figsize=(10, 1.1 + 0.42 * (len(rows) + 0.7)), layout="constrained")
        axes = figure.add_subplot()
        axes.axvline(0, color=GREY, lw=1)
        for y, row in zip(places, rows.itertuples()):
            colour = INK if row.kind == "main" else "#117733"
            separable = row.verdict in (HIGHER, LOWER)
            if math.isfinite(row.low):
                axes.plot(
                    [row.low, row.high], [y, y], "-", color=colour, lw=2, solid_capstyle="butt"
                )
            marker, size = ("o", 9) if row.kind == "main" else ("D", 8)
            axes.plot(
                row.estimate,
                y,
                marker,
                ms=size,
                color=colour,
                mfc=colour if separable else "white",
                mew=2,
            )
            _write_beside(axes, y, effect(row.estimate, row.low, row.high))
        axes.set_yticks(places, rows["effect"])
        axes.set_ylim(places[-1] + 0.6, -0.6)
        axes.tick_params(axis="y", length=0)
        unit = points(metric).strip()
        axes.set_xlabel(
            f"effect on {label(metric)}{f' ({unit})' if unit else ''}{_intervals(rows)}"
        )
    return figure


def _intervals(rows: pd.DataFrame) -> str:
    """What the intervals of effects are, for the axis."""
    if rows["low"].isna().all():
        return "; no interval can be given"
    if (rows["n_seeds"] == 1).all():
        return ", 95 % interval over test images, of this one training run"
    return ", 95 % interval; filled: separable from 0"

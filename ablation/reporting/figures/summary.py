"""A study at a glance: accuracy by arm, and the effect of each fix."""

from __future__ import annotations

import textwrap
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from ablation.analysis.effects import HIGHER, LOWER
from ablation.analysis.results import Results
from ablation.formatting import label, over_seeds
from ablation.reporting.figures.style import (
    CONTEXT,
    GREY,
    INK,
    axis_label,
    colours,
    draw_interval,
    label_rows,
    of_points,
    style,
    write_beside,
)

GAP = 0.6  # of a row, between arms, baselines and published numbers
LOOKS: dict[str, dict[str, Any]] = {
    "main": {"marker": "o", "ms": 9, "color": INK},
    "interaction": {"marker": "D", "ms": 8, "color": "#117733"},
}


def accuracy(results: Results) -> Figure | None:
    """A dot per seed and a bar at the mean, per arm and baseline; published numbers below, the reference as a line."""
    cells = results.cells(results.headline).dropna(axis="columns", how="all")
    if cells.empty:
        return None
    colour, reference = colours(list(results.arms)), results.manifest.reference
    places = {name: index + GAP * (name not in colour) for index, name in enumerate(cells.columns)}
    published = results.manifest.published if results.headline == "test/top1" else []
    below = max(places.values()) + 1 + GAP
    names = {y: name for name, y in places.items()}
    diamond = {"marker": "D", "ls": "", "ms": 6, "color": GREY, "mfc": "white", "mew": 1.6}
    with style():
        height = 1.5 + 0.36 * (len(places) + len(published))
        figure = Figure(figsize=(10, height), layout="constrained")
        axes = figure.add_subplot()
        for name, y in places.items():
            dots = cells[name].dropna()
            look = {"ms": 7, "alpha": 0.55, "mew": 0, "color": colour.get(name, GREY)}
            axes.plot(dots, [y] * len(dots), "o", **look)
            axes.plot(dots.mean(), y, "|", ms=17, mew=3, color=colour.get(name, INK))
            write_beside(axes, y, over_seeds(dots))
        for y, entry in enumerate(published):
            axes.plot(entry["top1"], below + y, **diamond)
            write_beside(axes, below + y, f"{entry['top1']:.2f}")
            names[below + y] = f"published {entry['method']}"
        if reference in cells:
            mean, name = cells[reference].mean(), f"measured {reference}"
            axes.axvline(mean, color=INK, lw=1.2, zorder=0, label=name)
        if published:
            axes.plot([], [], **diamond, label=_protocols(published))
        label_rows(axes, names)
        axes.grid(axis="y", color=CONTEXT, lw=0.6)
        axes.set_xlabel(f"{axis_label(results.headline)}: a dot per seed, a bar at the mean")
        if axes.get_legend_handles_labels()[0]:
            figure.legend(loc="outside lower center")
    return figure


def _protocols(published: list[dict[str, Any]]) -> str:
    """The legend's text: the protocols that published numbers were obtained by."""
    protocols = dict.fromkeys(entry.get("protocol", "protocol unknown") for entry in published)
    return textwrap.fill(f"published: {', or '.join(protocols)}", 100)


def effects_figure(effects: pd.DataFrame, metric: str) -> Figure | None:
    """Point and 95 % interval per main effect (round) and interaction (diamond); filled where separable from 0."""
    rows = effects[(effects["metric"] == metric) & effects["kind"].isin(LOOKS)]
    rows = rows[rows["estimate"].notna()]
    if rows.empty:
        return None
    n_main = (rows["kind"] == "main").sum()
    places = [position + 0.7 * (position >= n_main) for position in range(len(rows))]
    with style():
        figure = Figure(figsize=(10, 1.1 + 0.42 * (len(rows) + 0.7)), layout="constrained")
        axes = figure.add_subplot()
        axes.axvline(0, color=GREY, lw=1)
        for y, row in zip(places, rows.itertuples()):
            interval, is_separable = (
                (row.estimate, row.low, row.high),
                row.verdict in (HIGHER, LOWER),
            )
            draw_interval(axes, y, interval, LOOKS[row.kind], is_separable)
        label_rows(axes, dict(zip(places, rows["effect"])))
        axes.set_xlabel(f"effect on {label(metric)}{of_points(metric)}{_intervals(rows)}")
    return figure


def _intervals(rows: pd.DataFrame) -> str:
    """What the intervals of effects are, for the axis."""
    if rows["low"].isna().all():
        return "; no interval can be given"
    if (rows["n_seeds"] == 1).all():
        return ", 95 % interval over test images, of this one training run"
    return ", 95 % interval; filled: separable from 0"
